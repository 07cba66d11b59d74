"""What the machine, the engine and the queue look like through the API."""

from dataclasses import replace
from typing import Any

import pynvml
import pytest
import requests

from orchestrator.domain import RetryPolicy
from orchestrator.gpus import Gpu, GpuProcess, GpuReport
from tests.integration.conftest import Orchestrator
from tests.waiting import until


def show(orchestrator: Orchestrator, *gpus: Gpu, **report: Any) -> None:
    """Have the machine seem to have these GPUs, from the next look on."""

    def probe() -> GpuReport:
        return GpuReport(gpus, **report)

    orchestrator.state.monitor._probe = probe
    orchestrator.state.scheduler._probe = orchestrator.state.scheduler._board._probe = probe
    # A look that was under way saw the machine as it was before.
    orchestrator.does(look_afresh(orchestrator))


async def look_afresh(orchestrator: Orchestrator) -> None:
    for _ in range(2):
        orchestrator.state.monitor._seen = None
        await orchestrator.state.monitor.look()


def get(orchestrator: Orchestrator, path: str) -> requests.Response:
    return requests.get(orchestrator.url + path, timeout=10)


def test_the_status_tells_of_machine_engine_queue_and_itself(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit()
    orchestrator.reaches(job_id, "running")
    orchestrator.does(look_afresh(orchestrator))
    status = orchestrator.client.system_status()
    assert status.core_percent
    assert len(status.load_average) == 3
    assert 0 < status.memory_used_mb < status.memory_total_mb
    assert 0 < status.disk_free_mb <= status.disk_total_mb
    assert 0 <= status.inodes_free <= status.inodes_total
    assert status.engine_health is not None
    assert (status.engine_health.answer, status.engine_health.error) == ("fake engine", None)
    assert status.engine_health.latency_s is not None
    assert status.engine_health.facts == {"kept in": "memory"}
    assert status.queue.running_attempts == status.queue.begun_last_hour == 1
    assert status.orchestrator is not None
    assert status.orchestrator.memory_mb > 10


def test_waiting_jobs_are_counted_by_reason_and_the_oldest_is_told(orchestrator: Orchestrator) -> None:
    for _ in range(6):
        orchestrator.submit()
    until(lambda: len(orchestrator.state.scheduler.waits) == 2, "two jobs wait")
    orchestrator.does(look_afresh(orchestrator))
    queue = orchestrator.client.system_status().queue
    assert queue.by_reason == {"cpu_busy": 1, "behind_others": 1} or sum(queue.by_reason.values()) == 2
    assert queue.oldest_age_s is not None
    assert queue.oldest_age_s >= 0


def test_the_queue_is_told_in_the_order_of_turns(orchestrator: Orchestrator) -> None:
    for _ in range(4):
        orchestrator.reaches(orchestrator.submit(), "running")
    low, high, normal = (orchestrator.submit(priority=priority) for priority in (-5, 5, 0))
    until(lambda: len(orchestrator.client.queue().items) == 3, "the plan knows them")
    queue = orchestrator.client.queue()
    assert [str(job.id) for job in queue.items] == [high, normal, low]
    assert [job.wait.position for job in queue.items if job.wait] == [1, 2, 3]
    first = orchestrator.client.queue(limit=1)
    assert ([str(job.id) for job in first.items], first.total) == ([high], 3)


def test_a_gpu_is_told_with_its_processes_and_whose_they_are(orchestrator: Orchestrator) -> None:
    gpu = Gpu("GPU-a", 0, "H200", 8000, 1000, power_w=300, power_limit_w=700, throttling=("power limit",))
    show(orchestrator, gpu)
    job_id = orchestrator.train()
    run = orchestrator.run_of(job_id)
    orchestrator.reaches(job_id, "running")
    assert run.spec.gpus == ("GPU-a",)
    run.pids = {4242}
    busy = Gpu("GPU-a", 0, "H200", 8000, 1000, processes=(GpuProcess(4242, "python", 900), GpuProcess(5, "games")))
    show(orchestrator, busy)
    (seen,) = orchestrator.client.system_status().gpus
    assert [str(job) for job in seen.leased_by] == [job_id]
    assert [(each.pid, each.job_id and str(each.job_id), each.foreign) for each in seen.processes] == [
        (4242, job_id, False),
        (5, None, True),
    ]
    assert seen.foreign_processes == 1


def test_a_lost_gpu_is_told_and_not_handed_out(orchestrator: Orchestrator) -> None:
    show(orchestrator, Gpu("GPU-a", 0, "H200", 8000, 0, lost=True, problems=("it is lost: GPU is lost",)))
    job_id = orchestrator.train()
    until(lambda: orchestrator.client.job(job_id).wait is not None, "the job waits")
    (seen,) = orchestrator.client.system_status().gpus
    assert (seen.lost, seen.problems) == (True, ["it is lost: GPU is lost"])
    assert not orchestrator.engine.runs


def test_a_job_whose_gpu_is_lost_is_ended_told_so_and_tried_again_elsewhere(orchestrator: Orchestrator) -> None:
    first, second = Gpu("GPU-a", 0, "H200", 8000, 0), Gpu("GPU-b", 1, "H200", 8000, 900)
    show(orchestrator, first, second)
    job_id = orchestrator.train(retry=RetryPolicy(backoff_s=0))
    run = orchestrator.run_of(job_id)
    orchestrator.reaches(job_id, "running")
    assert run.spec.gpus == ("GPU-a",)
    show(orchestrator, replace(first, lost=True, problems=("it fell off the bus",)), second)
    orchestrator.does(tell_lost(orchestrator, "GPU-a"))
    again = orchestrator.run_of(job_id, attempt=2)
    assert again.spec.gpus == ("GPU-b",)
    ended = orchestrator.client.job(job_id).attempt_list[0]
    assert ended.end_reason == "gpu_lost"
    assert "it fell off the bus" in (ended.detail or "")


async def tell_lost(orchestrator: Orchestrator, uuid: str) -> None:
    orchestrator.state.scheduler.gpus_lost(frozenset({uuid}))


def test_why_a_gpu_cannot_be_read_is_told(orchestrator: Orchestrator) -> None:
    show(orchestrator, unread=("GPU 0 cannot be read: no permission",), driver="560.35")
    status = orchestrator.client.system_status()
    assert (status.gpu_error, status.gpu_driver) == ("GPU 0 cannot be read: no permission", "560.35")


def test_the_history_begins_with_the_orchestrator_and_keeps_its_figures(orchestrator: Orchestrator) -> None:
    until(lambda: orchestrator.client.system_history().traces, "the first sample is taken")
    traces = orchestrator.client.system_history(since_s=60, max_points=4).traces
    assert {"cpu_percent", "memory_used_mb", "disk_free_mb", "jobs_queued", "attempts_running"} <= traces.keys()
    assert all(len(trace.times) == len(trace.values) <= 4 for trace in traces.values())


def test_health_tells_live_and_ready_apart_and_asks_for_no_key(orchestrator: Orchestrator) -> None:
    until(lambda: get(orchestrator, "/health/ready").status_code == 200, "it is ready")
    orchestrator.engine.down = True
    until(lambda: get(orchestrator, "/health/ready").status_code == 503, "it is no longer ready", timeout_s=40)
    answer = get(orchestrator, "/health/ready").json()
    assert answer == {
        "ready": False,
        "parts": {"database": True, "scheduler": True, "engine": False, "disk": True},
    }
    assert get(orchestrator, "/health/live").json() == {"status": "ok"}
    assert get(orchestrator, "/health").json()["status"] == "degraded"


def test_what_is_public_tells_no_secret(orchestrator: Orchestrator) -> None:
    for path in ("/health", "/health/live", "/health/ready"):
        assert orchestrator.key not in get(orchestrator, path).text


def test_a_driver_that_fails_does_not_fail_the_status(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)

    monkeypatch.setattr(pynvml, "nvmlInit", refuse)
    orchestrator.does(look_afresh(orchestrator))
    status = orchestrator.client.system_status()
    assert status.gpus == []
    assert status.gpu_error is not None
