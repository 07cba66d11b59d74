"""What is drawn of what a job used."""

from datetime import UTC, datetime

from dashboard.resource_charts import resource_charts
from orchestrator.views import ResourceHistory, ResourcePoint


def history(*points: tuple[float, dict[str, float]]) -> ResourceHistory:
    items = [ResourcePoint(ts=datetime.fromtimestamp(at, UTC), values=values) for at, values in points]
    return ResourceHistory(items=items, total=len(items))


def test_only_what_was_measured_has_a_chart() -> None:
    charts = resource_charts(history((0, {"cpu_cores": 1.5, "memory_bytes": 3 << 30})))
    assert [(chart["title"], chart["unit"], chart["lines"][0]["values"]) for chart in charts] == [
        ("CPU", "cores", [1.5]),
        ("Memory", "GiB", [3.0]),
    ]


def test_every_gpu_has_a_line_of_its_own_and_the_job_one_beside_it() -> None:
    values = {
        "memory_bytes": 1.0,
        "gpu0.memory_bytes": 2 << 30,
        "gpu0.job_memory_bytes": 1 << 30,
        "gpu1.memory_bytes": 4 << 30,
        "gpu0.utilization": 0.25,
    }
    charts = {chart["title"]: chart for chart in resource_charts(history((0, values)))}
    assert {line["name"]: line["values"] for line in charts["GPU memory"]["lines"]} == {
        "GPU 0": [2.0],
        "GPU 0, this job": [1.0],
        "GPU 1": [4.0],
    }
    assert charts["GPU busy"]["lines"][0]["values"] == [25.0]
    assert len(charts["Memory"]["lines"]) == 1


def test_a_pause_leaves_a_gap() -> None:
    points = [(at, {"cpu_cores": 1.0}) for at in (0, 5, 10, 4000, 4005)]
    (chart,) = resource_charts(history(*points))
    assert chart["lines"][0]["times"] == [0, 5, 10, 2005, 4000, 4005]
    assert chart["lines"][0]["values"] == [1.0, 1.0, 1.0, None, 1.0, 1.0]


def test_a_long_history_that_was_thinned_is_no_row_of_gaps() -> None:
    (chart,) = resource_charts(history(*((600 * n, {"cpu_cores": 1.0}) for n in range(50))))
    assert None not in chart["lines"][0]["values"]
