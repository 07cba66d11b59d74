"""What jobs measured and what they use, over HTTP: thinned for charts, summarised, or exported as it was measured."""

import asyncio
import csv
import io
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import AwareDatetime
from starlette.responses import Response, StreamingResponse

from orchestrator.access import Role
from orchestrator.api.auth import needs
from orchestrator.api.jobs import JobId
from orchestrator.api.state import Orchestrator, State
from orchestrator.store import MAX_STEP, Kind, Range, Sample, Series
from orchestrator.views import (
    MetricPoint,
    MetricSeries,
    MetricStats,
    ResourceHistory,
    ResourcePoint,
    ResourceStats,
)

router = APIRouter(prefix="/api", tags=["metrics"])

FirstStep = Annotated[int, Query(ge=0, le=MAX_STEP, description="Steps before it are left out.")]
LastStep = Annotated[int, Query(ge=0, le=MAX_STEP, description="Steps after it are left out.")]
Interval = Annotated[int, Query(ge=1, le=MAX_STEP, description="Only steps this divides.")]
Names = Annotated[list[str] | None, Query(description="Series wanted, may be given several times; all when empty.")]
MaxPoints = Annotated[
    int, Query(ge=2, le=100_000, description="Thin every series out to this many points, its extremes kept.")
]
Moment = Annotated[AwareDatetime | None, Query(description="With its time zone; no bound when empty.")]
Format = Literal["csv", "json"]


@router.get("/jobs/{id}/metrics", response_model=MetricSeries)
@needs(Role.READ)
async def metrics(
    orchestrator: Orchestrator,
    job_id: JobId,
    start_step: FirstStep = 0,
    end_step: LastStep = MAX_STEP,
    interval: Interval = 1,
    max_points: MaxPoints = 2000,
    names: Names = None,
) -> Response:
    """Training metrics by step, with statistics of each series."""
    await orchestrator.store.job(job_id)
    measurements = orchestrator.store.measurements
    within = Range(start_step, end_step, interval)
    after = await measurements.measured_up_to(job_id)
    found = await measurements.series(job_id, "metrics", names=names, within=within, most=max_points)
    return await _answer(partial(_metric_series, after=after), found)


@router.get("/jobs/{id}/metrics/summary")
@needs(Role.READ)
async def summary(
    orchestrator: Orchestrator,
    job_id: JobId,
    start_step: FirstStep = 0,
    end_step: LastStep = MAX_STEP,
    interval: Interval = 1,
    names: Names = None,
) -> list[MetricStats]:
    """Names and statistics of the job's series, without their points."""
    await orchestrator.store.job(job_id)
    within = Range(start_step, end_step, interval)
    found = await orchestrator.store.measurements.series(job_id, "metrics", names=names, within=within)
    return [_metric_stats(series) for series in found]


@router.get("/jobs/{id}/metrics.{format}", response_class=StreamingResponse)
@needs(Role.READ)
async def export_metrics(
    orchestrator: Orchestrator,
    job_id: JobId,
    format: Format,
    start_step: FirstStep = 0,
    end_step: LastStep = MAX_STEP,
    interval: Interval = 1,
    names: Names = None,
) -> StreamingResponse:
    """Every measurement exactly as it was made, as a table (csv) or a list of steps (json)."""
    await orchestrator.store.job(job_id)
    within = Range(start_step, end_step, interval)
    return await _export(orchestrator, job_id, "metrics", format, names, within)


@router.get("/jobs/{id}/resources", response_model=ResourceHistory)
@needs(Role.READ)
async def resources(
    orchestrator: Orchestrator,
    job_id: JobId,
    start: Moment = None,
    end: Moment = None,
    max_points: MaxPoints = 2000,
    names: Names = None,
) -> Response:
    """CPU, memory and GPUs that the job used over time, all its attempts in a row."""
    await orchestrator.store.job(job_id)
    found = await orchestrator.store.measurements.series(
        job_id, "resources", names=names, within=_between(start, end), most=max_points
    )
    return await _answer(_resource_history, found)


@router.get("/jobs/{id}/resources.{format}", response_class=StreamingResponse)
@needs(Role.READ)
async def export_resources(
    orchestrator: Orchestrator,
    job_id: JobId,
    format: Format,
    start: Moment = None,
    end: Moment = None,
    names: Names = None,
) -> StreamingResponse:
    """Every look at what the job used, as a table (csv) or a list of moments (json)."""
    await orchestrator.store.job(job_id)
    return await _export(orchestrator, job_id, "resources", format, names, _between(start, end))


def _between(start: datetime | None, end: datetime | None) -> Range:
    """The range of what is counted in milliseconds."""
    first = 0 if start is None else max(0, round(start.timestamp() * 1000))
    last = MAX_STEP if end is None else max(0, round(end.timestamp() * 1000))
    return Range(first, last)


# --- thinned


async def _answer(view: Callable[[Sequence[Series]], MetricSeries | ResourceHistory], found: list[Series]) -> Response:
    """The view as JSON, written off the event loop: it may be of many points."""
    content = await asyncio.to_thread(lambda: view(found).model_dump_json())
    return Response(content, media_type="application/json")


def _metric_series(found: Sequence[Series], *, after: int) -> MetricSeries:
    return MetricSeries(
        items=[
            MetricPoint.model_construct(step=step, ts=_moment(ts), values=values)
            for step, ts, values in _by_step(found)
        ],
        total=max((series.stats.count for series in found), default=0),
        series=[_metric_stats(series) for series in found],
        after=after,
    )


def _resource_history(found: Sequence[Series]) -> ResourceHistory:
    return ResourceHistory(
        items=[ResourcePoint.model_construct(ts=_moment(ts), values=values) for _, ts, values in _by_step(found)],
        total=max((series.stats.count for series in found), default=0),
        series=[_resource_stats(series) for series in found],
    )


def _by_step(found: Sequence[Series]) -> list[tuple[int, float, dict[str, float]]]:
    """(step, time, values by name), the points of one step together."""
    values: defaultdict[int, dict[str, float]] = defaultdict(dict)
    times: dict[int, float] = {}
    for series in found:
        for step, ts, value in series.points:
            values[step][series.name] = value
            times[step] = ts
    return [(step, times[step], values[step]) for step in sorted(values)]


def _metric_stats(series: Series) -> MetricStats:
    stats = series.stats
    return MetricStats(
        **_stats(series),
        first_step=stats.first.step,
        last_step=stats.last.step,
        min_step=stats.low.step,
        max_step=stats.high.step,
    )


def _resource_stats(series: Series) -> ResourceStats:
    stats = series.stats
    first, last, low, high = (_moment(point.ts) for point in (stats.first, stats.last, stats.low, stats.high))
    return ResourceStats(**_stats(series), first_ts=first, last_ts=last, min_ts=low, max_ts=high)


def _stats(series: Series) -> dict[str, Any]:
    stats = series.stats
    return {
        "name": series.name,
        "count": stats.count,
        "min": stats.low.value,
        "max": stats.high.value,
        "mean": stats.mean,
        "std": stats.std,
        "first": stats.first.value,
        "last": stats.last.value,
    }


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# --- exported


async def _export(
    orchestrator: State, job_id: UUID, kind: Kind, format: Format, names: Sequence[str] | None, within: Range
) -> StreamingResponse:
    """A download that is made while it is sent."""
    measurements = orchestrator.store.measurements
    columns = list(names) if names else await measurements.names(job_id, kind)
    pages = measurements.samples(job_id, kind, names=columns, within=within)
    body, media_type = (
        (_csv(pages, columns, with_step=kind == "metrics"), "text/csv")
        if format == "csv"
        else (_json(pages, with_step=kind == "metrics"), "application/json")
    )
    name = f'attachment; filename="{job_id}-{kind}.{format}"'
    return StreamingResponse(body, media_type=media_type, headers={"Content-Disposition": name})


async def _csv(pages: AsyncIterator[list[Sample]], columns: Sequence[str], *, with_step: bool) -> AsyncIterator[str]:
    head = (["step", "time"] if with_step else ["time"]) + list(columns)
    yield await asyncio.to_thread(_table, [head])

    def table(page: list[Sample]) -> str:
        return _table(
            [
                *([sample.step] if with_step else []),
                _moment(sample.ts).isoformat(),
                *(sample.values.get(name, "") for name in columns),
            ]
            for sample in page
        )

    async for page in pages:
        yield await asyncio.to_thread(table, page)


def _table(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


async def _json(pages: AsyncIterator[list[Sample]], *, with_step: bool) -> AsyncIterator[str]:
    def lines(page: list[Sample]) -> str:
        return ",\n".join(
            json.dumps(
                ({"step": sample.step} if with_step else {})
                | {"ts": _moment(sample.ts).isoformat(), "values": sample.values}
            )
            for sample in page
        )

    before = "["
    async for page in pages:
        if page:
            yield before + await asyncio.to_thread(lines, page)
            before = ",\n"
    yield "[]\n" if before == "[" else "]\n"
