"""Checkpoints of earlier attempts: counted with a later one's, deleted by the same policy."""

from pathlib import Path
from uuid import UUID

from tests.integration.conftest import Orchestrator
from tests.waiting import until
from worker_image.contract.events import CheckpointSaved, Event, Finished
from worker_image.contract.retention import EarlierCheckpoint
from worker_image.contract.rundir import RunDir


def saves(orchestrator: Orchestrator, job_id: str, attempt: int, losses: dict[int, float]) -> list[Event]:
    """Lay out the checkpoints of an attempt; the events that tell of them."""
    folder = RunDir(orchestrator.run_of(job_id, attempt).spec.run_dir).checkpoints
    told: list[Event] = []
    for step, loss in losses.items():
        (folder / f"step_{step}").mkdir()
        told.append(
            CheckpointSaved(
                seq=len(told) + 1, ts=1, name=f"step_{step}", step=step, held_out_loss=loss, size_bytes=1,
                digest="sha256:0", reason="interval",
            )
        )  # fmt: skip
    return told


def paused(orchestrator: Orchestrator, losses: dict[int, float]) -> str:
    """A training whose first attempt left these, step by step, and was paused."""
    job_id = orchestrator.train()
    orchestrator.reaches(job_id, "running")
    orchestrator.client.pause(job_id)
    told = saves(orchestrator, job_id, 1, losses)
    orchestrator.report(job_id, *told, Finished(seq=len(told) + 1, ts=1, outcome="paused"))
    orchestrator.exit(job_id)
    orchestrator.reaches(job_id, "paused")
    return job_id


def on_disk(orchestrator: Orchestrator, job_id: str, attempt: int) -> set[str]:
    folder = RunDir.of(orchestrator.settings.home, UUID(job_id), attempt).checkpoints
    return {path.name for path in folder.iterdir()}


def goes_on(orchestrator: Orchestrator, job_id: str) -> RunDir:
    orchestrator.client.resume(job_id)
    return RunDir(orchestrator.run_of(job_id, 2).spec.run_dir)


def test_a_resumed_attempt_is_told_what_is_there(orchestrator: Orchestrator) -> None:
    job_id = paused(orchestrator, {1: 0.5, 2: 0.25})
    assert goes_on(orchestrator, job_id).spec().earlier == (
        EarlierCheckpoint(attempt=1, step=1, held_out_loss=0.5),
        EarlierCheckpoint(attempt=1, step=2, held_out_loss=0.25),
    )


def test_a_resumed_attempt_leaves_no_more_of_the_one_before_than_the_policy_keeps(orchestrator: Orchestrator) -> None:
    job_id = paused(orchestrator, {1: 0.9, 2: 0.8, 3: 0.1, 4: 0.7, 5: 0.6})
    goes_on(orchestrator, job_id)
    orchestrator.report(job_id, *saves(orchestrator, job_id, 2, {6: 0.5, 7: 0.5, 8: 0.5}), attempt=2)
    # The first, the best, and the one that it continues from.
    until(lambda: on_disk(orchestrator, job_id, 1) == {"step_1", "step_3", "step_5"}, "the others are deleted")
    assert on_disk(orchestrator, job_id, 2) == {"step_6", "step_7", "step_8"}
    until(lambda: len(orchestrator.client.checkpoints(job_id)) == 6, "they are forgotten")


def test_a_checkpoint_that_is_only_told_of_supersedes_nothing(orchestrator: Orchestrator) -> None:
    job_id = paused(orchestrator, {1: 0.9, 2: 0.8, 3: 0.1, 4: 0.7})
    goes_on(orchestrator, job_id)
    told = saves(orchestrator, job_id, 2, {6: 0.5, 7: 0.5, 8: 0.5})
    for path in RunDir.of(orchestrator.settings.home, UUID(job_id), 2).checkpoints.iterdir():
        Path(path).rmdir()
    orchestrator.report(job_id, *told, attempt=2)
    until(lambda: len(orchestrator.client.checkpoints(job_id)) == 7, "they are stored")
    assert on_disk(orchestrator, job_id, 1) == {"step_1", "step_2", "step_3", "step_4"}
