"""A client that answers from memory, and what pages drew."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from streamlit.testing.v1 import AppTest

import dashboard
from orchestrator.client import Unreachable
from orchestrator.domain import JobStatus, Resources
from orchestrator.errors import NotFound, OrchestratorError
from orchestrator.views import (
    ActivationCacheView,
    ArtifactView,
    CheckpointView,
    DifferenceView,
    EstimateView,
    EventPage,
    Feature,
    FeatureList,
    GpuView,
    Health,
    HistoryView,
    Inventory,
    JobDetail,
    JobPage,
    JobTypeView,
    LogChunk,
    MetricPoint,
    MetricSeries,
    ModelView,
    ParameterChanges,
    ResourceHistory,
    ResourcePoint,
    SystemStatus,
    TicketView,
    TraceView,
)
from worker_image.contract.jobs import JOB_TYPES

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
APP = Path(dashboard.__file__).with_name("app.py")


def make_job(status: JobStatus = JobStatus.RUNNING, **changes: Any) -> JobDetail:
    base: dict[str, Any] = {
        "id": uuid4(),
        "type": "train_sae",
        "name": "layer three",
        "owner": "ada",
        "priority": 0,
        "tags": [],
        "status": status,
        "intent": "run",
        "phase": "training",
        "params": {"type": "train_sae", "model": "tiny", "dataset": "books", "k": 16},
        "resources": Resources(),
        "created_at": NOW,
        "started_at": NOW,
        "completed_at": None,
        "wait": None,
        "failure": None,
        "progress": {"phase": "training", "done": 250, "total": 1000, "unit": "steps", "rate_per_s": 8, "eta_s": 94},
        "metrics": {"step": 250, "loss": 0.31, "fvu": 0.29, "l0": 16, "dead_share": 0.011, "tokens_per_s": 10700},
        "results": None,
        "restarted_from": None,
        "attempts": 1,
        "log_path": "/home/runs/x/1/log",
        "result_path": None,
        "attempt_list": [],
        "commands": [],
        "available_actions": ["pause", "stop", "cancel", "checkpoint"],
    }
    return JobDetail.model_validate(base | changes)


class FakeClient:
    """Answers as an orchestrator with these jobs would; ``away`` makes it unreachable."""

    def __init__(self, *jobs: JobDetail) -> None:
        self.held = {job.id: job for job in jobs}
        self.away = False
        self.refusal: OrchestratorError | None = None
        self.calls: list[tuple[str, Any]] = []
        self.submissions: list[dict[str, Any]] = []
        self.gpus: list[GpuView] = []
        self.traces: dict[str, TraceView] = {}
        self.refusal_of_changes: OrchestratorError | None = None
        self.in_force: dict[str, Any] = {}
        """What became of parameters while jobs ran."""
        self.a_feature: Feature | None = None
        self.kept: list[CheckpointView] = []
        self.saes: list[ArtifactView] = []
        self.log = {1: "first\nsecond\n"}

    def _reach(self) -> None:
        if self.away:
            raise Unreachable("no orchestrator answers at http://127.0.0.1:8000 (Connection refused)")

    def health(self) -> Health:
        self._reach()
        return Health(status="ok", ready=True, version="0.1.0", engine="process")

    def system_status(self) -> SystemStatus:
        self._reach()
        counts: dict[JobStatus, int] = {}
        for job in self.held.values():
            counts[job.status] = counts.get(job.status, 0) + 1
        return SystemStatus(
            version="0.1.0", executor="process", engine="process", engine_error=None, gpus=self.gpus, gpu_error=None,
            cpus=2, cpu_percent=40, memory_total_mb=24_000, memory_used_mb=6000, swap_total_mb=0, swap_used_mb=0,
            disk_total_mb=64_000, disk_free_mb=30_000, home="/home", jobs=counts, uptime_s=3700,
            activation_cache=ActivationCacheView(entries=3, size_bytes=4 * 10**9, limit_bytes=10**11),
        )  # fmt: skip

    def system_history(self, **_: Any) -> HistoryView:
        self._reach()
        return HistoryView(until=NOW, step_s=10, traces=self.traces)

    def inventory(self) -> Inventory:
        self._reach()

        def view(name: str) -> ModelView:
            return ModelView(name=name, path=f"/home/{name}", size_bytes=10, modified_at=NOW, detail={"layers": 2})

        return Inventory(models=[view("tiny")], datasets=[view("books")], saes=self.saes)

    def job_types(self) -> list[JobTypeView]:
        self._reach()
        return [
            JobTypeView(
                type=name, title=model.title, description=model.__doc__ or "", parameters=model.model_json_schema(),
                commands=sorted(model.commands), resumable=model.resumable, uses_gpu=model.uses_gpu,
                live=sorted(model.live),
            )
            for name, model in JOB_TYPES.items()
        ]  # fmt: skip

    def jobs(self, *, status: str | None = None, q: str | None = None, **_: Any) -> JobPage:
        self._reach()
        found = [
            job for job in self.held.values() if (status is None or job.status == status) and (not q or q in job.name)
        ]
        return JobPage(items=found, total=len(found))

    def job(self, job_id: UUID | str) -> JobDetail:
        self._reach()
        if UUID(str(job_id)) not in self.held:
            raise NotFound("no such job")
        return self.held[UUID(str(job_id))]

    def submit(self, type: str, params: dict[str, Any], **about: Any) -> JobDetail:
        self.submissions.append({"type": type, "params": params, **about})
        self._reach()
        if self.refusal:
            raise self.refusal
        job = make_job(JobStatus.QUEUED, type=type, name=about["name"] or type, params={"type": type, **params})
        self.held[job.id] = job
        return job

    def estimate(self, type: str, params: dict[str, Any], **_: Any) -> EstimateView:
        self.calls.append(("estimate", params))
        part = {"name": "activation buffer", "size_bytes": 2 * 10**9, "field": "buffer_tokens"}
        advice = {"field": "buffer_tokens", "value": 65536, "saves_bytes": 15 * 10**8}
        pool = {"pool": "host", "total_bytes": 3 * 10**9, "limit_bytes": 2 * 10**9, "fits": False}
        return EstimateView.model_validate(
            {
                "fits": False, "device": "cpu", "d_in": 768, "d_sae": 6144, "saes": 1, "training_tokens": 100,
                "harvested_tokens": 100, "pools": [pool | {"components": [part], "advice": [advice]}],
                "seconds": 90.0, "measured_jobs": 0, "gpu_hours": 0.0, "cost": None, "warnings": [],
            }
        )  # fmt: skip

    def _act(self, action: str, job_id: UUID) -> JobDetail:
        self.calls.append((action, job_id))
        self._reach()
        if self.refusal:
            raise self.refusal
        return self.held[job_id]

    def set_parameters(self, job_id: UUID, params: dict[str, Any], *, dry_run: bool = False) -> ParameterChanges:
        self._reach()
        if self.refusal_of_changes and params.get("lr"):
            raise self.refusal_of_changes
        if not dry_run:
            self.calls.append(("set_parameters", params))
        now = self.held[job_id].params | self.in_force
        differing = [
            DifferenceView(name=name, now=now[name], wanted=value, applies="now")
            for name, value in params.items()
            if value != now[name]
        ]
        return ParameterChanges(differences=differing, command_id=None if dry_run else uuid4())

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in {"pause", "resume", "stop", "checkpoint", "validate", "cancel", "restart", "purge"}:
            return lambda job_id: self._act(name, job_id)
        raise AttributeError(name)

    def ticket(self, job_id: Any = None) -> TicketView:
        self._reach()
        return TicketView(ticket=f"ticket-{uuid4()}", expires_in_s=30)

    def metrics(self, job_id: Any, **_: Any) -> MetricSeries:
        points = [
            MetricPoint(step=step, ts=NOW + timedelta(seconds=step), values={"loss": 1 / step}) for step in (1, 2)
        ]
        return MetricSeries(items=points, total=2, after=7)

    def resources(self, job_id: Any, **_: Any) -> ResourceHistory:
        self._reach()
        return ResourceHistory(items=[ResourcePoint(ts=NOW, values={"cpu_cores": 1.5})], total=1)

    def logs(
        self, job_id: Any, *, attempt: int = 1, offset: int = 0, limit_bytes: int | None = None, **_: Any
    ) -> LogChunk:
        content = self.log.get(attempt, "").encode()
        data = content[offset : None if limit_bytes is None else offset + limit_bytes]
        return LogChunk(
            attempt=attempt, offset=offset, next_offset=offset + len(data), size_bytes=len(content), data=data.decode()
        )

    def checkpoints(self, job_id: Any) -> list[CheckpointView]:
        self._reach()
        return self.kept

    def artifacts(self, job_id: Any) -> list[Any]:
        self._reach()
        return []

    def features(self, job_id: Any, *, offset: int = 0, limit: int = 50, sort: str = "latent") -> FeatureList:
        self._reach()
        self.calls.append(("features", (offset, sort)))
        items = [self.a_feature] if self.a_feature and not offset else []
        return FeatureList(items=items, total=1, about={})

    def feature(self, job_id: Any, latent: int) -> Feature:
        self._reach()
        if self.a_feature is None or self.a_feature.latent != latent:
            raise NotFound(f"no latent {latent}")
        return self.a_feature

    def events(self, job_id: Any, *, after: int = 0) -> EventPage:
        self._reach()
        return EventPage(items=[], next_after=after)


def html_of(app: AppTest) -> str:
    """All HTML on the page."""
    return "\n".join(element.proto.body for element in app.get("html"))
