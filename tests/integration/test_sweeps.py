"""Many jobs from one request."""

import pytest

from orchestrator.client import Client
from orchestrator.domain import RetryPolicy
from orchestrator.errors import IdempotencyConflict, InvalidInput, NotFound
from orchestrator.views import SweepView
from tests.integration.conftest import Orchestrator
from worker_image.contract.events import Finished

ONCE = RetryPolicy(max_retries=0)


def sweep(orchestrator: Orchestrator, **space: object) -> SweepView:
    """Containers of one core each, of which four fit the machine."""
    params = {"image": "busybox", "command": ["run"]}
    return orchestrator.client.sweep("container", params, retry=ONCE, **space)


def names(orchestrator: Orchestrator, made: SweepView, status: str | None = None) -> list[str]:
    return sorted(job.name for job in orchestrator.client.jobs(sweep=made.id, status=status, limit=1000).items)


def test_a_sweep_queues_a_job_for_every_point(orchestrator: Orchestrator) -> None:
    made = sweep(orchestrator, name="images", grid={"image": ["a", "b", "c"]})
    assert sum(made.jobs.values()) == 3
    assert made.varied == ["image"]
    assert names(orchestrator, made) == ["images-0", "images-1", "images-2"]
    points = orchestrator.client.sweep_results(made.id).items
    assert [point.params for point in points] == [{"image": "a"}, {"image": "b"}, {"image": "c"}]


def test_a_point_that_is_refused_refuses_the_sweep(orchestrator: Orchestrator) -> None:
    with pytest.raises(InvalidInput) as refused:
        sweep(orchestrator, grid={"image": ["good", "not an image"]})
    assert refused.value.field == "params.image"
    assert orchestrator.client.jobs().total == 0
    assert orchestrator.client.sweeps().items == []


def test_a_parameter_the_type_does_not_have_is_named(orchestrator: Orchestrator) -> None:
    with pytest.raises(InvalidInput) as refused:
        sweep(orchestrator, grid={"imagee": ["a"]})
    assert refused.value.field == "imagee"


def test_the_jobs_of_an_array_know_their_index(orchestrator: Orchestrator) -> None:
    made = sweep(orchestrator, repeat=3)
    jobs = orchestrator.client.jobs(sweep=made.id).items
    assert sorted(job.params["env"]["SAEFORGE_ARRAY_INDEX"] for job in jobs) == ["0", "1", "2"]


def test_results_are_listed_the_best_first(orchestrator: Orchestrator) -> None:
    made = sweep(orchestrator, grid={"image": ["a", "b", "c"]})
    jobs = {job.params["image"]: str(job.id) for job in orchestrator.client.jobs(sweep=made.id).items}
    for image, fvu in (("a", 0.3), ("b", 0.1)):
        orchestrator.reaches(jobs[image], "running")
        orchestrator.report(jobs[image], Finished(seq=1, ts=1, outcome="completed", results={"fvu": fvu}))
        orchestrator.exit(jobs[image])
        orchestrator.reaches(jobs[image], "completed")
    listed = orchestrator.client.sweep_results(made.id, metric="fvu").items
    assert [point.params["image"] for point in listed] == ["b", "a", "c"]
    worst_first = orchestrator.client.sweep_results(made.id, metric="fvu", best="highest").items
    assert [point.params["image"] for point in worst_first] == ["a", "b", "c"]


def test_a_sweep_is_cancelled_as_a_whole(orchestrator: Orchestrator) -> None:
    made = sweep(orchestrator, repeat=6)
    acted = orchestrator.client.act_on_sweep(made.id, "cancel")
    assert (acted.done, acted.left) == (6, 0)
    for job in orchestrator.client.jobs(sweep=made.id).items:
        orchestrator.reaches(str(job.id), "cancelled")
    assert orchestrator.client.sweep_of(made.id).jobs == {"cancelled": 6}


def test_no_more_jobs_of_a_sweep_run_at_once_than_it_allows(orchestrator: Orchestrator) -> None:
    made = sweep(orchestrator, repeat=3, max_running=1)
    first, second, third = (str(point.job_id) for point in orchestrator.client.sweep_results(made.id).items)
    orchestrator.reaches(first, "running")
    other = orchestrator.submit()
    orchestrator.reaches(other, "running")
    waiting = orchestrator.client.job(second)
    assert waiting.wait is not None
    assert (waiting.status, waiting.wait.reason) == ("queued", "concurrency")
    assert "1 of at most 1" in waiting.wait.detail
    orchestrator.exit(first)
    orchestrator.reaches(second, "running")
    assert orchestrator.status(third) == "queued"
    orchestrator.client.limit_sweep(made.id, None)
    orchestrator.reaches(third, "running")


def test_an_unknown_sweep_is_not_found(orchestrator: Orchestrator) -> None:
    with pytest.raises(NotFound, match="no sweep"):
        orchestrator.client.sweep_of("00000000-0000-4000-8000-000000000000")


def test_a_key_of_one_owner_sees_no_sweep_of_another(orchestrator: Orchestrator) -> None:
    mine, other = sweep(orchestrator, repeat=1, owner="ada"), sweep(orchestrator, repeat=1, owner="grace")
    key = orchestrator.client.create_key("ada's", role="write", owner="ada").key
    with Client(orchestrator.url, key) as client:
        assert [found.id for found in client.sweeps().items] == [mine.id]
        with pytest.raises(NotFound):
            client.act_on_sweep(other.id, "cancel")


def test_a_sweep_that_comes_again_by_its_key_is_the_one_it_made(orchestrator: Orchestrator) -> None:
    first, again = (sweep(orchestrator, grid={"image": ["a", "b"]}, idempotency_key="once") for _ in range(2))
    assert first.id == again.id
    assert orchestrator.client.jobs().total == 2
    with pytest.raises(IdempotencyConflict):
        sweep(orchestrator, grid={"image": ["a", "c"]}, idempotency_key="once")


def test_the_key_of_a_sweep_is_its_owners(orchestrator: Orchestrator) -> None:
    made = sweep(orchestrator, repeat=1, idempotency_key="once")
    key = orchestrator.client.create_key("theirs", role="write", owner="alice").key
    with Client(orchestrator.url, key, timeout_s=10, retries=0) as alice:
        params = {"image": "busybox", "command": ["run"]}
        assert alice.sweep("container", params, repeat=1, retry=ONCE, idempotency_key="once").id != made.id
