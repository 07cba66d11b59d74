"""What ``saeforge top`` shows."""

import io
import json
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.cli.top import MOST_SHOWN, Sight, picture
from orchestrator.views import JobView, SystemStatus
from tests.scripted_api import JOB, Answer, Script, http_server, job_json

GPU: dict[str, Any] = {
    "uuid": "GPU-a", "index": 0, "name": "H200", "memory_total_mb": 143_000, "memory_used_mb": 71_500,
    "utilization": 0.5, "temperature_c": 61, "power_w": 310, "power_limit_w": 700, "leased_by": [str(JOB)],
    "foreign_processes": 1, "throttling": ["power limit"], "problems": [], "lost": False,
    "processes": [
        {"pid": 11, "name": "python", "memory_mb": 900, "job_id": str(JOB), "foreign": False},
        {"pid": 12, "name": "games", "memory_mb": None, "job_id": None, "foreign": True},
    ],
}  # fmt: skip


def system(**changes: Any) -> dict[str, Any]:
    return {
        "version": "1", "executor": "docker", "engine": "Docker 20.10", "engine_error": None, "gpus": [GPU],
        "gpu_error": None, "cpus": 4, "cpu_percent": 25.0, "core_percent": [25.0] * 4, "load_average": [1.0, 0.5, 0.2],
        "memory_total_mb": 8000, "memory_used_mb": 2000, "swap_total_mb": 0, "swap_used_mb": 0, "disk_total_mb": 9000,
        "disk_free_mb": 5000, "home": "/home", "jobs": {"running": 1, "queued": 2}, "uptime_s": 3700,
        "activation_cache": {"entries": 2, "size_bytes": 1_290_000_000, "limit_bytes": 10**11},
        "queue": {"by_reason": {"gpu_busy": 2}, "oldest_age_s": 65},
    } | changes  # fmt: skip


def waiting(place: int) -> dict[str, object]:
    wait = {"reason": "gpu_busy", "detail": "needs 1 GPU(s); 0 of 1 free", "position": place, "eta_s": 90}
    return job_json("queued", id=str(UUID(int=place)), name=f"waits {place}", wait=wait)


PROGRESS = {"phase": "training", "done": 250, "total": 1000, "unit": "steps", "rate_per_s": 8.0, "eta_s": 94}


def shown(told: dict[str, Any], active: list[dict[str, object]], queued: list[dict[str, object]]) -> str:
    console = Console(file=io.StringIO(), width=180, force_terminal=False)
    sight = Sight(
        SystemStatus.model_validate(told),
        [JobView.model_validate(job) for job in active],
        [JobView.model_validate(job) for job in queued],
    )
    console.print(picture(sight, 180))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def running(**changes: Any) -> dict[str, object]:
    return job_json("running", name="layer three", phase="training", progress=PROGRESS, **changes)


def test_machine_gpus_jobs_and_queue_are_shown_with_their_figures() -> None:
    text = shown(system(), [running()], [waiting(1), waiting(2)])
    for words in (
        "Docker 20.10", "CPU 25 % of 4 cores", "load 1.0 0.5 0.2", "61 °C", "310/700 W", "50 %",
        "leased, 1 foreign, throttled: power limit", "activation cache 1.29 GB",
        "11 python 900 MiB (layer three)", "12 games (foreign)",
        "layer three", "training", "25 %", "8 steps/s", "1m 34s",
        "2 waiting, the oldest for 1m 05s", "2 gpu_busy", "gpu_busy: needs 1 GPU(s)", "1m 30s",
    ):  # fmt: skip
        assert words in text, words


def test_what_is_wrong_stands_at_the_top() -> None:
    gpu = GPU | {"lost": True, "problems": ["it is lost: GPU is lost"]}
    told = system(gpus=[gpu], disk_error="3 MiB free", engine=None, engine_error="no answer")
    head = shown(told, [], []).split("GPU  ", 1)[0]
    for words in ("no engine answers: no answer", "nothing new starts: 3 MiB free", "GPU 0: it is lost"):
        assert words in head


def test_without_a_gpu_and_without_jobs_it_says_so() -> None:
    text = shown(system(gpus=[], gpu_error="NVML: not found", jobs={}), [], [])
    for words in ("no GPU: jobs run on the CPU (NVML: not found)", "nothing runs", "nothing waits"):
        assert words in text


def test_a_long_queue_is_told_by_its_number() -> None:
    text = shown(system(jobs={"queued": 5000}), [], [waiting(place) for place in range(1, 40)])
    assert "5000 waiting" in text
    assert text.count("waits ") == MOST_SHOWN


def test_names_of_others_cannot_rewrite_the_terminal() -> None:
    assert "\x1b" not in shown(system(), [running() | {"name": "evil\x1b[2J"}], [])


def test_an_orchestrator_of_an_older_version_is_shown_as_far_as_it_tells() -> None:
    old = {key: value for key, value in system().items() if key not in {"core_percent", "load_average", "queue"}}
    assert "CPU 25 % of 4 cores" in shown(old, [], [])


def test_where_there_is_no_terminal_it_looks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(
        Answer(body=system()),
        Answer(body={"items": [running()], "total": 1}),
        Answer(body={"items": [waiting(1), waiting(2)], "total": 2}),
    )
    monkeypatch.setenv("SAEFORGE_API_KEY", "secret")
    with http_server(script) as url:
        monkeypatch.setenv("SAEFORGE_URL", url)
        result = CliRunner().invoke(app, ["top"])
    assert result.exit_code == 0
    assert result.stdout.index("waits 1") < result.stdout.index("waits 2")
    paths = [request.path.partition("?")[0] for request in script.requests]
    assert paths == ["/api/system/status", "/api/jobs", "/api/queue"]


def test_json_is_the_status_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEFORGE_API_KEY", "secret")
    with http_server(Script(Answer(body=system()))) as url:
        monkeypatch.setenv("SAEFORGE_URL", url)
        result = CliRunner().invoke(app, ["top", "--json"])
    assert json.loads(result.stdout)["queue"]["by_reason"] == {"gpu_busy": 2}
