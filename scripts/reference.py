#!/usr/bin/env python3
"""Write the reference pages under docs/reference from the code itself; a test fails when they are out of date.

python scripts/reference.py
"""

import inspect
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_settings import BaseSettings

from orchestrator import errors
from orchestrator.app import create_app
from orchestrator.config_file import applies_when
from orchestrator.domain import TRANSITIONS, EndReason, JobStatus, Resources
from orchestrator.event_names import NAMES
from orchestrator.settings import Settings
from worker_image.contract.commands import Command
from worker_image.contract.events import Event
from worker_image.contract.jobs import JOB_TYPES

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
_NOTE = "<!-- Written by scripts/reference.py. Change the code, then run it again. -->\n"


def pages() -> dict[str, str]:
    """File name -> its text."""
    return {
        "settings.md": _page("Settings", _settings()),
        "job-types.md": _page("Job types", _job_types()),
        "events.md": _page("Events and commands", _events()),
        "states.md": _page("States, end reasons and errors", _states()),
        "api.md": _page("HTTP API", _api()),
    }


def _page(title: str, lines: Iterator[str]) -> str:
    return f"# {title}\n\n{_NOTE}\n" + "\n".join(lines).rstrip() + "\n"


def _settings() -> Iterator[str]:
    yield "Read once from the environment when the orchestrator, the client or the dashboard starts.\n"
    yield "| variable | default | meaning |"
    yield "|---|---|---|"
    for name, field in Settings.model_fields.items():
        default = _default(field.default, field.default_factory)
        yield f"| `{variable(Settings, name)}` | {default} | {_cell(field.description)} |"
    yield ""
    yield "The client also reads `GPU_ORCHESTRATOR_URL` and `GPU_ORCHESTRATOR_API_KEY`."


def variable(settings: type[BaseSettings], name: str) -> str:
    """The environment variable of a setting."""
    return f"{settings.model_config['env_prefix']}{name.upper()}"


def _job_types() -> Iterator[str]:
    for name, model in JOB_TYPES.items():
        yield f"## `{name}`\n"
        yield inspect.cleandoc(model.__doc__ or "") + "\n"
        taken = ", ".join(f"`{command}`" for command in sorted(model.commands)) or "none"
        yield f"Commands while running: {taken}. Can be paused and resumed: {'yes' if model.resumable else 'no'}.\n"
        yield from _fields(model)
        yield ""
    yield "## Resources\n"
    yield inspect.cleandoc(Resources.__doc__ or "") + "\n"
    yield from _fields(Resources)


def _events() -> Iterator[str]:
    yield "A worker appends one JSON object a line to `events.jsonl` and reads `commands.jsonl`.\n"
    yield "## Public names\n"
    yield "What subscribers may ask for beside the stored types; an event has the first name that fits it.\n"
    yield "| name | stored type |"
    yield "|---|---|"
    for name, kind in NAMES.items():
        yield f"| `{name}` | `{kind.type}`{f' to `{kind.to}`' if kind.to else ''} |"
    yield ""
    for heading, union in (("Events", Event), ("Commands", Command)):
        yield f"## {heading}\n"
        for model in get_args(get_args(union)[0]):
            yield f"### `{model.model_fields['type'].default}`\n"
            yield inspect.cleandoc(model.__doc__ or "") + "\n"
            yield from _fields(model)
            yield ""


def _fields(model: type[BaseModel]) -> Iterator[str]:
    properties: dict[str, Any] = model.model_json_schema()["properties"]
    yield "| field | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in model.model_fields.items():
        kind = _kind(properties[name])
        default = "required" if field.is_required() else _default(field.default, field.default_factory)
        meaning = f"{_cell(field.description)} {applies_when(properties[name])}".strip()
        yield f"| `{name}` | {_cell(kind)} | {default} | {meaning} |"


def _kind(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_kind(option) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f'"{value}"' for value in schema["enum"])
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[-1])
    bounds = [
        f"{sign} {schema[key]:g}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in schema
    ]
    return " ".join([schema.get("type", "any"), *bounds])


def _states() -> Iterator[str]:
    yield "## Job status\n"
    yield "| status | meaning | may become |"
    yield "|---|---|---|"
    meanings = _member_docs(JobStatus)
    for status, following in TRANSITIONS.items():
        next_ones = ", ".join(f"`{item}`" for item in sorted(following)) or "–"
        yield f"| `{status}` | {meanings[status.name]} | {next_ones} |"
    yield "\n## End reasons\n"
    yield "Why an attempt ended: " + ", ".join(f"`{reason}`" for reason in EndReason) + ".\n"
    yield "## Errors\n"
    yield "Every error answers with `{code, message, details: {field?, suggestion?}, timestamp}`.\n"
    yield "| code | HTTP status | meaning |"
    yield "|---|---|---|"
    for error in sorted(_subclasses(errors.OrchestratorError), key=lambda item: (item.status, item.code)):
        if error.__module__ == errors.__name__ and "code" in vars(error):
            yield f"| `{error.code}` | {error.status} | {inspect.cleandoc(error.__doc__ or '')} |"


def _subclasses(base: type[errors.OrchestratorError]) -> Iterator[type[errors.OrchestratorError]]:
    yield base
    for child in base.__subclasses__():
        yield from _subclasses(child)


def _member_docs(enum: type[JobStatus]) -> dict[str, str]:
    """Member name -> the string under it, which Python itself throws away."""
    lines = [line.strip() for line in inspect.getsource(enum).splitlines()]
    return {
        line.split(" = ")[0]: following.strip('"')
        for line, following in pairwise(lines)
        if " = " in line and following.startswith('"""')
    }


def _api() -> Iterator[str]:
    yield "The same, to try out, at `/docs` of a running orchestrator; the schema at `/openapi.json`.\n"
    yield "Every route but `/health` asks for a key or token: `Authorization: Bearer <key>` or `X-API-Key: <key>`."
    yield "What each role may do: [security](../security.md#keys-and-roles).\n"
    yield "| method | path | what it does |"
    yield "|---|---|---|"
    with tempfile.TemporaryDirectory() as home:
        schema = create_app(Settings(home=Path(home))).openapi()
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield f"| {method.upper()} | `{path}` | {_cell(operation['description'])} |"
    yield ""
    yield from _SOCKETS.splitlines()


_SOCKETS = """## WebSockets

Every frame is JSON text, but for the log's with `?encoding=binary`. A client that can set headers sends its key in
them. A browser asks for a ticket with `POST /api/tickets` (good for 30 seconds and one use) and sends
`{"type": "auth", "ticket": "..."}` as its first message. A refusal is a frame
`{"type": "error", "code", "message", "details": {"field", "suggestion"}, "timestamp"}`, then a close with code 4000 and
the HTTP status that the error has elsewhere: 4400, 4401 (also when the key is revoked or expires later), 4403, 4404,
4429, 4503. A stream that has nothing to say sends `{"type": "heartbeat"}` every 15 seconds. A viewer that reads nothing
for `SAEFORGE_VIEWER_TIMEOUT_S` is let go.

### `/api/jobs/{id}/logs?attempt=1&offset=0&encoding=utf-8&skip=false`

Frames `{"type": "log", "attempt", "offset", "next_offset", "data"}` through all attempts in order, then
`{"type": "end", "status"}`. Offsets count bytes: come back with the last `attempt` and `next_offset`, and nothing is
lost or doubled. With `encoding=binary` a log frame is a binary message: the same object without `data`, a newline, and
the exact bytes.

`{"type": "skipped", "reason", "attempt", "offset", "next_offset", "bytes"}` stands for bytes that do not come: `quota`,
they were dropped because the log exceeded its quota (`message` is the line for people); `slow`, with `skip=true` only,
the viewer stayed more than `SAEFORGE_VIEWER_LAG_MB` behind; `cut`, the job cut its own log, and what follows begins at
`next_offset` again.

### `/api/events?job=&after=0&types=`

Every stored event `{"id", "job_id", "attempt", "seq", "ts", "type", "name", "data"}` with an id above `after`, of one
job or of all, for as long as the client stays; `after=latest` begins with what is still to come. `types` takes stored
types and public names, separated by commas. A heartbeat carries `after`: up to that id there is nothing more to be had.
Beside the worker's events there are the orchestrator's own: `job_created`, `status_changed`, `attempt_started`,
`attempt_ended`, `command_requested` and `log_over_quota`.
"""


def _default(value: object, factory: object) -> str:
    if factory is not None:
        return "see meaning"
    if value is None or value == "":
        return "empty"
    if isinstance(value, BaseModel | dict | list):
        return "empty"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
