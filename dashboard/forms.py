"""Forms from JSON Schema: what to ask for a job type, and what the answers mean.

Pure: knows neither Streamlit nor the API. ``fields`` reads a schema of ``GET /api/job-types`` into descriptors a page
can draw, ``params`` turns the raw answers back into parameters, ``place`` finds the field an API error is about.
"""

import dataclasses
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["text", "integer", "number", "boolean", "choice", "several", "words", "mapping", "reference"]
"""How a field is asked for: ``several`` of given choices; ``words`` is a list of strings or numbers, quoted as in a
shell; ``mapping`` is NAME=VALUE lines."""

SAFE_INTEGER = 2**53 - 1
"""Largest integer a browser holds exactly; wider bounds are cut to it."""


@dataclass(frozen=True, slots=True)
class Field:
    """One question of a form."""

    name: str
    label: str
    kind: Kind
    required: bool
    nullable: bool = False
    """Whether it may be left empty on purpose: empty then means null."""
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    exclusive: bool = False
    """Whether ``minimum`` itself is too small."""
    exclusive_maximum: bool = False
    """Whether ``maximum`` itself is too large."""
    recommended: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    reference: Literal["model", "dataset", "sae"] | None = None
    """What kind of thing on disk it names."""
    max_length: int | None = None
    json_values: bool = False
    """Whether the items of ``words`` or the values of ``mapping`` are JSON, not plain text."""
    description: str = ""
    advanced: bool = False
    group: str = ""
    """The section it belongs to; none when empty."""
    when: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    """Other fields, and the values of them with which this one means something."""

    @property
    def help(self) -> str:
        """The tooltip: what it means, what is accepted, what is advisable."""
        parts = [self.description]
        if bounds := self.bounds:
            parts.append(f"Accepted: {bounds}.")
        if self.recommended:
            low, high = self.recommended
            parts.append(f"Recommended: {readable(low)} to {readable(high)}.")
        if self.kind == "words":
            parts.append("Quote as in a shell; no shell runs it.")
        if self.kind == "mapping":
            parts.append("One NAME=VALUE a line" + (", the value as JSON." if self.json_values else "."))
        return " ".join(part for part in parts if part)

    @property
    def bounds(self) -> str:
        """The accepted range in words; empty when there is none."""
        low = None if self.minimum is None else f"{'above' if self.exclusive else 'from'} {readable(self.minimum)}"
        high = None if self.maximum is None or self.maximum >= SAFE_INTEGER else readable(self.maximum)
        if high is not None:
            high = f"{'below' if self.exclusive_maximum else 'to' if low else 'at most'} {high}"
        return " ".join(part for part in (low, high) if part)


class BadAnswer(ValueError):
    """An answer that cannot be read as its field's type; carries a message for each field at fault."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        self.problems = dict(problems)
        super().__init__("; ".join(f"{name}: {problem}" for name, problem in self.problems.items()))


def readable(number: float) -> str:
    """A number as a person writes it: no trailing zeros, thousands apart, tiny ones as powers of ten."""
    if isinstance(number, int) or float(number).is_integer():
        return f"{int(number):,}" if abs(number) >= 10_000 else str(int(number))
    return f"{number:.6g}".replace("e-0", "e-")


def fields(schema: Mapping[str, Any]) -> list[Field]:
    """The questions of a schema, in its order; the discriminator is not one of them.

    A field is basic when it is required, has a recommended range or is marked ``x-basic``; the others are advanced.
    """
    required = set(schema.get("required", ()))
    definitions = schema.get("$defs", {})
    return [
        _field(name, _resolved(spec, definitions), name in required)
        for name, spec in schema.get("properties", {}).items()
        if "const" not in spec
    ]


def _resolved(spec: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The spec with ``$ref`` looked up and ``anyOf [X, null]`` folded into X with ``nullable``."""
    merged = dict(spec)
    options = merged.pop("anyOf", None)
    if options:
        others = [option for option in options if option.get("type") != "null"]
        merged = {**others[0], **merged, "nullable": len(others) < len(options)}
    if reference := merged.pop("$ref", None):
        merged = {**definitions.get(reference.rsplit("/", 1)[-1], {}), **merged}
    return merged


def _field(name: str, spec: Mapping[str, Any], required: bool) -> Field:
    kind = _kind(spec)
    low, high = spec.get("minimum"), spec.get("maximum")
    recommended = spec.get("x-recommended")
    return Field(
        name=name,
        label=name.replace("_", " "),
        kind=kind,
        required=required,
        nullable=bool(spec.get("nullable")),
        default=spec.get("default"),
        minimum=spec.get("exclusiveMinimum", low),
        maximum=spec.get("exclusiveMaximum", high),
        exclusive="exclusiveMinimum" in spec,
        exclusive_maximum="exclusiveMaximum" in spec,
        recommended=(recommended[0], recommended[1]) if recommended else None,
        choices=tuple(spec.get("enum", spec.get("items", {}).get("enum", ()))),
        reference=spec.get("x-reference"),
        max_length=spec.get("maxLength"),
        json_values=_items(spec).get("type") != "string",
        description=spec.get("description", ""),
        advanced=not (required or recommended or spec.get("x-basic")),
        group=spec.get("x-group", ""),
        when=spec.get("x-when", {}),
    )


def _kind(spec: Mapping[str, Any]) -> Kind:
    if "x-reference" in spec:
        return "reference"
    if "enum" in spec:
        return "choice"
    match spec.get("type"):
        case "integer":
            return "integer"
        case "number":
            return "number"
        case "boolean":
            return "boolean"
        case "array":
            return "several" if "enum" in spec["items"] else "words"
        case "object":
            return "mapping"
        case _:
            return "text"


def _items(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of what a list or a map holds."""
    found: Mapping[str, Any] = spec.get("items") or spec.get("additionalProperties") or {}
    return found


def controls(form: Iterable[Field]) -> set[str]:
    """Names of the fields whose answers decide which others apply."""
    return {name for field in form for name in field.when}


def applying(form: Sequence[Field], answers: Mapping[str, Any], varied: Iterable[str] = ()) -> list[Field]:
    """The fields that mean something with these raw answers; a field that is not answered has its default.

    ``varied`` are fields that stand for several values at once, so that any condition on them is met.
    """
    named = {field.name: field for field in form}
    free = set(varied)

    def value(name: str) -> Any:
        field = named[name]
        # One that is not asked for has its default, whatever it was when it still was.
        return _answered(field, answers.get(name, field.default)) if applies(field) else field.default

    def meets(name: str, wanted: Sequence[Any]) -> bool:
        if name in free or name not in named:
            return True
        actual = value(name)
        return any(item in wanted for item in actual) if isinstance(actual, list) else actual in wanted

    def applies(field: Field) -> bool:
        return all(meets(name, wanted) for name, wanted in field.when.items())

    return [field for field in form if applies(field)]


def _answered(field: Field, raw: Any) -> Any:
    """What a raw answer means to conditions; one that cannot be read is not empty."""
    raw = raw.strip() if isinstance(raw, str) else raw
    if raw in (None, ""):
        return None if field.nullable else field.default
    try:
        return _parsed(field, raw)
    except ValueError:
        return raw


def sections(form: Iterable[Field]) -> dict[str, list[Field]]:
    """The fields by the section they belong to, in the order of the schema."""
    found: dict[str, list[Field]] = {}
    for field in form:
        found.setdefault(field.group or "Advanced", []).append(field)
    return found


def integer_bounds(field: Field) -> tuple[int | None, int | None]:
    """Inclusive bounds of an integer field, cut to what a browser holds exactly."""
    low = None if field.minimum is None else int(field.minimum) + field.exclusive
    high = None if field.maximum is None else int(field.maximum) - field.exclusive_maximum
    return (
        None if low is None else max(low, -SAFE_INTEGER),
        None if high is None else min(high, SAFE_INTEGER),
    )


def shown(field: Field, value: Any) -> Any:
    """A parameter's value as its widget shows it; the inverse of reading the answer."""
    if value is None:
        empty: dict[Kind, Any] = {"integer": None, "reference": None, "choice": None, "boolean": False, "several": []}
        return empty.get(field.kind, "")
    match field.kind:
        case "number":
            return readable(value).replace(",", "")
        case "words":
            return shlex.join(_written(field, item) for item in value)
        case "mapping":
            return "\n".join(f"{name}={_written(field, item)}" for name, item in value.items())
        case _:
            return value


def params(form: list[Field], answers: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters from raw widget values; what equals its default is left out.

    Raises:
        BadAnswer: an answer is missing or is not of its field's type. Ranges are the API's to judge.
    """
    found: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for field in form:
        raw = answers.get(field.name, field.default)
        if isinstance(raw, str) and field.kind != "mapping":
            raw = raw.strip()
        if raw in (None, "", []):
            if field.required:
                problems[field.name] = "This is needed."
            elif field.nullable and field.default is not None:
                found[field.name] = None
            continue
        try:
            value = _parsed(field, raw)
        except ValueError as error:
            problems[field.name] = str(error)
            continue
        if field.required or value != field.default:
            found[field.name] = value
    if problems:
        raise BadAnswer(problems)
    return found


def _parsed(field: Field, raw: Any) -> Any:
    match field.kind:
        case "integer":
            return _integer(raw)
        case "number":
            return _number(raw)
        case "boolean":
            return bool(raw)
        case "words":
            return raw if isinstance(raw, list) else [_read(field, word) for word in _words(raw)]
        case "several":
            return list(raw)
        case "mapping":
            if isinstance(raw, Mapping):
                return dict(raw)
            return {name: _read(field, text) for name, text in _mapping(raw).items()}
        case _:
            return raw


def _written(field: Field, item: Any) -> str:
    return json.dumps(item) if field.json_values else str(item)


def _read(field: Field, text: str) -> Any:
    if not field.json_values:
        return text
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError(f"{text!r} is not JSON; write e.g. 0.5, or [16, 32].") from None


def _integer(raw: Any) -> int:
    try:
        return int(raw)
    except ValueError:
        raise ValueError(f"{raw!r} is not a whole number.") from None


def _number(raw: Any) -> float:
    try:
        return float(str(raw).replace(" ", ""))
    except ValueError:
        raise ValueError(f"{raw!r} is not a number; write e.g. 0.001, 1e-3 or 524288.") from None


def _words(raw: str) -> list[str]:
    try:
        return shlex.split(raw)
    except ValueError:
        raise ValueError("A quotation mark is not closed.") from None


def _mapping(raw: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in raw.splitlines():
        if not line.strip():
            continue
        name, sign, text = line.partition("=")
        if not sign:
            raise ValueError(f"{line.strip()!r} has no '='; write NAME=VALUE.")
        found[name.strip()] = text
    return found


def place(error_field: str | None, names: set[str]) -> str | None:
    """The form field an API error names, e.g. ``params.command.0`` -> ``command``; none when it is not in the form."""
    if not error_field:
        return None
    parts = error_field.replace("[", ".").replace("]", "").split(".")
    return next((part for part in parts if part in names), None)
