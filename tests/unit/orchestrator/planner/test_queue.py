from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain import Queued
from orchestrator.planner import Queue
from orchestrator.planner.queue import turns
from tests.unit.orchestrator.planner.scenes import asking


def order(queue: Queue) -> list[Queued]:
    return list(turns(queue.lines(), {}, lambda owner, shape: 1.0))


jobs = st.builds(
    asking, owner=st.sampled_from("abc"), priority=st.integers(0, 2), created_at=st.integers(0, 9).map(float)
)


@given(st.lists(jobs, max_size=20), st.lists(st.integers(0, 19)), st.lists(st.integers(0, 19)))
def test_a_queue_that_changed_step_by_step_is_the_same_as_one_made_at_once(
    found: list[Queued], taken_out: list[int], changed: list[int]
) -> None:
    queue, kept = Queue(), {}
    for job in found:
        queue.put(job)
        kept[job.id] = job
        queue.lines()
    for place in taken_out:
        if place < len(found):
            queue.remove(found[place].id)
            kept.pop(found[place].id, None)
    for place in changed:
        if place < len(found):
            job = replace(found[place], priority=9)
            queue.put(job)
            kept[job.id] = job
    assert queue.lines() == Queue(kept.values()).lines()
    assert order(queue) == order(Queue(kept.values()))
    assert len(queue) == len(queue.lines()) == len(kept)


@given(st.lists(jobs, max_size=20))
def test_every_job_has_one_turn_after_all_of_higher_priority_and_its_owners_older_ones(found: list[Queued]) -> None:
    turn = {job.id: place for place, job in enumerate(order(Queue(found)))}
    assert len(turn) == len(found)
    for one in found:
        for other in found:
            if one.priority > other.priority:
                assert turn[one.id] < turn[other.id]
            if (one.priority, one.owner) == (other.priority, other.owner) and one.created_at < other.created_at:
                assert turn[one.id] < turn[other.id]


def test_nothing_is_made_anew_while_nothing_changes() -> None:
    queue = Queue([asking()])
    assert queue.lines() is queue.lines()
