"""``saeforge submit``: one command per job type, its flags derived from the type's schema."""

import enum
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import typer
import yaml
from pydantic import ValidationError

from orchestrator.cli.console import ExitCode, command, emit, err, find_job, out
from orchestrator.cli.following import follow_log
from orchestrator.client import Client
from orchestrator.config_file import applies_when, from_yaml
from orchestrator.domain import Resources, RetryPolicy
from orchestrator.errors import InvalidInput
from orchestrator.views import JobDetail
from worker_image.contract.jobs import JOB_TYPES, JobType

_PARAMETERS = "Parameters"
_RESOURCES = "Resources"
ON_FAILURE: Final = "Once it is not tried again: end as failed, or pause with its state kept until it is resumed."
_SCALARS: dict[str, type] = {"integer": int, "number": float, "string": str, "boolean": bool}


def add_to(app: typer.Typer) -> None:
    """Register ``submit`` with one command for each job type."""
    submit = typer.Typer(no_args_is_help=True, help="Queue a job; prints its id.")
    for name, job_type in JOB_TYPES.items():
        described = (job_type.__doc__ or "").split("\n", 1)[0]
        function = _submission(name, job_type)
        # Words after the program of a container are its own, not flags of ours.
        settings = {"allow_interspersed_args": False} if _positional(job_type) else {}
        submit.command(name, help=described, context_settings=settings)(function)
        if (dashed := name.replace("_", "-")) != name:
            submit.command(dashed, hidden=True, help=described, context_settings=settings)(function)
    app.add_typer(submit, name="submit")


def _submission(name: str, job_type: type[JobType]) -> Callable[..., None]:
    @command
    def submit(**given: Any) -> ExitCode:
        asked = {field: given[field] for field in Resources.model_fields if given[field] not in (None, [])}
        with Client() as client:
            job = client.submit(
                name,
                with_whole_ids(client, job_type, parameters(job_type, given)),
                name=given["name"],
                owner=given["owner"],
                priority=given["priority"],
                tags=given["tag"] or [],
                resources=_resources(asked),
                retry=RetryPolicy(max_retries=given["retries"], on_failure=given["on_failure"]),
                secrets=given["secret"] or [],
            )
            return _announce(client, job, follow=given["follow"], as_json=given["json"])

    flags = [*_parameter_flags(job_type), *_common_flags(), *_resource_flags()]
    # Typer reads a command's flags off its signature.
    submit.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
    submit.__annotations__ = {flag.name: flag.annotation for flag in flags}
    return submit


def _announce(client: Client, job: JobDetail, *, follow: bool, as_json: bool) -> ExitCode:
    if as_json:
        emit(job)
    else:
        # While following, standard output is the log alone.
        (err if follow else out).print(str(job.id), soft_wrap=True)
    return follow_log(client, str(job.id), as_json=as_json) if follow else ExitCode.OK


def parameters(job_type: type[JobType], given: dict[str, Any]) -> dict[str, Any]:
    """Parameters from a file, then ``-p`` pairs, then flags: the later wins. Only what was given is sent.

    Raises:
        InvalidInput: the file or a pair cannot be read.
    """
    merged: dict[str, Any] = mapping_from_file(given["params"]) if given["params"] else {}
    merged |= dict(pair(text) for text in given["param"] or [])
    for name, schema in _properties(job_type):
        value = given[name]
        if value is None or value == []:
            continue
        if _is_map(schema):
            value = dict((_env_pair if _holds_text(schema) else pair)(text) for text in value)
        merged[name] = value.value if isinstance(value, enum.Enum) else value
    if merged.get("type", job_type.model_fields["type"].default) != job_type.model_fields["type"].default:
        raise InvalidInput(f"the parameters are of type {merged['type']!r}", field="type")
    merged.pop("type", None)
    return merged


def with_whole_ids(client: Client, job_type: type[JobType], params: dict[str, Any]) -> dict[str, Any]:
    """The parameters with the whole id in ``job:3f2a``, which other commands would understand as well.

    Raises:
        NotFound, InvalidInput: no job begins so, or several do.
    """
    whole = dict(params)
    for field, kind in job_type.references().items():
        value = whole.get(field)
        if kind == "sae" and isinstance(value, str) and value.startswith("job:"):
            start, slash, folder = value.removeprefix("job:").partition("/")
            whole[field] = f"job:{UUID(find_job(client, start))}{slash}{folder}"
    return whole


def _resources(asked: dict[str, Any]) -> Resources:
    try:
        return Resources(**asked)
    except ValidationError as error:
        first = error.errors()[0]
        said = first["msg"].removeprefix("Value error, ")
        # What several fields are at odds about names the one to change itself.
        field = str(first["loc"][0]) if first["loc"] else said.partition(":")[0]
        raise InvalidInput(said if not first["loc"] else f"{field}: {said}", field=f"resources.{field}") from None


def _properties(job_type: type[JobType]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Field name and JSON schema of every parameter, nullable ones as what they are when set."""
    for name, schema in job_type.model_json_schema()["properties"].items():
        if name == "type":
            continue
        set_to = [option for option in schema.get("anyOf", []) if option.get("type") != "null"]
        yield name, {**schema, **(set_to[0] if set_to else {})}


def _is_map(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "object"


def _holds_text(schema: dict[str, Any]) -> bool:
    """Whether the values of a map are plain text; otherwise they are written as JSON."""
    return bool(schema.get("additionalProperties", {}).get("type") == "string")


def _is_positional(schema: dict[str, Any], required: bool) -> bool:
    """A list that cannot be left out is what the command is about; any other is a flag given several times."""
    return required and schema.get("type") == "array"


def _positional(job_type: type[JobType]) -> list[str]:
    return [
        name
        for name, schema in _properties(job_type)
        if _is_positional(schema, job_type.model_fields[name].is_required())
    ]


def _parameter_flags(job_type: type[JobType]) -> Iterator[inspect.Parameter]:
    for name, schema in _properties(job_type):
        required = "(required)" if job_type.model_fields[name].is_required() else _limits(schema)
        text = " ".join(part for part in (schema.get("description", ""), applies_when(schema), required) if part)
        if _is_positional(schema, job_type.model_fields[name].is_required()):
            argument = typer.Argument(help=text, metavar=name.upper(), show_default=False)
            yield _flag(name, Annotated[list[str] | None, argument])
            continue
        flag = "--" + name.replace("_", "-")
        spelled = f"{flag}/--no-{flag[2:]}" if schema.get("type") == "boolean" else flag
        metavar = "NAME=VALUE" if _is_map(schema) else None
        option = typer.Option(spelled, help=text, rich_help_panel=_PARAMETERS, show_default=False, metavar=metavar)
        yield _flag(name, Annotated[_python_type(name, schema) | None, option])


def _python_type(name: str, schema: dict[str, Any]) -> Any:
    if choices := schema.get("enum"):
        return enum.Enum(name, {str(choice): choice for choice in choices}, type=str)
    if _is_map(schema):
        return list[str]
    if schema.get("type") == "array":
        item = _SCALARS[schema["items"].get("type", "string")]
        return list[item]  # type: ignore[valid-type]
    return _SCALARS[schema.get("type", "string")]


def _limits(schema: dict[str, Any]) -> str:
    """Default and range, for the help text."""
    said = []
    if schema.get("default") is not None:
        said.append(f"default: {schema['default']}")
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    if low is not None and high is not None:
        said.append(f"range: {low:g}..{high:g}")
    return f"({'; '.join(said)})" if said else ""


def _resource_flags() -> Iterator[inspect.Parameter]:
    for name, schema in Resources.model_json_schema()["properties"].items():
        set_to = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
        several = set_to[0]["type"] == "array"
        kind: Any = list[str] if several else _SCALARS[set_to[0]["type"]]
        option = typer.Option(help=schema["description"], rich_help_panel=_RESOURCES, show_default=False)
        yield _flag(name, Annotated[kind | None, option])


def _common_flags() -> Iterator[inspect.Parameter]:
    file = typer.Option(help="Parameters from a JSON or YAML file.", rich_help_panel=_PARAMETERS)
    yield _flag("params", Annotated[Path | None, file])
    said = "One parameter; the value as JSON or plain text."
    pair = typer.Option("--param", "-p", metavar="KEY=VALUE", help=said, rich_help_panel=_PARAMETERS)
    yield _flag("param", Annotated[list[str] | None, pair])
    yield _flag("name", Annotated[str | None, typer.Option(help="What to call the job.")])
    yield _flag("owner", Annotated[str | None, typer.Option(help="Whose it is; the key's owner when empty.")])
    yield _flag("priority", Annotated[int, typer.Option(help="Higher starts earlier.")], 0)
    retries = typer.Option(
        min=0, max=1000, help="Most further attempts in a row after failures that may pass; 0 for none."
    )
    yield _flag("retries", Annotated[int | None, retries])
    yield _flag("on_failure", Annotated[Literal["fail", "pause"], typer.Option(help=ON_FAILURE)], "fail")
    yield _flag("tag", Annotated[list[str] | None, typer.Option(help="May be given several times.")])
    secret = typer.Option(metavar="NAME", help="A secret it finds as a file; may be given several times.")
    yield _flag("secret", Annotated[list[str] | None, secret])
    follow = typer.Option("--follow", "-f", help="Print the log until the job has ended; the exit code tells how.")
    yield _flag("follow", Annotated[bool, follow], False)
    yield _flag("json", Annotated[bool, typer.Option("--json", help="Print JSON for programs.")], False)


def _flag(name: str, annotation: Any, default: object = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def mapping_from_file(path: Path) -> dict[str, Any]:
    """A mapping from a JSON or YAML file. Raises: InvalidInput."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read ({error})", field="params") from None
    parsed = _parse_json(path, text) if path.suffix == ".json" else _parse_yaml(path, text)
    if not isinstance(parsed, dict):
        raise InvalidInput(f"{path}: holds no mapping", field="params")
    return parsed


def _parse_json(path: Path, text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"{path}: is not JSON ({error})", field="params") from None


def _parse_yaml(path: Path, text: str) -> object:
    try:
        return from_yaml(text)
    except yaml.YAMLError as error:
        raise InvalidInput(f"{path}: is not YAML ({error})", field="params") from None


def pair(text: str) -> tuple[str, Any]:
    """A ``KEY=VALUE`` of the command line, the value as JSON or else as text. Raises: InvalidInput."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InvalidInput(f"-p {text}: is not KEY=VALUE", field="param")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _env_pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidInput(f"{text!r} is not NAME=VALUE", field="env")
    return name, value
