"""From a worker's events to rows: the events themselves, and the figures, checkpoints and answers they stand for."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from orchestrator import faults
from orchestrator.domain import Attempt
from orchestrator.store.database import Session
from orchestrator.store.series import Sample, put_samples
from worker_image.contract.events import (
    ArtifactSaved,
    CheckpointRemoved,
    CheckpointSaved,
    CommandApplied,
    CommandRejected,
    Event,
    Finished,
    Metrics,
    Progress,
)


@dataclass(frozen=True, slots=True)
class Ingested:
    """What came of some events."""

    new: int
    """How many had not been stored before."""
    unsealed: int
    """Rows of metrics that wait to be sealed; 0 when there were no new ones."""


@dataclass(frozen=True, slots=True)
class Reported:
    """Events of one attempt, ready to be stored."""

    attempt: Attempt
    events: tuple[Event, ...]
    """In order, none twice."""
    bodies: dict[int, str]
    """Seq -> all but its place, time and type, as JSON."""

    @classmethod
    def of(cls, attempt: Attempt, events: Iterable[Event]) -> "Reported":
        by_seq: dict[int, Event] = {}
        for event in events:
            by_seq.setdefault(event.seq, event)
        bodies = {seq: event.model_dump_json(exclude={"seq", "ts", "type"}) for seq, event in by_seq.items()}
        return cls(attempt, tuple(by_seq.values()), bodies)

    def ingest(self, session: Session, *, offset: int) -> Ingested:
        """Store those that are new, what follows from them, and the byte offset up to which they were read."""
        job_id, number = str(self.attempt.job_id), self.attempt.number
        fresh = self._fresh(session)
        session.run_each(
            "insert_event",
            [
                {
                    "job_id": job_id,
                    "attempt": number,
                    "seq": event.seq,
                    "ts": event.ts,
                    "type": event.type,
                    "data": self.bodies[event.seq],
                }
                for event in fresh
            ],
        )
        for event in fresh:
            _derive(session, job_id, number, event)
        _remember_latest(session, job_id, fresh)
        samples = [Sample(event.step, event.ts, event.values) for event in fresh if isinstance(event, Metrics)]
        unsealed = put_samples(session, self.attempt, "metrics", samples) if samples else 0
        session.run("advance", job_id=job_id, number=number, offset=offset)
        faults.reach("events_written")
        return Ingested(len(fresh), unsealed)

    def _fresh(self, session: Session) -> list[Event]:
        if not self.events:
            return []
        rows = session.all(
            "event_seqs",
            job_id=str(self.attempt.job_id),
            attempt=self.attempt.number,
            low=min(self.bodies),
            high=max(self.bodies),
        )
        known = {row["seq"] for row in rows}
        return [event for event in self.events if event.seq not in known]


def _remember_latest(session: Session, job_id: str, events: Sequence[Event]) -> None:
    """Keep the newest figures with the job, so that a list of jobs is one query."""
    metrics: dict[str, float] = {}
    progress: Progress | None = None
    results: dict[str, float] = {}
    for event in events:
        match event:
            case Metrics():
                # Not every event measures everything: of what it leaves out, the value before is the newest.
                metrics = {**metrics, **event.values, "step": event.step}
            case Progress():
                progress = event
            case Finished():
                results = event.results or results
            case _:
                pass
    if metrics or progress or results:
        session.run(
            "latest",
            id=job_id,
            step=metrics.get("step"),
            metrics=json.dumps(metrics) if metrics else None,
            progress=progress.model_dump_json(exclude={"seq", "ts", "type"}) if progress else None,
            phase=progress.phase if progress else None,
            results=json.dumps(results) if results else None,
        )


def _derive(session: Session, job_id: str, number: int, event: Event) -> None:
    """Keep the rows that checkpoints, artifacts and acknowledgements stand for."""
    match event:
        case CheckpointSaved():
            data = event.model_dump(mode="json", exclude={"seq", "type"})
            session.run("put_checkpoint", job_id=job_id, attempt=number, **data)
        case CheckpointRemoved():
            session.run("delete_checkpoint", job_id=job_id, attempt=number, name=event.name)
        case ArtifactSaved():
            data = event.model_dump(mode="json", exclude={"seq", "type"})
            session.run("put_artifact", job_id=job_id, attempt=number, **data)
        case CommandApplied():
            _settle(session, event.command_id, "applied", event.ts, event.detail, event.step)
        case CommandRejected():
            _settle(session, event.command_id, "rejected", event.ts, event.reason)
        case _:
            pass


def _settle(session: Session, command_id: UUID, status: str, ts: float, detail: str, step: int | None = None) -> None:
    session.run("settle_command", id=str(command_id), status=status, ts=ts, detail=detail, step=step)
