"""A run without an orchestrator: what it keeps, and how it goes on."""

import fcntl
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from worker_image.contract.events import Progress
from worker_image.contract.jobs import TrainSaeParams
from worker_image.contract.rundir import RunDir, RunSpec
from worker_image.errors import UserError
from worker_image.local import LocalRun, PlainDisplay, chosen_checkpoint, drop_from, main, whole_events
from worker_image.reporter import Level, Terminated

SPEC = RunSpec(job_id=UUID(int=1), attempt=1, name="test", params=TrainSaeParams(model="m", dataset="d", steps=100))


class Seen(PlainDisplay):
    """Keeps what a person would see."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done: list[int] = []

    def line(self, text: str, level: Level) -> None:
        self.lines.append(text)

    def progress(self, progress: Progress) -> None:
        self.done.append(progress.done)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "run")
    made.create(SPEC)
    return made


def opened(run_dir: RunDir, seen: Seen | None = None) -> LocalRun:
    return LocalRun(run_dir, SPEC, seen or Seen())


def rows(run_dir: RunDir) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir.path / "metrics.jsonl").read_text().splitlines()]


def test_measurements_are_kept_one_line_a_step(run_dir: RunDir) -> None:
    run = opened(run_dir)
    run.metrics(10, {"loss": 0.5, "fvu": float("nan")})
    run.metrics(20, {"loss": 0.25})
    assert rows(run_dir) == [{"step": 10, "loss": 0.5}, {"step": 20, "loss": 0.25}]


def test_steps_done_again_replace_those_of_before(run_dir: RunDir) -> None:
    before = opened(run_dir)
    for step in (10, 20, 30):
        before.metrics(step, {"loss": 1.0})
    again = opened(run_dir)
    again.metrics(20, {"loss": 2.0})
    assert rows(run_dir) == [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 2.0}]


def test_a_measurement_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10}\n{"step": 2')
    drop_from(path, 20)
    assert path.read_text() == '{"step": 10}\n'


def test_events_of_a_continued_run_are_numbered_on(run_dir: RunDir) -> None:
    opened(run_dir).metrics(10, {"loss": 1.0})
    opened(run_dir).metrics(20, {"loss": 1.0})
    assert [json.loads(line)["seq"] for line in run_dir.events.read_text().splitlines()] == [1, 2]


def test_an_event_that_a_kill_cut_short_is_cut_off(run_dir: RunDir) -> None:
    run_dir.events.write_text('{"seq": 7}\n{"seq": 8, "ts')
    assert whole_events(run_dir.events) == 7
    assert run_dir.events.read_text() == '{"seq": 7}\n'


def test_an_event_file_with_nothing_whole_in_it_begins_anew(run_dir: RunDir) -> None:
    run_dir.events.write_text('{"seq": 1')
    assert whole_events(run_dir.events) == 0
    assert run_dir.events.read_text() == ""


def test_the_log_is_both_kept_and_shown(run_dir: RunDir) -> None:
    seen = Seen()
    opened(run_dir, seen).log("one\ntwo", "warning")
    assert seen.lines == ["one\ntwo"]
    assert [line[20:] for line in run_dir.log.read_text().splitlines()] == ["WARN    one", "WARN    two"]


def test_progress_is_shown_as_it_is_reported(run_dir: RunDir) -> None:
    seen = Seen()
    opened(run_dir, seen).emit(Progress, phase="training", done=3, total=9, unit="steps")
    assert seen.done == [3]


def test_ctrl_c_asks_for_the_end_and_a_second_one_ends_at_once(
    run_dir: RunDir, capfd: pytest.CaptureFixture[str]
) -> None:
    run = opened(run_dir)
    signal.raise_signal(signal.SIGINT)
    assert run.poll() == [Terminated()]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_commands_to_an_earlier_process_are_not_obeyed_again(run_dir: RunDir) -> None:
    told = json.dumps({"type": "checkpoint", "id": str(UUID(int=2)), "ts": 0.0}) + "\n"
    run_dir.commands.write_text(told)
    run = opened(run_dir)
    with run_dir.commands.open("a") as file:
        file.write(told.replace("checkpoint", "stop"))
    assert [instruction.type for instruction in run.poll()] == ["stop"]  # type: ignore[union-attr]


def test_a_damaged_checkpoint_is_passed_over_aloud(run_dir: RunDir) -> None:
    (run_dir.checkpoints / "step_20").mkdir()
    seen = Seen()
    with pytest.raises(UserError, match="no intact checkpoint"):
        chosen_checkpoint(run_dir, "newest", seen)
    assert "trying the one before" in seen.lines[0]


def test_a_checkpoint_may_be_named(run_dir: RunDir) -> None:
    (run_dir.checkpoints / "step_20").mkdir()
    assert chosen_checkpoint(run_dir, "step_20", Seen()) == run_dir.checkpoints / "step_20"
    with pytest.raises(UserError, match="no checkpoint 'step_30'"):
        chosen_checkpoint(run_dir, "step_30", Seen())


def test_a_directory_in_use_is_refused(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    with run_dir.claim.open("a") as claim:
        fcntl.flock(claim, fcntl.LOCK_EX)
        assert main([str(run_dir.path)]) == 2
    assert "by another process" in capsys.readouterr().out


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 2
