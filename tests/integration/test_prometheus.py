"""``/metrics`` through the official parsers."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import requests
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from orchestrator.gpus import Gpu, GpuProcess
from tests.integration.conftest import Orchestrator
from tests.integration.test_system import show
from tests.waiting import until

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "monitoring.md"
_BASE_UNITS = ("_seconds", "_bytes", "_ratio", "_celsius", "_watts")


def scrape(orchestrator: Orchestrator, **headers: str) -> requests.Response:
    answer = requests.get(
        f"{orchestrator.url}/metrics",
        headers={"Authorization": f"Bearer {orchestrator.key}", **headers},
        timeout=10,
    )
    assert answer.status_code == 200
    return answer


def metrics(orchestrator: Orchestrator) -> dict[str, Metric]:
    return {family.name: family for family in parse_text(scrape(orchestrator).text)}


def value(orchestrator: Orchestrator, sample: str, **labels: str) -> float | None:
    for family in metrics(orchestrator).values():
        for each in family.samples:
            if each.name == sample and labels.items() <= each.labels.items():
                return each.value
    return None


def names(families: Iterable[Metric]) -> set[str]:
    """As they are asked for in queries, but for the parts of histograms."""
    return {family.name + ("_total" if family.type == "counter" else "") for family in families}


@pytest.fixture
def busy(orchestrator: Orchestrator) -> Orchestrator:
    """An orchestrator with a GPU that tells everything, and one of each thing that is counted."""
    gpu = Gpu(
        "GPU-a", 0, "H200", 8000, 1000, utilization=0.5, temperature_c=60, power_w=300, power_limit_w=700,
        uncorrected_errors=0, throttling=("power limit",), processes=(GpuProcess(5, "games"),),
    )  # fmt: skip
    show(orchestrator, gpu)
    job_id = orchestrator.submit()
    watched = orchestrator.submit()
    orchestrator.run_of(watched).write(b"a line\n")
    next(orchestrator.client.follow_log(watched))
    orchestrator.exit(job_id, 3)
    orchestrator.reaches(job_id, "failed")
    return orchestrator


def test_every_metric_is_documented_and_every_documented_one_is_there(busy: Orchestrator) -> None:
    documented = set(re.findall(r"^\| `(saeforge_\w+)`", DOCUMENT.read_text(), re.MULTILINE))
    assert names(metrics(busy).values()) == documented


def test_the_types_in_the_documentation_are_those_that_are_told(busy: Orchestrator) -> None:
    documented = dict(re.findall(r"^\| `(saeforge_\w+)` \| (\w+)", DOCUMENT.read_text(), re.MULTILINE))
    told = {name: family.type for family in metrics(busy).values() for name in names([family])}
    assert told == documented


def test_labels_in_the_documentation_are_those_that_are_told(busy: Orchestrator) -> None:
    rows = re.findall(r"^\| `(saeforge_\w+)` \| \w+ \| ([^|]*)\|", DOCUMENT.read_text(), re.MULTILINE)
    labels = set[str]()
    for name, cell in rows:
        labels = labels if "same" in cell else set(re.findall(r"`(\w+)`", cell))
        family = metrics(busy)[name.removesuffix("_total")]
        assert {label for each in family.samples for label in each.labels} - {"le"} == labels, name


def test_the_official_parsers_read_both_forms_alike(busy: Orchestrator) -> None:
    text = scrape(busy)
    modern = scrape(busy, Accept="application/openmetrics-text; version=1.0.0")
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert modern.headers["content-type"].startswith("application/openmetrics-text")
    assert names(parse_openmetrics(modern.text)) == names(parse_text(text.text))


@pytest.mark.parametrize("accept", ["text/plain; version=nonsense", "application/openmetrics-text; version=x", "*/*"])
def test_whatever_is_preferred_there_is_an_answer(orchestrator: Orchestrator, accept: str) -> None:
    assert scrape(orchestrator, Accept=accept).text.startswith("# HELP")


def test_counts_of_jobs_and_attempts_go_by_type_status_and_reason(busy: Orchestrator) -> None:
    assert value(busy, "saeforge_jobs_submitted_total", type="container") == 2
    assert value(busy, "saeforge_jobs_ended_total", status="failed") == 1
    assert value(busy, "saeforge_attempts_ended_total", reason="exit_code") == 1
    assert value(busy, "saeforge_attempts_ended_total", reason="host_oom") == 0
    assert value(busy, "saeforge_attempt_duration_seconds_count") == 1
    assert value(busy, "saeforge_attempt_duration_seconds_bucket", le="+Inf") == 1
    assert value(busy, "saeforge_submit_duration_seconds_count") == 2


def test_requests_are_counted_by_template_and_never_by_path(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit()
    orchestrator.client.job(job_id)
    for stranger in ("/wp-login.php", "/api/nothing/here"):
        requests.get(orchestrator.url + stranger, timeout=10)
    text = scrape(orchestrator).text
    assert value(orchestrator, "saeforge_http_requests_total", method="GET", route="/api/jobs/{id}", status="200")
    assert job_id not in text
    assert "wp-login" not in text


def test_viewers_are_counted_while_they_are_there(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit()
    run = orchestrator.run_of(job_id)
    run.write(b"a line\n")
    following = orchestrator.client.follow_log(job_id)
    next(following)
    route = "/api/jobs/{id}/logs"
    until(lambda: value(orchestrator, "saeforge_websocket_viewers", route=route) == 1, "the viewer is counted")
    following.close()
    until(lambda: value(orchestrator, "saeforge_websocket_viewers", route=route) == 0, "it has left")
    assert (value(orchestrator, "saeforge_websocket_sent_bytes_total", route=route) or 0) > 7
    assert value(orchestrator, "saeforge_live_log_bytes") == 7


def test_counts_in_the_database_outlive_the_orchestrator(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit()
    orchestrator.exit(job_id)
    orchestrator.reaches(job_id, "completed")
    orchestrator.stop()
    again = Orchestrator.start(orchestrator.settings.home, orchestrator.engine)
    try:
        assert value(again, "saeforge_attempts_ended_total", reason="completed") == 1
        assert value(again, "saeforge_submit_duration_seconds_count") == 0
    finally:
        again.stop()


def test_two_orchestrators_in_one_process_count_apart(orchestrator: Orchestrator, tmp_path: Path) -> None:
    other = Orchestrator.start(tmp_path / "other", orchestrator.engine)
    try:
        orchestrator.submit()
        assert value(orchestrator, "saeforge_jobs_submitted_total", type="container") == 1
        assert value(other, "saeforge_jobs_submitted_total", type="container") is None
    finally:
        other.stop()


def test_names_carry_base_units(busy: Orchestrator) -> None:
    for name in metrics(busy):
        assert not re.search(r"_(ms|mb|mib|percent|minutes|kib)(_|$)", name), name
        quantity = re.search(r"memory|power|temperature|duration|latency|age|utilization", name)
        assert not quantity or name.endswith(_BASE_UNITS), name


def test_what_was_last_seen_of_a_lost_gpu_is_not_told_as_the_present(orchestrator: Orchestrator) -> None:
    show(orchestrator, Gpu("GPU-a", 0, "H200", 8000, 1000, temperature_c=60, lost=True, problems=("lost",)))
    assert value(orchestrator, "saeforge_gpu_lost", gpu="GPU-a") == 1
    assert value(orchestrator, "saeforge_gpu_temperature_celsius", gpu="GPU-a") is None


def test_without_a_key_nothing_is_told(orchestrator: Orchestrator) -> None:
    assert requests.get(f"{orchestrator.url}/metrics", timeout=10).status_code == 401
