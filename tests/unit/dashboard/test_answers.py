"""What the browser's components are told."""

from typing import cast

import pytest

from dashboard import answers, connection
from orchestrator.client import Client
from orchestrator.domain import JobStatus
from tests.unit.dashboard.fakes import FakeClient, make_job


def held(status: JobStatus = JobStatus.RUNNING, attempts: int = 1) -> tuple[FakeClient, Client, str]:
    job = make_job(status, attempts=attempts)
    fake = FakeClient(job)
    return fake, cast(Client, fake), str(job.id)


def test_a_short_log_is_shown_from_its_very_first_attempt() -> None:
    fake, client, job = held(attempts=2)
    fake.log = {1: "one\n", 2: "two\n"}
    assert answers.log_start(client, job) == {"attempt": 1, "offset": 0, "skipped_bytes": 0}


def test_of_a_long_log_only_the_end_is_shown() -> None:
    fake, client, job = held(attempts=2)
    fake.log = {1: "old\n", 2: "x" * (answers.FIRST_LOG_BYTES + 7)}
    assert answers.log_start(client, job) == {"attempt": 2, "offset": 7, "skipped_bytes": 7}


def test_a_job_that_has_not_started_is_read_from_the_beginning() -> None:
    _, client, job = held(JobStatus.QUEUED, attempts=0)
    assert answers.log_start(client, job)["attempt"] == 1


def test_every_question_for_a_ticket_gets_a_new_one() -> None:
    _, client, job = held()
    question = {"kind": "ticket", "cursor": {"attempt": 1, "offset": 0}}
    tickets = [answers.answer_terminal(client, job, question)["ticket"] for _ in range(2)]
    assert len(set(tickets)) == 2


def test_polling_goes_on_from_the_cursor_and_over_to_the_next_attempt() -> None:
    fake, client, job = held(attempts=2)
    fake.log = {1: "first\n", 2: "second\n"}
    assert answers.log_frames(client, job, 1, 3)[0]["data"] == "st\n"
    assert answers.log_frames(client, job, 1, 6) == [
        {"type": "log", "attempt": 2, "offset": 0, "next_offset": 7, "data": "second\n"}
    ]


def test_polling_says_when_the_log_is_over() -> None:
    _, client, job = held(JobStatus.COMPLETED)
    assert answers.log_frames(client, job, 1, 13) == [{"type": "end", "status": "completed"}]


def test_curves_get_their_history_once() -> None:
    _, client, job = held()
    first = answers.answer_curves(client, job, {"kind": "ticket", "history": True})
    again = answers.answer_curves(client, job, {"kind": "ticket", "history": False})
    assert [point["step"] for point in first["history"]] == [1, 2]
    assert first["after"] == 7
    assert "history" not in again


def test_a_question_that_cannot_be_answered_says_why(fake: FakeClient) -> None:
    fake.away = True
    reply = connection.answered(answers.answer_terminal, str(make_job().id), {"kind": "ticket"})
    assert "no orchestrator answers" in reply["error"]


@pytest.mark.parametrize("component", ["terminal", "chart", "resources", "links"])
def test_every_component_is_a_file_and_fetches_nothing_from_elsewhere(component: str) -> None:
    source = (connection.HERE / "components" / "assets" / f"{component}.js").read_text()
    assert "export default function" in source
    assert "http://" not in source
    assert "https://" not in source
