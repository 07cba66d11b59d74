"""Jobs in steps, and jobs again and again."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from orchestrator.client import Client
from orchestrator.domain import Owner
from orchestrator.errors import IdempotencyConflict, InvalidInput, NotFound
from orchestrator.executors.fake import FakeEngine
from orchestrator.views import PipelineView
from tests.integration.conftest import Orchestrator
from tests.waiting import until
from worker_image.contract.events import Finished
from worker_image.contract.rundir import RunDir


def container(name: str, *command: str, **fields: Any) -> dict[str, Any]:
    params = {"image": "busybox", "command": command or ["run"]}
    return {"name": name, "type": "container", "params": params, "retry": {"max_retries": 0}, **fields}


def container_job() -> dict[str, Any]:
    return {"type": "container", "params": {"image": "busybox", "command": ["run"]}, "name": "nightly"}


def job_of(orchestrator: Orchestrator, made: PipelineView, step: str) -> str:
    """The id of a step's job, once it has one."""

    def known() -> UUID | None:
        return next(item.job_id for item in orchestrator.client.pipeline_of(made.id).steps if item.name == step)

    until(lambda: known() is not None, f"{step} has a job", lambda: orchestrator.client.pipeline_of(made.id))
    return str(known())


def stands(orchestrator: Orchestrator, made: PipelineView, status: str) -> PipelineView:
    until(
        lambda: orchestrator.client.pipeline_of(made.id).status == status,
        f"the pipeline is {status}",
        lambda: orchestrator.client.pipeline_of(made.id),
    )
    return orchestrator.client.pipeline_of(made.id)


def days_later(orchestrator: Orchestrator, days: int = 1) -> None:
    """Let the conductor look as it would some days from now."""
    orchestrator.does(orchestrator.state.conductor.look(datetime.now(UTC) + timedelta(days=days)))


def test_a_step_starts_after_the_one_it_needs_and_reads_what_it_left(orchestrator: Orchestrator) -> None:
    words = ["cat", "${train.artifact.sae/cfg.json}", "${train.results.fvu}"]
    made = orchestrator.client.pipeline([container("train"), container("look", *words, needs={"train": "completed"})])
    train = job_of(orchestrator, made, "train")
    assert [item.state for item in made.steps] == ["started", "waiting"]
    orchestrator.reaches(train, "running")
    orchestrator.report(train, Finished(seq=1, ts=1, outcome="completed", results={"fvu": 0.25}))
    orchestrator.exit(train)
    look = job_of(orchestrator, made, "look")
    artifacts = RunDir.of(orchestrator.settings.home, UUID(train), 1).artifacts
    assert orchestrator.client.job(look).params["command"] == ["cat", f"{artifacts}/sae/cfg.json", "0.25"]
    assert artifacts in orchestrator.run_of(look).spec.read_only
    orchestrator.exit(look)
    stands(orchestrator, made, "completed")


def test_what_needs_a_failed_step_is_skipped_and_what_is_for_that_case_runs(orchestrator: Orchestrator) -> None:
    made = orchestrator.client.pipeline(
        [
            container("train"),
            container("use", needs={"train": "completed"}),
            container("use-more", needs={"use": "completed"}),
            container("tell", needs={"train": "failed"}),
        ]
    )
    orchestrator.exit(job_of(orchestrator, made, "train"), 1)
    orchestrator.exit(job_of(orchestrator, made, "tell"))
    ended = stands(orchestrator, made, "failed")
    states = {item.name: item.state for item in ended.steps}
    assert states == {"train": "started", "use": "skipped", "use-more": "skipped", "tell": "started"}


def test_a_pipeline_that_stands_still_says_what_its_paused_job_failed_by(orchestrator: Orchestrator) -> None:
    retry = {"max_retries": 0, "on_failure": "pause"}
    made = orchestrator.client.pipeline(
        [container("train") | {"retry": retry}, container("look", needs={"train": "ended"})]
    )
    train = job_of(orchestrator, made, "train")
    orchestrator.exit(train, 3)
    orchestrator.reaches(train, "paused")
    found = stands(orchestrator, made, "running")
    assert [(item.state, item.status) for item in found.steps] == [("started", "paused"), ("waiting", None)]
    assert "exited with code 3" in found.steps[0].detail


def test_a_step_whose_template_cannot_be_filled_is_refused_with_the_reason(orchestrator: Orchestrator) -> None:
    made = orchestrator.client.pipeline(
        [container("train"), container("look", "${train.checkpoint}", needs={"train": "completed"})]
    )
    orchestrator.exit(job_of(orchestrator, made, "train"))
    look = stands(orchestrator, made, "failed").steps[1]
    assert look.state == "refused"
    assert "left no checkpoint" in look.detail


def test_a_pipeline_goes_on_after_a_restart_and_starts_no_step_twice(home: Path, engine: FakeEngine) -> None:
    first = Orchestrator.start(home, engine, cpus=4)
    made = first.client.pipeline([container("a"), container("b", needs={"a": "completed"})])
    a = job_of(first, made, "a")
    first.run_of(a)
    first.stop()
    second = Orchestrator.start(home, engine, cpus=4)
    try:
        second.exit(a)
        second.exit(job_of(second, made, "b"))
        stands(second, made, "completed")
        assert second.client.jobs().total == 2
    finally:
        second.stop()


def test_a_cancelled_pipeline_starts_nothing_more(orchestrator: Orchestrator) -> None:
    made = orchestrator.client.pipeline([container("a"), container("b", needs={"a": "ended"})])
    a = job_of(orchestrator, made, "a")
    orchestrator.client.cancel_pipeline(made.id)
    orchestrator.reaches(a, "cancelled")
    ended = stands(orchestrator, made, "cancelled")
    assert ended.steps[1].detail == "cancelled"


@pytest.mark.parametrize(
    ("step", "field"),
    [
        (container("b", params={"image": "busybox", "command": ["x"], "imag": "y"}), "steps.b.params.imag"),
        ({"name": "b", "type": "train_sae", "params": {"model": "none", "dataset": "none"}}, "steps.b.params.model"),
        ({"name": "b", "type": "nonsense"}, "steps.b.type"),
    ],
)
def test_a_step_that_could_not_run_refuses_the_pipeline(
    orchestrator: Orchestrator, step: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        orchestrator.client.pipeline([container("a"), step])
    assert refused.value.field == field
    assert orchestrator.client.jobs().total == 0


def test_a_key_of_one_owner_sees_no_pipeline_or_schedule_of_another(orchestrator: Orchestrator) -> None:
    made = orchestrator.client.pipeline([container("a")], owner="grace")
    daily = orchestrator.client.schedule("0 3 * * *", container_job(), owner="grace")
    key = orchestrator.client.create_key("ada's", role="write", owner="ada").key
    with Client(orchestrator.url, key) as client:
        assert client.pipelines().items == []
        assert client.schedules().items == []
        with pytest.raises(NotFound):
            client.cancel_pipeline(made.id)
        with pytest.raises(NotFound):
            client.remove_schedule(daily.id)


def test_a_key_for_one_job_type_sees_no_schedule_of_another(orchestrator: Orchestrator) -> None:
    job = orchestrator.client.schedule("0 3 * * *", container_job())
    steps = {"steps": [container("a")]}
    orchestrator.client.schedule("0 4 * * *", steps, kind="pipeline")
    key = orchestrator.client.create_key("trainer", role="write", types=["train_sae"]).key
    with Client(orchestrator.url, key) as client:
        assert client.schedules().items == []
        with pytest.raises(NotFound):
            client.remove_schedule(job.id)


def test_a_step_waits_while_its_owner_may_queue_no_further_job(orchestrator: Orchestrator) -> None:
    orchestrator.does(orchestrator.state.store.owners.put(Owner("ada", max_queued=0)))
    made = orchestrator.client.pipeline([container("a")], owner="ada")
    assert made.steps[0].state == "waiting"
    orchestrator.does(orchestrator.state.conductor.look(datetime.now(UTC)))
    orchestrator.does(orchestrator.state.store.owners.put(Owner("ada")))
    orchestrator.does(orchestrator.state.conductor.look(datetime.now(UTC)))
    orchestrator.run_of(job_of(orchestrator, made, "a"))


def test_a_schedule_submits_its_job_when_it_is_due_and_once(orchestrator: Orchestrator) -> None:
    made = orchestrator.client.schedule("0 3 * * *", container_job(), overlap="queue")
    assert orchestrator.client.jobs().total == 0
    days_later(orchestrator)
    days_later(orchestrator)
    (job,) = orchestrator.client.jobs().items
    kept = orchestrator.client.schedules().items[0]
    assert (kept.made, kept.detail) == (job.id, "submitted")
    assert kept.next_at > made.next_at


def test_a_schedule_leaves_a_time_out_while_the_job_before_has_not_ended(orchestrator: Orchestrator) -> None:
    orchestrator.client.schedule("0 3 * * *", container_job())
    days_later(orchestrator, 1)
    days_later(orchestrator, 3)
    assert orchestrator.client.jobs().total == 1
    assert "has not ended" in orchestrator.client.schedules().items[0].detail


def test_a_schedule_that_rests_submits_nothing(orchestrator: Orchestrator) -> None:
    made = orchestrator.client.schedule("0 3 * * *", container_job())
    orchestrator.client.enable_schedule(made.id, False)
    days_later(orchestrator)
    assert orchestrator.client.jobs().total == 0
    orchestrator.client.remove_schedule(made.id)
    assert orchestrator.client.schedules().items == []


def test_a_schedule_may_submit_a_pipeline(orchestrator: Orchestrator) -> None:
    steps = {"steps": [container("a"), container("b", needs={"a": "completed"})]}
    orchestrator.client.schedule("0 3 * * *", steps, kind="pipeline")
    days_later(orchestrator)
    (made,) = orchestrator.client.pipelines().items
    assert [item.state for item in made.steps] == ["started", "waiting"]


def test_what_a_schedule_could_not_submit_is_refused_at_once(orchestrator: Orchestrator) -> None:
    with pytest.raises(InvalidInput) as refused:
        orchestrator.client.schedule("0 3 * * *", {"type": "container", "params": {"image": "busybox"}})
    assert refused.value.field == "submission.params.command"


def test_a_pipeline_that_comes_again_by_its_key_is_the_one_it_made(orchestrator: Orchestrator) -> None:
    first, again = (orchestrator.client.pipeline([container("only")], idempotency_key="once") for _ in range(2))
    assert first.id == again.id
    assert orchestrator.client.jobs().total == 1
    with pytest.raises(IdempotencyConflict):
        orchestrator.client.pipeline([container("other")], idempotency_key="once")


def test_a_key_for_a_sweep_makes_no_pipeline(orchestrator: Orchestrator) -> None:
    orchestrator.client.sweep("container", {"image": "busybox", "command": ["run"]}, idempotency_key="once")
    with pytest.raises(IdempotencyConflict):
        orchestrator.client.pipeline([container("only")], idempotency_key="once")
