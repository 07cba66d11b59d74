"""What the end of an attempt makes of its job: settled for good, paused, or queued for another attempt. Pure."""

from datetime import datetime, timedelta

from orchestrator.domain import FAILURE_CLASS, STATUS_OF, EndReason, Job, JobStatus
from orchestrator.outcome import Outcome
from orchestrator.store import Ended


def settlement(
    job: Job, end: Outcome, *, exit_code: int | None, resume_from: str | None, progressed: bool, now: datetime
) -> Ended:
    """How the attempt ended, with what follows.

    ``progressed``: the attempt left a checkpoint further on than where it began. The failures before it are then no
    longer in a row with this one, so that a long training is not given up for a handful of mishaps in a month.
    """

    def ended(status: JobStatus, note: str | None = None, retry: int | None = None, delay_s: float = 0.0) -> Ended:
        return Ended(
            reason=end.reason,
            status=status,
            exit_code=exit_code,
            failure=end.failure,
            resume_from=resume_from,
            note=note,
            retries=retry,
            not_before=now + timedelta(seconds=delay_s) if retry else None,
        )

    if end.reason is EndReason.PAUSED and job.intent == "requeue":
        return ended(JobStatus.QUEUED, "made room; continues from its checkpoint when its turn comes again")
    if end.failure is None:
        return ended(STATUS_OF[end.reason])
    granted = job.retry.retries(FAILURE_CLASS[end.reason])
    if job.intent == "pause" and (granted or job.retry.on_failure == "pause"):
        return ended(JobStatus.PAUSED, f"{end.failure.message}; paused, as was asked for")
    retry = 1 if progressed else job.retries + 1
    if job.intent in ("run", "requeue") and retry <= granted:
        delay_s = job.retry.delay_s(retry)
        note = f"{end.failure.message}; retry {retry} of {granted} in {delay_s:g} s"
        return ended(JobStatus.QUEUED, note, retry, delay_s)
    if job.intent not in ("run", "requeue"):
        return ended(STATUS_OF[end.reason])
    told = f"{end.failure.message}; given up after {job.retries} retries" if granted else end.failure.message
    if job.retry.on_failure == "pause":
        return ended(JobStatus.PAUSED, f"{told}; paused until it is resumed")
    return ended(STATUS_OF[end.reason], told)
