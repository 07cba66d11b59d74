"""Why an attempt ended, what that makes of its job, and what to tell the user: one table of facts to outcomes."""

from dataclasses import dataclass

from orchestrator.domain import EndReason, Intent, JobFailure
from worker_image.contract.events import Finished
from worker_image.contract.launch import CLAIMED_EXIT_CODE, DISK_FULL_EXIT_CODE, UNWRITABLE_EXIT_CODE

SIGKILL_EXIT_CODE = 137
SIGTERM_EXIT_CODE = 143


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known once an attempt no longer runs."""

    intent: Intent
    """What the user had asked for."""
    exit_code: int | None
    """Empty when nobody saw it end."""
    oom_killed: bool = False
    engine_error: str | None = None
    """The engine's words, when it could not start the program or has lost it."""
    finished: Finished | None = None
    """The worker's last word."""
    timed_out: bool = False
    """It was ended for its timeout."""
    overran: bool = False
    """More time than its timeout is over by now. An orchestrator that ended it for that may have died since."""
    overdue: bool = False
    """It was ended because it did not pause or stop within the grace."""
    has_checkpoint: bool = False
    """There is a checkpoint to continue from."""
    builtin: bool = False
    """It is saeforge's own worker, which never ends well without a last word."""
    memory_mb: int | None = None
    """Its memory limit."""
    log_tail: str = ""
    """The last lines of its log."""


@dataclass(frozen=True, slots=True)
class Outcome:
    reason: EndReason
    failure: JobFailure | None = None
    """Set when the job failed."""


_EXIT_CODES: dict[int, tuple[EndReason, str, str]] = {
    CLAIMED_EXIT_CODE: (
        EndReason.ALREADY_CLAIMED,
        "the run directory was claimed by an earlier process of the same attempt",
        "restart the job",
    ),
    UNWRITABLE_EXIT_CODE: (
        EndReason.LAUNCH_FAILED,
        "the job's user may not write into its run directory",
        "check the owner of <home>/runs and SAEFORGE_CONTAINER_USER, then restart the job",
    ),
    DISK_FULL_EXIT_CODE: (
        EndReason.DISK_FULL,
        "the disk was full, so that the worker could not even write how it ended",
        "free space under SAEFORGE_HOME, then restart the job: it continues from its newest checkpoint",
    ),
    SIGKILL_EXIT_CODE: (
        EndReason.KILLED,
        "killed by a signal from outside (exit code 137)",
        "if the machine ran out of memory, lower resources.memory_mb or batch_size; then restart the job",
    ),
    SIGTERM_EXIT_CODE: (
        EndReason.KILLED,
        "told to end from outside (SIGTERM), as an engine does to all when it restarts",
        "restart the job: it continues from its newest checkpoint",
    ),
}
"""Exit code -> what it means by itself, where nobody had asked for it: reason, message, advice."""


def outcome(facts: Facts) -> Outcome:
    """Read the facts in order of what outweighs what: the user's cancel, the worker's word, the engine's, the code."""
    if facts.intent == "cancel":
        return Outcome(EndReason.CANCELLED)
    timed_out = facts.timed_out or (facts.overran and _ended_unasked(facts))
    if timed_out and (facts.finished is None or facts.finished.outcome != "completed"):
        return _failed(
            EndReason.TIMEOUT, "ran longer than resources.timeout_s", "resources.timeout_s", "raise it, or ask for less"
        )
    if facts.finished is not None and _ended_unasked(facts):
        _, message, advice = _EXIT_CODES[SIGTERM_EXIT_CODE]
        return _failed(EndReason.KILLED, message, None, advice)
    if facts.finished is not None and facts.finished.outcome != "failed":
        return Outcome(_asked_for(facts.finished.outcome, facts.intent))
    if facts.finished is not None and facts.finished.failure is not None:
        failure = JobFailure.reported(facts.finished.failure)
        return Outcome(failure.reason, failure)
    # A program that lost only a child to it and went on to succeed has not failed.
    if facts.oom_killed and facts.exit_code != 0:
        return _failed(EndReason.HOST_OOM, *_host_oom(facts))
    if facts.engine_error and facts.exit_code is not None:
        return _failed(
            EndReason.LAUNCH_FAILED, facts.engine_error, None, "check the image and the command, then restart the job"
        )
    return _by_exit_code(facts)


def _ended_unasked(facts: Facts) -> bool:
    """Whether somebody told it to end, and it was not its user."""
    if facts.intent != "run":
        return False
    if facts.finished is not None:
        return facts.finished.outcome in ("paused", "stopped")
    return facts.exit_code in (SIGTERM_EXIT_CODE, SIGKILL_EXIT_CODE) and not facts.oom_killed


def _asked_for(reported: str, intent: Intent) -> EndReason:
    """Either way a checkpoint was written, so the user's newest wish decides what the attempt's end means."""
    if reported == "stopped" and intent in ("pause", "requeue"):
        return EndReason.PAUSED
    if reported == "paused" and intent == "stop":
        return EndReason.STOPPED
    return EndReason(reported)


def _by_exit_code(facts: Facts) -> Outcome:
    if facts.exit_code is None:
        return _failed(
            EndReason.LOST,
            facts.engine_error
            or "the attempt is gone and nobody saw it end: it was removed from outside, or the machine went down",
            None,
            "restart the job: it continues from its newest checkpoint",
        )
    if facts.intent == "stop":
        return Outcome(EndReason.STOPPED)
    if facts.overdue and facts.intent in ("pause", "requeue"):
        if facts.has_checkpoint:
            return Outcome(EndReason.PAUSED)
        return _failed(
            EndReason.KILLED,
            "it was asked to pause and wrote no checkpoint within SAEFORGE_GRACE_S",
            None,
            "raise SAEFORGE_GRACE_S, then restart the job",
        )
    if facts.exit_code == 0 and facts.builtin:
        return _failed(
            EndReason.INTERNAL_ERROR,
            "the worker ended without saying how",
            None,
            "the log may tell more; restart the job: it continues from its newest checkpoint",
        )
    if facts.exit_code == 0:
        return Outcome(EndReason.COMPLETED)
    # Another program may mean something else by it; the other codes are the launcher's, which starts every program.
    theirs = facts.exit_code == DISK_FULL_EXIT_CODE and not facts.builtin
    if not theirs and (known := _EXIT_CODES.get(facts.exit_code)) is not None:
        reason, message, advice = known
        return _failed(reason, message, None, advice)
    message = f"exited with code {facts.exit_code}"
    if facts.log_tail:
        message += f"; its last lines: {facts.log_tail}"
    return _failed(EndReason.EXIT_CODE, message, None, "the log has the whole story")


def _host_oom(facts: Facts) -> tuple[str, str, str]:
    limit = f" of {facts.memory_mb} MiB" if facts.memory_mb else ""
    return (
        f"the kernel ended it for want of memory{limit}",
        "resources.memory_mb",
        "raise resources.memory_mb, or lower buffer_tokens, batch_size or expansion_factor",
    )


def _failed(reason: EndReason, message: str, field: str | None, suggestion: str) -> Outcome:
    return Outcome(reason, JobFailure(reason, message, field, suggestion))
