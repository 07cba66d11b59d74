"""What is shown of a running job."""

import io
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from rich.console import Console

from orchestrator.cli.progress import BarDisplay, LineDisplay, Snapshot, display_on, duration, held_out_line, line_of
from orchestrator.domain import JobStatus
from orchestrator.views import EventView, JobDetail
from tests.scripted_api import JOB, job_json

TRAINING = {"phase": "training", "done": 430, "total": 1000, "unit": "steps", "rate_per_s": 9.5, "eta_s": 60.0}
METRICS = {"loss": 0.123456, "fvu": 0.11, "l0": 32.0, "dead_share": 0.012, "tokens_per_s": 9876.5, "lr": 1e-4}


def event(type: str, **data: object) -> EventView:
    return EventView(id=1, job_id=UUID(str(JOB)), attempt=1, seq=1, ts=datetime.now(UTC), type=type, data=data)


def running() -> Snapshot:
    return Snapshot("one", JobStatus.RUNNING)


def training() -> Snapshot:
    return running().after(event("progress", **TRAINING)).after(event("metrics", step=430, values=METRICS))


def test_the_line_tells_progress_loss_fvu_l0_dead_throughput_and_eta() -> None:
    line = line_of(training())
    for part in ("training", "430/1,000 steps", "43 %", "loss 0.1235", "FVU 0.1100", "L0 32.0", "dead 1.2 %", "ETA"):
        assert part in line
    assert "9,876 tokens/s" in line


def test_the_time_left_counts_from_when_it_was_reported() -> None:
    report = event("progress", **TRAINING).model_copy(update={"ts": datetime.now(UTC) - timedelta(seconds=30)})
    assert "ETA 30s" in line_of(running().after(report))


def test_a_queued_job_says_why_it_waits() -> None:
    wait = {"reason": "cpu_busy", "detail": "all cores are taken", "position": 3, "eta_s": 120.0}
    snapshot = Snapshot.of(JobDetail.model_validate(job_json(wait=wait)))
    assert line_of(snapshot) == "queued  all cores are taken (place 3, about 2m 00s)"


def test_what_a_job_paused_for_is_said_for_nobody_else_does() -> None:
    paused = running().after(event("status_changed", to="paused", reason="it broke; paused until it is resumed"))
    assert paused.notes == ("paused: it broke; paused until it is resumed",)
    assert paused.after(event("status_changed", to="queued", reason="resumed by the user")).notes == ()


def test_a_job_under_way_shows_what_is_known_before_any_event() -> None:
    snapshot = Snapshot.of(JobDetail.model_validate(job_json("running", progress=TRAINING, metrics=METRICS)))
    assert "430/1,000 steps" in line_of(snapshot)
    assert "loss 0.1235" in line_of(snapshot)


def test_the_held_out_line_is_that_of_the_results() -> None:
    results = {"fvu": 0.2, "l0": 32.0, "dead_share": 0.012, "alive_latents": 10}
    ended = JobDetail.model_validate(job_json("completed", metrics=METRICS, results=results))
    assert held_out_line(ended) == "held out: FVU 0.2000  L0 32.0  dead 1.2 %"


def test_a_job_without_results_has_no_held_out_line() -> None:
    assert held_out_line(JobDetail.model_validate(job_json("stopped", metrics=METRICS))) is None


def test_an_event_of_the_future_changes_nothing() -> None:
    known = training()
    assert known.after(event("something_new", x=1)) == known


@pytest.mark.parametrize(
    ("kind", "data", "note"),
    [
        ("checkpoint_saved", {"name": "step_400"}, "checkpoint step_400 saved"),
        ("message", {"level": "warning", "text": "slow disk"}, "warning: slow disk"),
        ("command_rejected", {"reason": "too late"}, "command refused: too late"),
    ],
)
def test_what_a_person_should_notice_becomes_a_note(kind: str, data: dict[str, str], note: str) -> None:
    assert running().after(event(kind, **data)).notes == (note,)


def test_without_a_terminal_lines_come_now_and_then_and_at_every_new_stage() -> None:
    console = Console(file=io.StringIO(), width=200)
    now = [0.0]
    with LineDisplay(console, every_s=5, clock=lambda: now[0]) as display:
        for second in range(11):
            now[0] = float(second)
            display.show(running().after(event("progress", **{**TRAINING, "done": second, "eta_s": None})))
        display.show(Snapshot("one", JobStatus.COMPLETED))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split()[2] for line in lines[:-1]] == ["0/1,000", "5/1,000", "10/1,000"]
    assert lines[-1] == "completed"


def test_on_a_terminal_a_bar_moves() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with display_on(console) as display:
        assert isinstance(display, BarDisplay)
        display.show(training())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "430/1,000 steps" in shown
    assert "━" in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.6, "1m 00s"), (65, "1m 05s"), (3700, "1h 01m"), (90_000, "1d 01h")]
)
def test_a_duration_is_told_in_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
