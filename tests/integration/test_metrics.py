"""What jobs measured, from the worker's events to charts and exports."""

import csv
import io
import json
import math

import requests

from orchestrator.views import ResourceHistory
from tests.integration.conftest import Orchestrator
from tests.waiting import until
from worker_image.contract.events import Metrics


def trained(orchestrator: Orchestrator, steps: int = 3000) -> str:
    """A job that measured ``loss`` at every tenth step and ``fvu`` at every hundredth."""
    job_id = orchestrator.train()
    events = [
        Metrics(
            seq=n,
            ts=1_000_000 + n,
            step=10 * n,
            values={"loss": 5.0 if n == 777 else 1 / n} | ({"fvu": math.sin(n)} if n % 10 == 0 else {}),
        )
        for n in range(1, steps + 1)
    ]
    orchestrator.report(job_id, *events)
    until(lambda: (orchestrator.client.job(job_id).metrics or {}).get("step") == 10 * steps, "all of it is stored")
    return job_id


def get(orchestrator: Orchestrator, path: str, **query: object) -> requests.Response:
    headers = {"Authorization": f"Bearer {orchestrator.key}"}
    return requests.get(orchestrator.url + path, headers=headers, params=query, timeout=10)  # type: ignore[arg-type]


def test_every_series_keeps_its_own_extremes_and_its_statistics(orchestrator: Orchestrator) -> None:
    job_id = trained(orchestrator)
    series = orchestrator.client.metrics(job_id, max_points=50)
    by_name = {name: {p.step: p.values[name] for p in series.items if name in p.values} for name in ("loss", "fvu")}
    assert by_name["loss"][7770] == 5.0
    fvu = [math.sin(n) for n in range(10, 3001, 10)]
    assert {min(fvu), max(fvu)} <= set(by_name["fvu"].values())
    assert all(len(points) <= 50 for points in by_name.values())
    assert series.total == 3000
    stats = {item.name: item for item in series.series}
    assert (stats["loss"].count, stats["loss"].max, stats["loss"].max_step) == (3000, 5.0, 7770)
    assert (stats["fvu"].count, stats["fvu"].first_step, stats["fvu"].last_step) == (300, 100, 30000)
    assert orchestrator.client.metrics_summary(job_id) == series.series


def test_series_and_steps_are_chosen(orchestrator: Orchestrator) -> None:
    job_id = trained(orchestrator, 300)
    series = orchestrator.client.metrics(job_id, names=["fvu"], start_step=500, end_step=1000, interval=200)
    assert [(point.step, list(point.values)) for point in series.items] == [
        (600, ["fvu"]),
        (800, ["fvu"]),
        (1000, ["fvu"]),
    ]


def test_exports_hold_every_value_exactly(orchestrator: Orchestrator) -> None:
    job_id = trained(orchestrator)
    table = io.BytesIO()
    orchestrator.client.download_metrics(job_id, table)
    rows = list(csv.DictReader(io.StringIO(table.getvalue().decode())))
    assert [int(row["step"]) for row in rows] == list(range(10, 30_001, 10))
    assert [float(row["loss"]) for row in rows] == [5.0 if n == 777 else 1 / n for n in range(1, 3001)]
    assert [row["fvu"] == "" for row in rows] == [n % 10 != 0 for n in range(1, 3001)]
    listed = get(orchestrator, f"/api/jobs/{job_id}/metrics.json").json()
    assert [item["values"]["loss"] for item in listed] == [float(row["loss"]) for row in rows]
    assert listed[-1].keys() == {"step", "ts", "values"}


def test_events_behind_the_answer_tell_what_comes_next(orchestrator: Orchestrator) -> None:
    job_id = trained(orchestrator, 100)
    series = orchestrator.client.metrics(job_id)
    orchestrator.report(job_id, Metrics(seq=101, ts=1, step=2000, values={"loss": 1.0}))
    following = orchestrator.client.follow_events(job_id, after=series.after)
    later = next(event for event in following if event.type == "metrics")
    assert later.data["step"] == 2000
    following.close()


def test_an_export_of_nothing_is_empty_and_whole(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.train()
    assert get(orchestrator, f"/api/jobs/{job_id}/metrics.csv").text == "step,time\n"
    assert json.loads(get(orchestrator, f"/api/jobs/{job_id}/metrics.json").text) == []
    assert orchestrator.client.metrics(job_id).items == []
    assert isinstance(orchestrator.client.resources(job_id), ResourceHistory)


def test_a_job_that_is_not_there_has_no_metrics(orchestrator: Orchestrator) -> None:
    unknown = "00000000-0000-0000-0000-000000000000"
    for path in ("metrics", "metrics/summary", "metrics.csv", "metrics.json", "resources", "resources.csv"):
        assert get(orchestrator, f"/api/jobs/{unknown}/{path}").status_code == 404


def test_a_moment_without_a_time_zone_is_refused(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.train()
    answer = get(orchestrator, f"/api/jobs/{job_id}/resources", start="2026-11-22T10:00:00")
    assert answer.status_code == 400
    assert answer.json()["details"]["field"] == "start"
