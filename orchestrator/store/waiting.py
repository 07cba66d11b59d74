"""The queued jobs, kept in memory: with ten thousand of them, reading them all would take the most of every plan.

Every change of a job while it waits leaves an event of the orchestrator's own. So what to read again is told by the
events since the last look, and a look costs what has changed, not how many wait.
"""

import threading
from operator import attrgetter
from uuid import UUID

from orchestrator.domain import Job, JobStatus
from orchestrator.store import rows
from orchestrator.store.database import Session


class WaitingJobs:
    """All jobs with the status "queued", as of the last ``look``."""

    def __init__(self) -> None:
        self._looking = threading.Lock()
        self._seen: int | None = None
        """The newest event that was looked at; none before the first look."""
        self._jobs: dict[UUID, Job] = {}
        self._ordered: list[Job] = []

    def look(self, session: Session) -> list[Job]:
        """Bring them up to date and return them: higher priority first, then older first."""
        with self._looking:
            # Taken first: in one view of the file the two agree, in several a change is only read again.
            newest = session.one("newest_event")
            assert newest is not None
            changed = self._seen is None or self._catch_up(session, self._seen)
            # A job that was cancelled and purged since the last look has left no event behind.
            if self._seen is None or len(self._jobs) != session.all("count_queued")[0]["n"]:
                self._jobs = {job.id: job for job in map(rows.job, session.all("queue"))}
                changed = True
            self._seen = max(newest["id"], self._seen or 0)
            if changed:
                # Two stable sorts of what is nearly sorted: no key to be made for each of ten thousand.
                self._ordered = sorted(self._jobs.values(), key=attrgetter("created_at"))
                self._ordered.sort(key=attrgetter("priority"), reverse=True)
            return self._ordered

    def _catch_up(self, session: Session, seen: int) -> bool:
        """Read again what changed; whether anything did."""
        changed = {row["job_id"] for row in session.all("changed_jobs", after=seen)}
        for name in changed:
            found = session.one("job", id=name)
            if found is not None and found["status"] == JobStatus.QUEUED:
                self._jobs[UUID(name)] = rows.job(found)
            else:
                self._jobs.pop(UUID(name), None)
        return bool(changed)
