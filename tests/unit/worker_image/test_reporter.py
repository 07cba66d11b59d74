"""What a run writes and reads: whole lines, in order, each command answered."""

import errno
import json
import os
import signal
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from worker_image.contract.commands import CheckpointNow, Pause, SetLearningRate
from worker_image.contract.events import CommandApplied, CommandRejected, Finished, Message, Metrics, event
from worker_image.contract.jobs import JobParams, TrainSaeParams
from worker_image.contract.rundir import RunDir, RunSpec
from worker_image.reporter import NullRun, Run, Terminated


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "run")
    made.create(spec_of(TrainSaeParams(model="m", dataset="d")))
    return made


@pytest.fixture
def run(run_dir: RunDir):  # type: ignore[no-untyped-def]
    before = signal.getsignal(signal.SIGTERM)
    yield Run(run_dir, run_dir.spec())
    signal.signal(signal.SIGTERM, before)


def spec_of(params: JobParams) -> RunSpec:
    return RunSpec(job_id=uuid4(), attempt=1, name="test", params=params)


def events_of(run_dir: RunDir) -> list:  # type: ignore[type-arg]
    return [event.validate_json(line) for line in run_dir.events.read_bytes().splitlines()]


def append(run_dir: RunDir, text: str) -> None:
    with run_dir.commands.open("a") as file:
        file.write(text)


def line(**command: object) -> str:
    return json.dumps({"id": str(uuid4()), "ts": 1.0} | command) + "\n"


def test_events_are_numbered_from_one(run: Run, run_dir: RunDir) -> None:
    for text in ("one", "two"):
        run.notify(text, "info")
    assert [(e.seq, e.text) for e in events_of(run_dir)] == [(1, "one"), (2, "two")]


def test_events_are_appended_to_what_is_there(run: Run, run_dir: RunDir) -> None:
    run.emit(Message, level="info", text="first")
    size = run_dir.events.stat().st_size
    run.emit(Message, level="info", text="second")
    assert run_dir.events.read_bytes()[size - 1 : size] == b"\n"


def fill_disk(patch: pytest.MonkeyPatch, room: int) -> None:
    """Let ``room`` bytes more be written in all, then fail as a full disk does."""
    write = os.write

    def write_to_full_disk(descriptor: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(descriptor, data[:room])
        room -= written
        return written

    patch.setattr(os, "write", write_to_full_disk)


@pytest.mark.parametrize("cut", ["in the middle", "before the newline"])
def test_an_event_cut_short_by_a_full_disk_leaves_the_next_one_readable(
    run: Run, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    run.emit(Message, level="info", text="whole")
    monkeypatch.setattr("time.time", lambda: 1.0)
    whole = len(Message(seq=2, ts=1.0, level="info", text="cut").model_dump_json())
    with monkeypatch.context() as patch:
        fill_disk(patch, room=20 if cut == "in the middle" else whole)
        with pytest.raises(OSError, match="No space left"):
            run.emit(Message, level="info", text="cut")
    run.finish("failed")
    _, cut_short, last = run_dir.events.read_bytes().splitlines()
    assert len(cut_short) == (20 if cut == "in the middle" else whole)
    assert isinstance(event.validate_json(last), Finished)
    assert event.validate_json(last).seq == 3


def test_an_event_of_which_nothing_was_written_leaves_no_empty_line(
    run: Run, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fill_disk(patch, room=0)
        with pytest.raises(OSError, match="No space left"):
            run.emit(Message, level="info", text="lost")
    run.finish("failed")
    [finished] = events_of(run_dir)
    assert isinstance(finished, Finished)


def test_an_event_taken_in_pieces_is_written_whole(run: Run, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
        run.emit(Message, level="info", text="in pieces")
    assert [found.text for found in events_of(run_dir)] == ["in pieces"]


def test_an_answer_that_finds_the_disk_full_does_not_take_the_last_word_with_it(
    run: Run, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(run_dir, line(type="pause"))
    emit = run.emit

    def emit_no_answer(kind, **fields):  # type: ignore[no-untyped-def]
        if kind is CommandRejected:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        emit(kind, **fields)

    monkeypatch.setattr(run, "emit", emit_no_answer)
    run.finish("completed")
    [finished] = events_of(run_dir)
    assert finished.outcome == "completed"


def test_values_that_are_not_finite_are_left_out(run: Run, run_dir: RunDir) -> None:
    run.metrics(3, {"loss": float("nan"), "fvu": float("inf"), "l0": 2.0})
    [metrics] = events_of(run_dir)
    assert isinstance(metrics, Metrics)
    assert metrics.values == {"l0": 2.0}


def test_log_lines_bear_time_and_level(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.log("one\ntwo", "warning")
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[2:] == ["WARN", "one"]
    assert second.split()[2:] == ["WARN", "two"]


def test_commands_are_handed_over_once_and_in_order(run: Run, run_dir: RunDir) -> None:
    append(run_dir, line(type="set_learning_rate", lr=0.01) + line(type="pause"))
    first, second = run.poll()
    assert isinstance(first, SetLearningRate)
    assert isinstance(second, Pause)
    assert run.poll() == []


def test_half_a_line_waits_for_its_other_half(run: Run, run_dir: RunDir) -> None:
    whole = line(type="checkpoint")
    append(run_dir, whole[:20])
    assert run.poll() == []
    append(run_dir, whole[20:])
    assert [type(instruction) for instruction in run.poll()] == [CheckpointNow]


def test_applied_and_rejected_name_the_command(run: Run, run_dir: RunDir) -> None:
    append(run_dir, line(type="checkpoint") + line(type="pause"))
    first, second = run.poll()
    run.applied(first, "step_4 is saved")
    run.rejected(second, "no")
    applied, rejected = events_of(run_dir)
    assert isinstance(applied, CommandApplied)
    assert isinstance(rejected, CommandRejected)
    assert (applied.command_id, applied.detail) == (first.id, "step_4 is saved")
    assert (rejected.command_id, rejected.reason) == (second.id, "no")


@pytest.mark.parametrize(
    "command", [{"type": "dance"}, {"type": "set_learning_rate", "lr": 5}, {"type": "pause", "extra": 1}]
)
def test_a_command_that_makes_no_sense_is_rejected_by_its_id(
    run: Run, run_dir: RunDir, command: dict[str, object]
) -> None:
    append(run_dir, line(**command | {"id": "12345678-1234-5678-1234-567812345678"}))
    assert run.poll() == []
    [rejected] = events_of(run_dir)
    assert isinstance(rejected, CommandRejected)
    assert rejected.command_id == UUID("12345678-1234-5678-1234-567812345678")


def test_a_line_without_an_id_harms_nothing(run: Run, run_dir: RunDir) -> None:
    append(run_dir, "garbage\n[]\n" + line(type="checkpoint"))
    assert [type(instruction) for instruction in run.poll()] == [CheckpointNow]
    assert events_of(run_dir) == []


def test_sigterm_is_handed_over_and_not_answered(run: Run, run_dir: RunDir) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    [terminated] = run.poll()
    assert isinstance(terminated, Terminated)
    run.applied(terminated)
    assert events_of(run_dir) == []


def test_commands_that_come_too_late_are_rejected(run: Run, run_dir: RunDir) -> None:
    append(run_dir, line(type="pause"))
    run.finish("completed", results={"fvu": 0.1})
    rejected, finished = events_of(run_dir)
    assert isinstance(rejected, CommandRejected)
    assert isinstance(finished, Finished)
    assert finished.results == {"fvu": 0.1}


def test_a_run_without_an_orchestrator_takes_the_same_calls(tmp_path: Path) -> None:
    run = NullRun(tmp_path)
    run.metrics(1, {"loss": 1.0})
    assert run.poll() == []
    run.finish("completed")
    assert not (tmp_path / "events.jsonl").exists()
