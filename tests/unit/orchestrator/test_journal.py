"""The orchestrator's own log: what it is about, in both forms, and never a secret."""

import asyncio
import json
import logging
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.journal import HIDDEN, JsonFormatter, TextFormatter, about, keep_journal, without_secrets

KEY = "sf_Zm9vYmFyYmF6cXV4_-Zm9vYmFyYmF6"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"


def record(message: str, *args: object, error: BaseException | None = None) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("orchestrator.x", logging.WARNING, __file__, 1, message, args, exc_info)


def entry(made: logging.LogRecord, *secrets: str) -> dict[str, object]:
    line = JsonFormatter(secrets).format(made)
    assert "\n" not in line
    found: dict[str, object] = json.loads(line)
    return found


def caught(message: str) -> ValueError:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def test_a_record_is_one_json_object_with_its_facts() -> None:
    with about(request_id="r1"), about(job_id="j1", attempt=2):
        told = entry(record("%s ended\nwell", "it"))
    assert told.pop("ts").endswith("+00:00")  # type: ignore[attr-defined]
    assert told == {
        "level": "warning", "logger": "orchestrator.x", "message": "it ended\nwell",
        "request_id": "r1", "job_id": "j1", "attempt": 2,
    }  # fmt: skip


def test_what_it_is_about_ends_with_the_block() -> None:
    with about(job_id="j1"):
        pass
    assert "job_id" not in entry(record("x"))


async def test_tasks_begun_in_a_block_are_about_the_same_and_apart_from_each_other() -> None:
    async def told() -> dict[str, object]:
        await asyncio.sleep(0)
        return entry(record("x"))

    tasks = []
    for number in range(3):
        with about(attempt=number):
            tasks.append(asyncio.create_task(told()))
    assert [found["attempt"] for found in await asyncio.gather(*tasks)] == [0, 1, 2]


def test_an_exception_comes_with_its_type_and_traceback() -> None:
    told = entry(record("failed", error=caught("no")))["exception"]
    assert isinstance(told, dict)
    assert (told["type"], told["message"]) == ("ValueError", "no")
    assert "in caught" in told["traceback"]


def test_the_form_for_people_says_the_same() -> None:
    with about(job_id="j1"):
        text = TextFormatter().format(record("it ended", error=caught("no")))
    first, *rest = text.splitlines()
    assert first.endswith("WARNING orchestrator.x: it ended  [job_id=j1]")
    assert rest[-1] == "ValueError: no"


def test_a_line_end_in_a_message_cannot_pass_for_another_record() -> None:
    assert len(TextFormatter().format(record("a\n2026-01-01 ERROR forged\r\x1b[2J")).splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer {}",
        "> X-API-Key: {}",
        '{{"type": "auth", "ticket": "{}"}}',
        "headers [(b'host', b'x'), (b'authorization', b'Bearer {}')]",
        "(b'x-api-key', b'{}')",
        "GET /api/events?ticket={}&after=3",
        "{{'api_key': '{}'}}",
        'TEXT \'{{\\"ticket\\": \\"{}\\"}}\' [80 bytes]',
    ],
)
@pytest.mark.parametrize("secret", [KEY, TOKEN, "qTdxWl0u5Qk1mUzY7iS8ZnA2"])
def test_secrets_are_hidden_however_they_are_written(text: str, secret: str) -> None:
    told = without_secrets(text.format(secret))
    assert secret not in told
    assert HIDDEN in told


@pytest.mark.parametrize("secret", [KEY, TOKEN])
def test_what_is_a_secret_by_its_look_is_hidden_anywhere(secret: str) -> None:
    assert secret not in without_secrets(f"it was {secret}, you know")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.text(max_size=30))
def test_a_known_secret_is_hidden_wherever_it_stands(before: str, after: str) -> None:
    secret = "correct horse battery"
    made = record("%s", before + secret + after, error=caught(before + secret))
    assert secret not in JsonFormatter([secret]).format(made)
    assert secret not in TextFormatter([secret]).format(made)


@pytest.mark.parametrize(
    "text",
    [
        "saeforge-7f9c24e8-3b12-4fef-91e0-5a3c8d5b2f10-1 ended: completed",
        "tokens_per_s: 1234567, loss 0.31",
        "GET /api/jobs/{id} 200 in 3.1 ms",
        "/home/ada/.saeforge/runs/7f9c24e8-3b12-4fef-91e0-5a3c8d5b2f10/1/log",
    ],
)
def test_what_is_no_secret_is_left_as_it_is(text: str) -> None:
    assert without_secrets(text) == text


@pytest.fixture
def _root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.mark.usefixtures("_root")
def test_at_debug_libraries_that_repeat_what_passes_through_them_stay_at_info(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    keep_journal("debug", "json")
    logging.getLogger("websockets.server").debug("< Authorization: Bearer %s", KEY)
    logging.getLogger("orchestrator.access").debug("GET /health 200")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["message"] for line in lines] == ["GET /health 200"]
