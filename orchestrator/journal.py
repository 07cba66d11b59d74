"""The orchestrator's own log: one line a record, for people or as JSON, with what it is about and without secrets."""

import json
import logging
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, Literal

_about: ContextVar[dict[str, str | int]] = ContextVar("about", default={})  # noqa: B039  never changed in place

HIDDEN: Final = "[hidden]"
_CHATTY: Final = ("uvicorn", "websockets", "aiosqlite", "urllib3", "docker", "asyncio", "httpx", "httpcore")
"""Libraries whose debug messages repeat what passes through them: headers, keys, statements with their values."""

_SECRETS: Final = (
    # A header or field and its value, as in: Authorization: Bearer x; "ticket": "x"; (b'x-api-key', b'x')
    re.compile(
        r"""(?ix) (?: authorization | x-api-key | api[_-]?key | ticket | token | password | secret )
            (?: \\?["']? \s* [:=] \s* \\?["']? | ["'] \s* , \s* b?["'] )
            (?: (?:bearer|basic) \s+ )? ( [^\s"'\\,;)}\]&]{6,} )"""
    ),
    re.compile(r"(?i)\b(?:bearer|basic)\s+([\w.~+/=-]{8,})"),
    re.compile(r"\b(sf_[\w.-]{12,})"),
    # A signed token is three parts of base64.
    re.compile(r"\b(eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,})"),
)
"""What a secret looks like; the first group is the secret itself."""
_ONE_LINE: Final = {code: repr(chr(code))[1:-1] for code in (*range(32), 127, 0x85, 0x2028, 0x2029)}


@contextmanager
def about(**facts: str | int) -> Iterator[None]:
    """What all that is logged within the block, and in tasks begun there, is about: job_id, attempt, request_id."""
    token = _about.set({**_about.get(), **facts})
    try:
        yield
    finally:
        _about.reset(token)


def without_secrets(text: str, known: Iterable[str] = ()) -> str:
    """The text with everything that is or looks like a secret hidden."""
    for secret in known:
        text = text.replace(secret, HIDDEN)
    for pattern in _SECRETS:
        text = pattern.sub(lambda found: found[0].replace(found[1], HIDDEN), text)
    return text


class _Formatter(logging.Formatter):
    """What both forms share: the secrets that are known, and what a record is about."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._known = tuple(secret for secret in secrets if secret)

    def clean(self, text: str) -> str:
        return without_secrets(text, self._known)


class TextFormatter(_Formatter):
    """For people."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        facts = " ".join(f"{name}={value}" for name, value in _about.get().items())
        # A line end within a message could pass for another record.
        message = record.getMessage().translate(_ONE_LINE)
        text = f"{moment}Z {record.levelname:<7} {record.name}: {message}"
        if facts:
            text += f"  [{facts}]"
        if record.exc_info and record.exc_info[0] is not None:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return self.clean(text)


class JsonFormatter(_Formatter):
    """For programs: one object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.clean(record.getMessage()),
            **_about.get(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            kind, error, _ = record.exc_info
            entry["exception"] = {
                "type": kind.__name__,
                "message": self.clean(str(error)),
                "traceback": self.clean("".join(traceback.format_exception(*record.exc_info))),
            }
        return json.dumps(entry, ensure_ascii=False, default=str)


def keep_journal(level: str, form: Literal["text", "json"], *, secrets: Iterable[str] = ()) -> None:
    """Have this process log to standard error in this form, from this level on; other libraries from "info" on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(secrets) if form == "json" else TextFormatter(secrets))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLevelName(level.upper())))
