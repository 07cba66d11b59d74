"""What a run without an orchestrator goes on with."""

from pathlib import Path
from uuid import UUID

from orchestrator.cli.local import changes_told
from worker_image.contract.commands import CheckpointNow, SetLearningRate, SetParameters
from worker_image.contract.events import CommandApplied, CommandRejected
from worker_image.contract.rundir import RunDir


def test_changes_that_were_taken_up_are_made_again_and_no_others(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    lr, clip, refused, saved = (UUID(int=number) for number in range(4))
    commands = [
        SetLearningRate(id=lr, ts=0, lr=1e-3),
        SetParameters(id=clip, ts=0, values={"grad_clip": 1.0}),
        SetParameters(id=refused, ts=0, values={"k": 4}),
        CheckpointNow(id=saved, ts=0),
    ]
    events = [
        CommandApplied(seq=1, ts=0, command_id=lr, step=10),
        CommandRejected(seq=2, ts=0, command_id=refused, reason="no"),
        CommandApplied(seq=3, ts=0, command_id=clip, step=20),
        CommandApplied(seq=4, ts=0, command_id=saved, step=30),
    ]
    run_dir.commands.write_text("".join(command.model_dump_json() + "\n" for command in commands))
    run_dir.events.write_text("".join(event.model_dump_json() + "\n" for event in events) + '{"seq": 5, "t')
    told = changes_told(run_dir)
    assert [(change.id, change.step, change.values) for change in told] == [
        (lr, 10, {"lr": 1e-3}),
        (clip, 20, {"grad_clip": 1.0}),
    ]


def test_a_run_without_files_had_no_changes(tmp_path: Path) -> None:
    assert changes_told(RunDir(tmp_path)) == ()
