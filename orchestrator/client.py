"""The Python client: every call of the API as a method that answers with the API's own views.

Errors are the orchestrator's own tree (``orchestrator.errors``), found again by their code, beside the two that only
a client can meet: ``Unreachable`` and ``UnexpectedAnswer``.
"""

import time
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, Self, TypeVar
from urllib.parse import quote
from uuid import UUID, uuid4

import requests
from pydantic import BaseModel, TypeAdapter, ValidationError

from orchestrator.access import Role
from orchestrator.domain import TERMINAL, JobStatus, Resources, RetryPolicy
from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.pipelines import PipelineSubmission
from orchestrator.pull import Pulled, chosen, refuse_to_overwrite
from orchestrator.schedules import ScheduleSubmission
from orchestrator.settings import ClientSettings, read_settings
from orchestrator.streams import EventStream, LogFrame, LogStream, UnexpectedAnswer
from orchestrator.transport import Transport, Unreachable
from orchestrator.views import (
    ArtifactView,
    BackupView,
    CheckpointView,
    CleanupRequest,
    CleanupView,
    CloneRequest,
    EstimateView,
    EventPage,
    EventView,
    Feature,
    FeatureList,
    Health,
    HistoryView,
    Inventory,
    JobChanges,
    JobDetail,
    JobPage,
    JobSubmission,
    JobTypeView,
    JobView,
    KeyRequest,
    KeyView,
    LogChunk,
    MetricSeries,
    MetricStats,
    NewKeyView,
    NewWebhookView,
    OwnerLimits,
    OwnerView,
    ParameterChanges,
    PipelinePage,
    PipelineView,
    PrincipalView,
    ResourceHistory,
    SchedulePage,
    ScheduleView,
    SecretView,
    SweepActed,
    SweepPage,
    SweepResults,
    SweepSubmission,
    SweepView,
    SystemStatus,
    TicketRequest,
    TicketView,
    TokenRequest,
    TokenView,
    WebhookRequest,
    WebhookTryView,
    WebhookView,
)
from worker_image.contract.feature_file import FeatureSort

__all__ = ["Client", "LogFrame", "NotInTime", "UnexpectedAnswer", "Unreachable"]

View = TypeVar("View", bound=BaseModel)
JobId = UUID | str
PAGE_JOBS = 200


class NotInTime(OrchestratorError, TimeoutError):
    """The job did not get there in time."""

    status = 504
    code = "not_in_time"


class Client:
    """Talks to one orchestrator. Calls may come from any thread.

    Calls that change nothing when repeated (reads, deletes, submissions and restarts by their key) are tried again
    after connection errors and answers 429, 502, 503 and 504; all others are sent once.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float | None = None,
        retries: int = 3,
        backoff_s: float = 0.25,
        reconnect_for_s: float = 300.0,
    ) -> None:
        """Connect to nothing yet.

        Args:
            url: where the orchestrator answers; from ``SAEFORGE_URL``, else this machine, when empty.
            api_key: key to present; from ``SAEFORGE_API_KEY``, else ``<home>/api-key``, when empty.
            timeout_s: longest wait for one answer in seconds; ``SAEFORGE_TIMEOUT_S`` (30) when empty.
            retries: how often a repeatable call is tried again.
            backoff_s: first delay between tries in seconds; it doubles every time.
            reconnect_for_s: how long a stream that was connected tries to get back before it gives up, in seconds.

        Raises:
            SettingsError: an environment variable does not parse, or the URL is none.
            Unauthenticated: the key holds characters that cannot be sent.
        """
        settings = read_settings(ClientSettings)
        self._transport = Transport(
            (url or settings.base_url).rstrip("/"),
            api_key or settings.find_api_key(),
            timeout_s=timeout_s or settings.timeout_s,
            retries=retries,
            backoff_s=backoff_s,
            reconnect_for_s=reconnect_for_s,
            ca_file=settings.ca_file,
        )

    @property
    def url(self) -> str:
        """Where the orchestrator answers, without a slash at the end."""
        return self._transport.url

    @property
    def api_key(self) -> str | None:
        """The key presented, if one was found."""
        return self._transport.api_key

    def close(self) -> None:
        """Let go of open connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The orchestrator itself

    def health(self) -> Health:
        """Whether it is up and ready. Needs no key."""
        return self._get(Health, "/health")

    def job_types(self) -> list[JobTypeView]:
        """What can be run, with the JSON Schema of its parameters."""
        return self._get_list(JobTypeView, "/api/job-types")

    def system_status(self) -> SystemStatus:
        """GPUs, CPU, memory, disk, engine and job counts."""
        return self._get(SystemStatus, "/api/system/status")

    def system_history(self, *, since_s: float = 3600.0, max_points: int = 300) -> HistoryView:
        """The machine over the last ``since_s`` seconds (a day at most), thinned with extremes kept."""
        return self._get(HistoryView, "/api/system/history", {"since_s": since_s, "max_points": max_points})

    def inventory(self) -> Inventory:
        """Models, datasets and SAEs on the orchestrator's disk."""
        return self._get(Inventory, "/api/system/models")

    def back_up(self) -> BackupView:
        """Back the orchestrator's database up, into <home>/backups on its machine."""
        return self._parse(BackupView, self._transport.call("POST", "/api/system/backup"))

    def backups(self) -> list[BackupView]:
        """Backups there are, newest first."""
        return self._get_list(BackupView, "/api/system/backups")

    def clean_up(
        self,
        *,
        older_than_days: float | None = None,
        dry_run: bool = False,
        orphans: bool = False,
        cache: bool = False,
    ) -> CleanupView:
        """Archive jobs that ended long ago; call again while ``left`` of the answer is not 0.

        ``orphans`` also deletes the run directories of no known job, ``cache`` what nobody uses of the cache.
        """
        body = CleanupRequest(older_than_days=older_than_days, dry_run=dry_run, orphans=orphans, cache=cache)
        return self._parse(CleanupView, self._transport.call("POST", "/api/system/cleanup", body=body))

    # Webhooks

    def add_webhook(self, request: WebhookRequest) -> NewWebhookView:
        """Have the orchestrator tell an address what happens from now on. The answer alone holds the secret."""
        return self._parse(NewWebhookView, self._transport.call("POST", "/api/webhooks", body=request))

    def webhooks(self) -> list[WebhookView]:
        """Every webhook, oldest first."""
        return self._get_list(WebhookView, "/api/webhooks")

    def delete_webhook(self, webhook_id: UUID | str) -> None:
        """Send it nothing any more."""
        self._transport.call("DELETE", _hook(webhook_id), repeatable=True)

    def ping_webhook(self, webhook_id: UUID | str) -> WebhookTryView:
        """Send a signed test now, once; what came of it."""
        return self._parse(WebhookTryView, self._transport.call("POST", _hook(webhook_id, "/ping")))

    def enable_webhook(self, webhook_id: UUID | str, *, skip: bool = False) -> WebhookView:
        """Send again after too many failures, from where it stopped or, with ``skip``, from now."""
        return self._parse(WebhookView, self._transport.call("POST", _hook(webhook_id, "/enable"), body={"skip": skip}))

    def webhook_deliveries(self, webhook_id: UUID | str, *, limit: int = 100) -> list[WebhookTryView]:
        """What became of the newest tries, newest first."""
        return self._get_list(WebhookTryView, _hook(webhook_id, f"/deliveries?limit={limit}"))

    def ticket(self, job_id: JobId | None = None) -> TicketView:
        """A single-use pass for one WebSocket of a browser; good for all jobs when ``job_id`` is empty."""
        body = TicketRequest(job_id=None if job_id is None else _uuid(job_id))
        return self._parse(TicketView, self._transport.call("POST", "/api/tickets", body=body))

    # Keys

    def me(self) -> PrincipalView:
        """For whom this client's key speaks, and what it may do."""
        return self._get(PrincipalView, "/api/me")

    def list_keys(self) -> list[KeyView]:
        """Every API key there ever was, newest first; never the keys themselves. Needs an admin key."""
        return self._get_list(KeyView, "/api/keys")

    def create_key(
        self,
        name: str,
        *,
        role: Role | str = Role.READ,
        owner: str | None = None,
        types: Sequence[str] = (),
        expires_at: datetime | None = None,
    ) -> NewKeyView:
        """Make an API key; its ``key`` is told this once. Needs an admin key.

        Args:
            name: what people call it.
            role: "read", "write" or "admin".
            owner: the only owner whose jobs it sees and acts on; all when empty.
            types: the only job types it sees and acts on; all when empty.
            expires_at: when it stops working, with a time zone; never when empty.
        """
        fields = {"name": name, "role": role, "owner": owner, "types": list(types), "expires_at": expires_at}
        body = _checked(KeyRequest, fields)
        return self._parse(NewKeyView, self._transport.call("POST", "/api/keys", body=body))

    def revoke_key(self, key_id: str) -> KeyView:
        """Take an API key back at once and for good. Needs an admin key."""
        return self._parse(KeyView, self._transport.call("DELETE", f"/api/keys/{quote(key_id, safe='')}"))

    def create_token(self, *, role: Role | str | None = None, lifetime_s: float = 3600.0) -> TokenView:
        """A signed token that may do what this client's key may, or less, for a while."""
        body = _checked(TokenRequest, {"role": role, "lifetime_s": lifetime_s})
        return self._parse(TokenView, self._transport.call("POST", "/api/tokens", body=body))

    # Secrets

    def list_secrets(self) -> list[SecretView]:
        """The secrets that one's jobs may use, without their values."""
        return self._get_list(SecretView, "/api/secrets")

    def set_secret(self, name: str, value: str, *, owner: str | None = None) -> None:
        """Keep a secret for jobs that name it; ``owner`` says whose, everybody's when empty."""
        path = f"/api/secrets/{quote(name, safe='')}"
        self._transport.call("PUT", path, query={"owner": owner}, body={"value": value}, repeatable=True)

    def delete_secret(self, name: str, *, owner: str | None = None) -> None:
        """Forget a secret. Jobs that run keep what they have."""
        self._transport.call("DELETE", f"/api/secrets/{quote(name, safe='')}", query={"owner": owner})

    # Jobs

    def submit(
        self,
        type: str,
        params: Mapping[str, Any],
        *,
        name: str | None = None,
        owner: str | None = None,
        priority: int = 0,
        tags: Sequence[str] = (),
        resources: Resources | None = None,
        retry: RetryPolicy | None = None,
        secrets: Sequence[str] = (),
        idempotency_key: str | None = None,
    ) -> JobDetail:
        """Queue a job. Safe to repeat with the same ``idempotency_key``, which is made up when empty.

        Raises:
            InvalidInput: a parameter is wrong; ``field`` and ``suggestion`` say which and what to do.
            IdempotencyConflict: the key was used for a different request.
        """
        fields = {
            "type": type,
            "params": dict(params),
            "name": name,
            "owner": owner,
            "priority": priority,
            "tags": list(tags),
            "resources": resources or Resources(),
            "retry": retry or RetryPolicy(),
            "secrets": list(secrets),
        }
        body = _checked(JobSubmission, fields)
        return self._make(JobDetail, "/api/jobs", body, idempotency_key)

    def estimate(self, type: str, params: Mapping[str, Any], *, resources: Resources | None = None) -> EstimateView:
        """What such a job would take of memory, disk, time and money. Queues nothing.

        Raises:
            InvalidInput: a parameter was refused, as a submit would; ``field`` and ``suggestion`` say which and why.
        """
        body = _checked(JobSubmission, {"type": type, "params": dict(params), "resources": resources or Resources()})
        return self._parse(EstimateView, self._transport.call("POST", "/api/estimates", body=body, repeatable=True))

    def job(self, job_id: JobId) -> JobDetail:
        """One job with its attempts and commands."""
        return self._get(JobDetail, _of(job_id))

    def jobs(
        self,
        *,
        status: str | None = None,
        type: str | None = None,
        owner: str | None = None,
        tag: str | None = None,
        sweep: JobId | None = None,
        q: str | None = None,
        model: str | None = None,
        dataset: str | None = None,
        archived: Literal["false", "true", "any"] | None = None,
        limit: int | None = None,
        offset: int | None = None,
        sort: str | None = None,
        cursor: str | None = None,
    ) -> JobPage:
        """A page of the jobs that match every filter, newest first unless sorted otherwise. ``q`` searches names.

        Archived ones are left out unless ``archived`` is "true" (they alone) or "any".

        ``sort`` is a field, with a minus before it for the greatest or newest first: created_at, started_at,
        completed_at, priority or name. ``cursor`` is ``next_cursor`` of the page before.
        """
        query = {
            "status": status,
            "type": type,
            "owner": owner,
            "tag": tag,
            "sweep": sweep and str(sweep),
            "q": q,
            "model": model,
            "dataset": dataset,
            "limit": limit,
            "offset": offset,
            "sort": sort,
            "cursor": cursor,
            "archived": archived,
        }
        return self._get(JobPage, "/api/jobs", query)

    def queue(self, *, limit: int | None = None) -> JobPage:
        """Jobs that wait, in the order of their turns."""
        return self._get(JobPage, "/api/queue", {"limit": limit})

    def each_job(
        self,
        *,
        status: str | None = None,
        type: str | None = None,
        owner: str | None = None,
        tag: str | None = None,
        q: str | None = None,
    ) -> Iterator[JobView]:
        """Every job that matches, newest first, page after page; each once, whatever is submitted meanwhile."""
        cursor: str | None = None
        while True:
            page = self.jobs(status=status, type=type, owner=owner, tag=tag, q=q, limit=PAGE_JOBS, cursor=cursor)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def cancel(self, job_id: JobId) -> JobDetail:
        """End the job at once, whatever it is doing."""
        return self._parse(JobDetail, self._transport.call("DELETE", _of(job_id), repeatable=True))

    def pause(self, job_id: JobId) -> JobDetail:
        """Have it write a checkpoint and exit, so that its GPU is free."""
        return self._act(job_id, "pause")

    def resume(self, job_id: JobId) -> JobDetail:
        """Queue a paused job again; it goes on from its last checkpoint."""
        return self._act(job_id, "resume")

    def stop(self, job_id: JobId) -> JobDetail:
        """Have it write a final checkpoint and its artifacts, and end."""
        return self._act(job_id, "stop")

    def checkpoint(self, job_id: JobId) -> JobDetail:
        """Have it write a checkpoint and go on."""
        return self._act(job_id, "checkpoint")

    def restart(
        self,
        job_id: JobId,
        *,
        fresh: bool = False,
        checkpoint: str | None = None,
        params: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> JobDetail:
        """Queue a new job with the same parameters; it goes on from the ended one's newest checkpoint, if any.

        A completed job's, and with ``fresh`` any other's, starts over from the beginning, unless a ``checkpoint`` is
        named ("best" for the one that was best on held-out tokens). With ``params`` it has others, such as a lower lr;
        one that continues, only those that a running job takes up. ``idempotency_key`` as for ``submit``.
        """
        body = {"fresh": fresh, "checkpoint": checkpoint, "params": dict(params) if params else None}
        return self._make(JobDetail, _of(job_id, "restart"), body, idempotency_key)

    def delete_checkpoint(self, job_id: JobId, name: str, *, attempt: int | None = None) -> None:
        """Delete a checkpoint that nothing continues from."""
        path = _of(job_id, f"checkpoints/{quote(name, safe='')}")
        self._transport.call("DELETE", path, query={"attempt": attempt}, repeatable=True)

    def update(self, job_id: JobId, **changes: Any) -> JobDetail:
        """Change a job; what is left out stays as it is.

        Args:
            changes: the fields of ``JobChanges``: name, tags, priority, retry, and between attempts resources.

        Raises:
            StateConflict: the job's status does not allow one of them.
        """
        body = _checked(JobChanges, changes)
        return self._parse(JobDetail, self._transport.call("PATCH", _of(job_id), body=body, repeatable=True))

    def clone(self, job_id: JobId, *, idempotency_key: str | None = None, **changes: Any) -> JobDetail:
        """Queue a new job like this one.

        Args:
            idempotency_key: as for ``submit``.
            changes: the fields of ``CloneRequest``: params (only those that differ), name, owner, priority, tags,
                resources, retry.
        """
        body = _checked(CloneRequest, changes)
        return self._make(JobDetail, _of(job_id, "clone"), body, idempotency_key)

    # Owners

    def owners(self) -> list[OwnerView]:
        """Everyone who has jobs, a share or limits: what they used, hold, and may."""
        return self._get_list(OwnerView, "/api/owners")

    def set_owner(self, owner: str, **limits: Any) -> OwnerView:
        """Give an owner a share and limits, in place of those it had. For admins.

        Args:
            limits: the fields of ``OwnerLimits``: share, max_running, max_gpus, max_queued; what is left out is not
                limited, and the share is 1.
        """
        body = _checked(OwnerLimits, limits)
        path = f"/api/owners/{quote(owner, safe='')}"
        return self._parse(OwnerView, self._transport.call("PUT", path, body=body, repeatable=True))

    # Sweeps

    def sweep(
        self, type: str, params: Mapping[str, Any], *, idempotency_key: str | None = None, **space: Any
    ) -> SweepView:
        """Queue one job for every point of a sweep, all of them or none.

        Args:
            params: what all jobs have in common.
            idempotency_key: as for ``submit``.
            space: the other fields of ``SweepSubmission``: grid, random, samples, repeat, seed, max_running, name,
                owner, priority, tags, resources, retry.
        """
        body = _checked(SweepSubmission, {"type": type, "params": dict(params), **space})
        return self._make(SweepView, "/api/sweeps", body, idempotency_key)

    def sweeps(self, *, limit: int = 50, offset: int = 0) -> SweepPage:
        """Sweeps, newest first."""
        return self._get(SweepPage, "/api/sweeps", {"limit": limit, "offset": offset})

    def sweep_of(self, sweep_id: JobId) -> SweepView:
        """One sweep, with how its jobs stand."""
        return self._get(SweepView, _of_sweep(sweep_id))

    def sweep_results(
        self, sweep_id: JobId, *, metric: str | None = None, best: Literal["lowest", "highest"] = "lowest"
    ) -> SweepResults:
        """What each job was given and what came of it; the best first when a metric is named."""
        return self._get(SweepResults, _of_sweep(sweep_id, "results"), {"metric": metric, "best": best})

    def limit_sweep(self, sweep_id: JobId, max_running: int | None) -> SweepView:
        """Let at most so many of its jobs run at once; as many as there is room for when None."""
        body = {"max_running": max_running}
        return self._parse(SweepView, self._transport.call("PATCH", _of_sweep(sweep_id), body=body, repeatable=True))

    def act_on_sweep(self, sweep_id: JobId, action: Literal["cancel", "pause", "resume", "stop"]) -> SweepActed:
        """Do the same to all of its jobs that allow it."""
        return self._parse(SweepActed, self._transport.call("POST", _of_sweep(sweep_id, action)))

    # Pipelines and schedules

    def pipeline(
        self, steps: Sequence[Mapping[str, Any]], *, idempotency_key: str | None = None, **about: Any
    ) -> PipelineView:
        """Queue jobs in steps.

        Args:
            steps: each with the fields of ``Step``: name, type, params, needs, when, priority, resources, retry.
            idempotency_key: as for ``submit``.
            about: name, owner and tags.
        """
        body = _checked(PipelineSubmission, {"steps": list(steps), **about})
        return self._make(PipelineView, "/api/pipelines", body, idempotency_key)

    def pipelines(self, *, limit: int = 50, offset: int = 0) -> PipelinePage:
        """Pipelines, newest first."""
        return self._get(PipelinePage, "/api/pipelines", {"limit": limit, "offset": offset})

    def pipeline_of(self, pipeline_id: JobId) -> PipelineView:
        """One pipeline, with its steps and their jobs."""
        return self._get(PipelineView, f"/api/pipelines/{_uuid(pipeline_id)}")

    def cancel_pipeline(self, pipeline_id: JobId) -> PipelineView:
        """Start no further step of it, and cancel its jobs that have not ended."""
        path = f"/api/pipelines/{_uuid(pipeline_id)}"
        return self._parse(PipelineView, self._transport.call("DELETE", path, repeatable=True))

    def schedule(self, cron: str, submission: Mapping[str, Any], **about: Any) -> ScheduleView:
        """Submit a job or a pipeline again and again.

        Args:
            cron: minute, hour, day of month, month, day of week.
            submission: the fields of ``JobSubmission``, or with ``kind="pipeline"`` of ``PipelineSubmission``.
            about: the other fields of ``ScheduleSubmission``: kind, name, owner, timezone, overlap.
        """
        body = _checked(ScheduleSubmission, {"cron": cron, "submission": dict(submission), **about})
        return self._parse(ScheduleView, self._transport.call("POST", "/api/schedules", body=body))

    def schedules(self) -> SchedulePage:
        """Schedules, newest first."""
        return self._get(SchedulePage, "/api/schedules")

    def enable_schedule(self, schedule_id: JobId, enabled: bool) -> ScheduleView:
        """Have a schedule go on, or rest."""
        path = f"/api/schedules/{_uuid(schedule_id)}"
        body = {"enabled": enabled}
        return self._parse(ScheduleView, self._transport.call("PATCH", path, body=body, repeatable=True))

    def remove_schedule(self, schedule_id: JobId) -> None:
        """Forget a schedule; what it submitted stays."""
        self._transport.call("DELETE", f"/api/schedules/{_uuid(schedule_id)}", repeatable=True)

    def set_learning_rate(self, job_id: JobId, lr: float) -> JobDetail:
        """Replace the peak learning rate of a running job."""
        return self._parse(JobDetail, self._transport.call("POST", _of(job_id, "learning-rate"), body={"lr": lr}))

    def set_parameters(self, job_id: JobId, params: Mapping[str, Any], *, dry_run: bool = False) -> ParameterChanges:
        """Have a job take up other parameters from its next step on; tells which it can, and which want a new job.

        With ``dry_run`` it is only told what differs from the parameters in force.
        """
        body = {"params": dict(params), "dry_run": dry_run}
        return self._parse(ParameterChanges, self._transport.call("POST", _of(job_id, "parameters"), body=body))

    def validate(self, job_id: JobId) -> JobDetail:
        """Have it measure on the held-out tokens and go on."""
        return self._act(job_id, "validate")

    def purge(self, job_id: JobId) -> None:
        """Delete an ended job with its log, checkpoints and artifacts."""
        self._transport.call("DELETE", _of(job_id, "permanent"), repeatable=True)

    def wait(
        self,
        job_id: JobId,
        *,
        until: Collection[JobStatus] = TERMINAL,
        timeout_s: float | None = None,
        poll_s: float = 1.0,
    ) -> JobDetail:
        """Return the job once its status is one of ``until`` or terminal; outlasts a restart of the orchestrator.

        Raises:
            NotInTime: ``timeout_s`` went by first.
            Unreachable: the orchestrator stayed away for longer than ``reconnect_for_s``.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        last_seen = time.monotonic()
        while True:
            try:
                job = self.job(job_id)
                last_seen = time.monotonic()
                if job.status in until or job.status in TERMINAL:
                    return job
                state = f"is {job.status}"
            except Unreachable:
                if time.monotonic() - last_seen > self._transport.reconnect_for_s:
                    raise
                state = "cannot be asked for"
            pause_s = poll_s if deadline is None else min(poll_s, deadline - time.monotonic())
            if pause_s <= 0:
                raise NotInTime(f"after {timeout_s:g} s job {job_id} {state}")
            time.sleep(pause_s)

    # What a job says and leaves

    def logs(
        self,
        job_id: JobId,
        *,
        attempt: int | None = None,
        tail: int | None = None,
        offset: int | None = None,
        limit_bytes: int | None = None,
        encoding: Literal["utf-8", "base64"] | None = None,
    ) -> LogChunk:
        """A piece of one attempt's log (the newest attempt when empty): the last ``tail`` lines, or from ``offset``.

        Text, or with ``encoding`` "base64" the exact bytes.
        """
        query = {"attempt": attempt, "tail": tail, "offset": offset, "limit_bytes": limit_bytes, "encoding": encoding}
        return self._get(LogChunk, _of(job_id, "logs"), query)

    def download_log(self, job_id: JobId, target: Path | str | IO[bytes], *, attempt: int | None = None) -> int:
        """Write one attempt's log so far, byte for byte, into a file or a binary stream; return its size in bytes."""
        query = {"download": "true", "attempt": attempt}
        return self._transport.download(_of(job_id, "logs"), query, target, name=f"{job_id}.log")

    def events(
        self, job_id: JobId | None = None, *, after: int | Literal["latest"] = 0, types: Sequence[str] = ()
    ) -> EventPage:
        """Stored events of a job, or of all, with ids above ``after``; of these types or public names, if any."""
        path = "/api/events" if job_id is None else _of(job_id, "events")
        return self._get(EventPage, path, {"after": after, "types": ",".join(types) or None})

    def metrics(
        self,
        job_id: JobId,
        *,
        start_step: int | None = None,
        end_step: int | None = None,
        interval: int | None = None,
        max_points: int | None = None,
        names: Sequence[str] | None = None,
    ) -> MetricSeries:
        """Measurements by step, of every ``interval``-th step; each series (all, or those in ``names``) is thinned to
        ``max_points`` with its extremes kept."""
        query = {
            "start_step": start_step,
            "end_step": end_step,
            "interval": interval,
            "max_points": max_points,
            "names": names,
        }
        return self._get(MetricSeries, _of(job_id, "metrics"), query)

    def metrics_summary(self, job_id: JobId) -> list[MetricStats]:
        """Names and statistics of all series of a job, without their points."""
        return self._get_list(MetricStats, _of(job_id, "metrics/summary"))

    def download_metrics(
        self,
        job_id: JobId,
        target: Path | str | IO[bytes],
        *,
        format: Literal["csv", "json"] = "csv",
        names: Sequence[str] | None = None,
    ) -> int:
        """Write every measurement exactly as it was made into a file or a binary stream; return its size in bytes."""
        path = _of(job_id, f"metrics.{format}")
        return self._transport.download(path, {"names": names}, target, name=f"{job_id}-metrics.{format}")

    def download_resources(
        self,
        job_id: JobId,
        target: Path | str | IO[bytes],
        *,
        format: Literal["csv", "json"] = "csv",
        names: Sequence[str] | None = None,
    ) -> int:
        """Write every look at what the job used into a file or a binary stream; return its size in bytes."""
        path = _of(job_id, f"resources.{format}")
        return self._transport.download(path, {"names": names}, target, name=f"{job_id}-resources.{format}")

    def resources(
        self,
        job_id: JobId,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        max_points: int | None = None,
    ) -> ResourceHistory:
        """CPU, memory and GPUs that the job used over time; each series is thinned to ``max_points``."""
        query = {
            "start": start.astimezone(UTC).isoformat() if start else None,
            "end": end.astimezone(UTC).isoformat() if end else None,
            "max_points": max_points,
        }
        return self._get(ResourceHistory, _of(job_id, "resources"), query)

    def checkpoints(self, job_id: JobId) -> list[CheckpointView]:
        return self._get_list(CheckpointView, _of(job_id, "checkpoints"))

    def artifacts(self, job_id: JobId) -> list[ArtifactView]:
        return self._get_list(ArtifactView, _of(job_id, "artifacts"))

    def features(self, job_id: JobId, *, offset: int = 0, limit: int = 50, sort: FeatureSort = "latent") -> FeatureList:
        """A page of the latents that a ``sae_features`` job looked at."""
        return self._get(FeatureList, _of(job_id, "features"), {"offset": offset, "limit": limit, "sort": sort})

    def feature(self, job_id: JobId, latent: int) -> Feature:
        """One of these latents with everything that was found."""
        return self._get(Feature, _of(job_id, f"features/{latent}"))

    def download_artifact(
        self, job_id: JobId, path: str, target: Path | str | IO[bytes], *, attempt: int | None = None
    ) -> int:
        """Write one artifact into a file, a directory (under its own name) or a binary stream; return its size."""
        name = PurePosixPath(path).name
        return self._transport.download(
            _of(job_id, f"artifacts/{quote(path)}"), {"attempt": attempt}, target, name=name
        )

    def pull(
        self,
        job_id: JobId,
        folder: Path | str = ".",
        *,
        names: Sequence[str] = (),
        force: bool = False,
        told: Callable[[str, int, int], None] | None = None,
    ) -> list[Pulled]:
        """Bring a job's artifacts into a folder, each under its own path; what was cut short is continued next time.

        A file that is here already is not fetched again.

        Args:
            names: artifacts, or folders of them; all when empty.
            force: overwrite files that are others.
            told: called with an artifact's path and how many of how many bytes of it are here.

        Raises:
            NotFound: there is no such job, or nothing of such a name.
            InvalidInput: another file lies there already; nothing is fetched then.
            UnexpectedAnswer: what arrived is not what the job left.
            Unreachable: the orchestrator stayed away for longer than ``reconnect_for_s``.
        """
        found = [Pulled.into(Path(folder), item) for item in chosen(self.artifacts(job_id), names)]
        if not force:
            refuse_to_overwrite(found)
        for each in found:
            if each.is_here:
                continue
            artifact = each.artifact
            each.file.parent.mkdir(parents=True, exist_ok=True)
            path, query = _of(job_id, f"artifacts/{quote(artifact.path)}"), {"attempt": artifact.attempt}
            for there in self._transport.continue_download(path, query, each.draft, artifact.size_bytes):
                if told is not None:
                    told(artifact.path, there, artifact.size_bytes)
            each.settle()
        return found

    # Streams

    def follow_log(
        self, job_id: JobId, *, attempt: int = 1, offset: int = 0, skip: bool = False
    ) -> Generator[LogFrame, None, None]:
        """The log as it is written, across attempts, from a byte offset on; ends when the job has ended.

        A lost connection is taken up again behind the last frame, so nothing is missed or repeated. With ``skip``, a
        reader that falls far behind is moved forward instead, and told so by a frame.
        """
        return self._transport.follow(LogStream(_uuid(job_id), attempt, offset, skip=skip))

    def afollow_log(
        self, job_id: JobId, *, attempt: int = 1, offset: int = 0, skip: bool = False
    ) -> AsyncGenerator[LogFrame, None]:
        """``follow_log`` for asyncio."""
        return self._transport.afollow(LogStream(_uuid(job_id), attempt, offset, skip=skip))

    def follow_events(
        self, job_id: JobId | None = None, *, after: int | Literal["latest"] = 0, types: Sequence[str] = ()
    ) -> Generator[EventView, None, None]:
        """Events of one job, or of all, with ids above ``after``, as they are stored. It never ends by itself.

        "latest" begins with what is still to come; ``types`` names stored types or public names, all when empty.
        """
        return self._transport.follow(EventStream(None if job_id is None else _uuid(job_id), after, types))

    def afollow_events(
        self, job_id: JobId | None = None, *, after: int | Literal["latest"] = 0, types: Sequence[str] = ()
    ) -> AsyncGenerator[EventView, None]:
        """``follow_events`` for asyncio."""
        return self._transport.afollow(EventStream(None if job_id is None else _uuid(job_id), after, types))

    # HTTP

    def _make(self, view: type[View], path: str, body: BaseModel | Mapping[str, Any], key: str | None) -> View:
        """Send what makes something once, however often it arrives; a key is made up when there is none."""
        headers = {"Idempotency-Key": key or str(uuid4())}
        return self._parse(view, self._transport.call("POST", path, body=body, headers=headers, repeatable=True))

    def _act(self, job_id: JobId, action: str) -> JobDetail:
        return self._parse(JobDetail, self._transport.call("POST", _of(job_id, action)))

    def _get(self, view: type[View], path: str, query: Mapping[str, Any] | None = None) -> View:
        return self._parse(view, self._transport.call("GET", path, query=query, repeatable=True))

    def _get_list(self, view: type[View], path: str) -> list[View]:
        response = self._transport.call("GET", path, repeatable=True)
        try:
            return TypeAdapter(list[view]).validate_json(response.content)  # type: ignore[valid-type]
        except ValidationError as error:
            raise _not_understood(self.url, path, error) from None

    def _parse(self, view: type[View], response: requests.Response) -> View:
        try:
            return view.model_validate_json(response.content)
        except ValidationError as error:
            raise _not_understood(self.url, view.__name__, error) from None


def _checked(model: type[View], fields: Mapping[str, Any]) -> View:
    """The body of a request. Raises: InvalidInput."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{field}: {first['msg']}", field=field) from None


def _uuid(job_id: JobId) -> UUID:
    try:
        return UUID(str(job_id))
    except ValueError:
        problem = f"{str(job_id)!r} is not a job id"
        raise InvalidInput(problem, field="job_id", suggestion="give the full UUID") from None


def _hook(webhook_id: UUID | str, rest: str = "") -> str:
    try:
        return f"/api/webhooks/{UUID(str(webhook_id))}{rest}"
    except ValueError:
        problem = f"{str(webhook_id)!r} is not the id of a webhook"
        raise InvalidInput(problem, field="webhook", suggestion="give the full UUID") from None


def _of(job_id: JobId, rest: str = "") -> str:
    return f"/api/jobs/{_uuid(job_id)}" + (f"/{rest}" if rest else "")


def _of_sweep(sweep_id: JobId, rest: str = "") -> str:
    return f"/api/sweeps/{_uuid(sweep_id)}" + (f"/{rest}" if rest else "")


def _not_understood(url: str, what: str, error: ValidationError) -> UnexpectedAnswer:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return UnexpectedAnswer(
        f"{url} answered {what} in a shape this client does not know ({where}: {first['msg']})",
        suggestion="is that a saeforge orchestrator of this client's version?",
    )
