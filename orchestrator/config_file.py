"""A job's parameters as a YAML file: one that explains itself, and what is wrong with one, by its line."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import yaml

from orchestrator.domain import Params
from orchestrator.errors import InvalidInput
from orchestrator.intake import parse_params
from worker_image.contract.jobs import JobType

_WIDTH = 100
_BOOLEAN = "tag:yaml.org,2002:bool"
_ENDLESS = 2**31
"""No line of a value is ever broken."""


class _Loader(yaml.SafeLoader):
    """Takes true and false for truth values and nothing else: ``cache: off`` is a word, as in YAML 1.2."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOLEAN, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def from_yaml(text: str) -> Any:
    """What a YAML text says. Raises: yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)


def blank(job_type: type[JobType]) -> str:
    """A file with every parameter of a job type at its default, to be filled in."""
    defaults = {
        name: None if field.is_required() else field.get_default(call_default_factory=True)
        for name, field in job_type.model_fields.items()
    }
    return "".join(_lines(job_type, defaults | {"type": job_type.model_fields["type"].default}))


def written(params: JobType) -> str:
    """The file that holds exactly these parameters; ``read`` gives them back."""
    return "".join(_lines(type(params), params.model_dump(mode="json")))


def _lines(job_type: type[JobType], values: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {job_type.title}. Every parameter with its default; what is left out keeps it.\n"
    properties = job_type.model_json_schema()["properties"]
    yield _pair("type", values["type"])
    section = None
    for name, schema in properties.items():
        if name == "type":
            continue
        if (group := schema.get("x-group")) != section:
            section = group
            yield f"\n# --- {group} ---\n" if group else "\n"
        yield "\n"
        yield from (f"# {line}\n" for line in wrap(_said(schema, job_type.model_fields[name].is_required()), _WIDTH))
        yield _pair(name, values[name])


def _said(schema: Mapping[str, Any], required: bool) -> str:
    said = [" ".join(schema.get("description", "").split())]
    if required:
        said.append("Required.")
    if choices := _choices(schema):
        said.append(f"One of: {', '.join(map(str, choices))}.")
    if when := applies_when(schema):
        said.append(when)
    return " ".join(part for part in said if part)


def _choices(schema: Mapping[str, Any]) -> list[Any]:
    options = [schema, *schema.get("anyOf", [])]
    return next((list(option["enum"]) for option in options if "enum" in option), [])


def applies_when(schema: Mapping[str, Any]) -> str:
    """For which values of other fields a field is honoured, in a sentence; empty when always."""
    when: Mapping[str, list[Any]] = schema.get("x-when", {})
    conditions = (f"{name} {' or '.join(map(_said_of, values))}" for name, values in when.items())
    return f"Only with {' and '.join(conditions)}." if when else ""


def _said_of(value: object) -> str:
    return "empty" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _pair(name: str, value: object) -> str:
    # Within braces, lists and mappings stay on the line of their name; the braces themselves are not needed.
    line = _braced(name, value, allow_unicode=True)
    # Characters that nobody sees are escaped, or reading would take some of them for line ends.
    return (line if line.isprintable() else _braced(name, value, allow_unicode=False)) + "\n"


def _braced(name: str, value: object, *, allow_unicode: bool) -> str:
    dumped: str = yaml.safe_dump({name: value}, default_flow_style=True, allow_unicode=allow_unicode, width=_ENDLESS)
    return dumped.strip()[1:-1]


@dataclass(frozen=True)
class ConfigFile:
    """What a YAML file says, and on which line."""

    path: Path
    values: dict[str, Any]
    lines: dict[str, int]
    """Field -> the line its value is given on, from 1."""

    def parsed(self, type_name: str | None, overrides: Mapping[str, Any]) -> Params:
        """The parameters, those of ``overrides`` instead of the file's.

        Args:
            type_name: the job type where the file names none.

        Raises:
            InvalidInput: naming the line, the field at fault and what to do.
        """
        merged = self.values | dict(overrides)
        kind = merged.get("type", type_name)
        if not isinstance(kind, str):
            raise InvalidInput(f"{self.path}: names no job type", field="type", suggestion="begin it with: type: ...")
        try:
            return parse_params(kind, {name: value for name, value in merged.items() if name != "type"})
        except InvalidInput as error:
            field = (error.field or "").removeprefix("params.")
            place = self._place(field.split(".")[0], overrides)
            said = error.message.removeprefix("params.")
            raise InvalidInput(f"{place}: {said}", field=field, suggestion=error.suggestion) from error

    def _place(self, field: str, overrides: Mapping[str, Any]) -> str:
        if field in overrides:
            return f"--set {field}"
        return f"{self.path}:{self.lines[field]}" if field in self.lines else str(self.path)


def read(path: Path) -> ConfigFile:
    """A mapping from a YAML (or JSON) file.

    Raises:
        InvalidInput: it cannot be read, is no mapping, or gives a field twice.
    """
    try:
        text = path.read_text()
        root = yaml.compose(text, Loader=_Loader)
        values = from_yaml(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read ({error})", field="config") from None
    except yaml.YAMLError as error:
        raise InvalidInput(f"{path}: is not YAML ({error})", field="config") from None
    if not isinstance(root, yaml.MappingNode) or not isinstance(values, dict):
        raise InvalidInput(f"{path}: holds no mapping", field="config", suggestion="'saeforge config TYPE' prints one")
    lines: dict[str, int] = {}
    for key, _ in root.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in lines:
            raise InvalidInput(
                f"{path}:{line}: {name} is given twice, first on line {lines[name]}", field=name, suggestion="keep one"
            )
        lines[name] = line
    return ConfigFile(path, {str(name): value for name, value in values.items()}, lines)
