"""Why an attempt ended, what that makes of its job, and what to tell the user: one table of facts to outcomes."""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from orchestrator.domain import EndReason, Intent, JobFailure
from orchestrator.errors import ImageMissing, LaunchFailed
from orchestrator.python_error import PythonError, last_error
from worker_image.contract.events import Finished
from worker_image.contract.launch import CLAIMED_EXIT_CODE, DISK_FULL_EXIT_CODE, UNWRITABLE_EXIT_CODE

SIGKILL_EXIT_CODE = 137
SIGTERM_EXIT_CODE = 143
NEAR_LIMIT: Final = 0.9
"""Share of its memory limit that an attempt must have been seen to hold for its end by SIGKILL to be the kernel's."""
LAST_LINES: Final = 5
"""Of its log, told where nothing better is known."""
LAST_WORDS: Final = 40
"""Lines at the end of its log that are searched for a cause."""
LONGEST_QUOTE: Final = 300
"""Characters of a line that are told."""


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
    peak_memory_mb: int | None = None
    """The most of the machine's memory that it was seen to hold."""
    shm_mb: int | None = None
    """Its shared memory."""
    timeout_s: float | None = None
    command: str = ""
    """The program it was to run."""
    lost_gpus: tuple[str, ...] = ()
    """Of the GPUs it held, those that no longer answer, in words."""
    home_is_full: bool = False
    """Hardly anything can be written where run directories lie."""
    log_tail: str = ""
    """The end of its log."""


@dataclass(frozen=True, slots=True)
class Outcome:
    reason: EndReason
    failure: JobFailure | None = None
    """Set when the job failed."""


def outcome(facts: Facts) -> Outcome:
    """Read the facts in order of what outweighs what: the user's wish, the clock, the worker's word, the table."""
    if facts.intent == "cancel":
        return Outcome(EndReason.CANCELLED)
    timed_out = facts.timed_out or (facts.overran and _ended_unasked(facts))
    if timed_out and (facts.finished is None or facts.finished.outcome != "completed"):
        return _failed(
            EndReason.TIMEOUT,
            f"ran longer than resources.timeout_s{'' if facts.timeout_s is None else f' ({facts.timeout_s:g} s)'}",
            "resources.timeout_s",
            "raise it, or ask for less",
        )
    if facts.finished is not None and _ended_unasked(facts):
        return _told(_ROW_OF_LOST_GPU if facts.lost_gpus else _ROW_OF_SIGTERM, facts)
    if facts.finished is not None and facts.finished.outcome != "failed":
        return Outcome(_asked_for(facts.finished.outcome, facts.intent))
    if facts.finished is not None and facts.finished.failure is not None:
        failure = JobFailure.reported(facts.finished.failure)
        # What a worker takes for its own defect may be the GPU's.
        if failure.reason is not EndReason.INTERNAL_ERROR or not facts.lost_gpus:
            return Outcome(failure.reason, failure)
    if (well := _ended_well(facts)) is not None:
        return Outcome(well)
    return _told(next(row for row in TABLE if row.applies(facts)), facts)


def _ended_well(facts: Facts) -> EndReason | None:
    """What the exit of a program that reports nothing means, where that is no failure."""
    if facts.exit_code is None or facts.engine_error is not None or _accused(facts):
        return None
    if facts.intent == "stop":
        return EndReason.STOPPED
    if facts.overdue and facts.intent in ("pause", "requeue") and facts.has_checkpoint:
        return EndReason.PAUSED
    return EndReason.COMPLETED if facts.exit_code == 0 and not facts.builtin else None


NEVER_BEGUN: Final[dict[Intent, EndReason]] = {
    "cancel": EndReason.CANCELLED,
    "stop": EndReason.STOPPED,
    "pause": EndReason.PAUSED,
    "requeue": EndReason.PAUSED,
}
"""What is wanted of a job -> how an attempt ended that was called off before anything was started."""


def launch_outcome(error: ImageMissing | LaunchFailed) -> Outcome:
    """What is told when the engine could not start it at all."""
    reason = EndReason.IMAGE_MISSING if isinstance(error, ImageMissing) else EndReason.LAUNCH_FAILED
    words = error.message.lower()
    if any(sign in words for sign in _GPU_REFUSED):
        reason = EndReason.GPU_LOST
    elif any(sign in words for sign in _DISK_SIGNS):
        reason = EndReason.DISK_FULL
    field = f"params.{error.field}" if error.field else None
    suggestion = error.suggestion or _ADVICE_OF[reason]
    return Outcome(reason, JobFailure(reason, error.message, field, suggestion))


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


def _accused(facts: Facts) -> bool:
    """Whether the kernel ended it. A program that lost only a child to it and went on to succeed has not failed."""
    return facts.oom_killed and facts.exit_code != 0


# --- the table of failures


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of failure: when it is this one, and what its user is told."""

    reason: EndReason
    applies: Callable[[Facts], bool]
    message: Callable[[Facts], str]
    advice: str
    field: str | None = None


def _log_says(*signs: str) -> Callable[[Facts], bool]:
    return lambda facts: _line_with(facts, signs) != ""


def _line_with(facts: Facts, signs: tuple[str, ...]) -> str:
    """The last line of the program's last words that holds one of the signs."""
    lines = (line.strip() for line in reversed(_last_words(facts).splitlines()))
    return next((line[:LONGEST_QUOTE] for line in lines if any(sign.lower() in line.lower() for sign in signs)), "")


def _last_words(facts: Facts) -> str:
    """What ended it says what ended it: what it had caught and logged before that does not count."""
    error = _error(facts)
    if error is not None and error.type not in _OF_CHILDREN:
        return f"{error.type}: {error.message}\n{error.afterwards}"
    lines = facts.log_tail.splitlines()
    return "\n".join(lines if error else lines[-LAST_WORDS:])


def _quoting(said: str, *signs: str) -> Callable[[Facts], str]:
    return lambda facts: f"{said}: {_line_with(facts, signs)}"


def _exited_with(*codes: int | None) -> Callable[[Facts], bool]:
    return lambda facts: facts.exit_code in codes


def _words(text: str) -> Callable[[Facts], str]:
    return lambda _: text


_RESTART = "restart the job: it continues from its newest checkpoint"
_CUDA_OOM_SIGNS = (
    "CUDA out of memory",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "cudaErrorMemoryAllocation",
    "OutOfMemoryError: HIP",
)
_GPU_ABSENT_SIGNS = (
    "no CUDA-capable device is detected",
    "CUDA driver initialization failed",
    "CUDA driver version is insufficient",
    "Found no NVIDIA driver",
    "Driver/library version mismatch",
)
_GPU_LOST_SIGNS = (
    "CUDA-capable device(s) is/are busy or unavailable",
    "GPU is lost",
    "fallen off the bus",
    "uncorrectable ECC error",
)
_GPU_REFUSED = (
    "unknown device",
    "gpu is lost",
    "driver/library version mismatch",
    "nvml error",
    "unresolvable cdi devices",
)
"""Pieces of an engine's refusal, in lower case, that say that the GPU asked for is not to be had."""
_DISK_SIGNS = ("no space left on device", "disk quota exceeded")
_SHM_SIGNS = ("insufficient shared memory", "out of shared memory (shm)", "Bus error")
_HOST_MEMORY_SIGNS = (
    "is killed by signal: Killed",
    "DefaultCPUAllocator: can't allocate memory",
    "Cannot allocate memory",
    "std::bad_alloc",
)

_OF_CHILDREN: Final = frozenset({"ChildFailedError", "ProcessRaisedException", "CalledProcessError"})
"""Exceptions that only say that another process failed, which told why before."""

_CRASHES: Final = {
    signal.SIGILL: "an instruction this processor does not know: the image may be built for another one",
    signal.SIGTRAP: "a breakpoint",
    signal.SIGABRT: "it gave itself up, often after a failed check of a library",
    signal.SIGFPE: "an arithmetic error such as a division by zero",
    signal.SIGSEGV: "it reached for memory that is not its own",
    signal.SIGPIPE: "nobody read what it wrote",
    signal.SIGXCPU: "its limit of processor time",
    signal.SIGXFSZ: "its limit of file size",
    signal.SIGSYS: "a system call that containers may not make",
    signal.SIGHUP: "its terminal went away",
    signal.SIGINT: "it was interrupted",
    signal.SIGQUIT: "it was told to quit",
}
"""Signals by which a program ends itself, or is ended for what it did, and what each means."""


def _crash(facts: Facts) -> signal.Signals | None:
    return next((each for each in _CRASHES if facts.exit_code == 128 + each), None)


def _crash_words(facts: Facts) -> str:
    number = _crash(facts)
    assert number is not None
    return f"it crashed with {number.name} (exit code {128 + number}): {_CRASHES[number]}{_log_end(facts)}"


def _log_end(facts: Facts) -> str:
    """The last lines of the log, where there are any."""
    lines = "\n".join(facts.log_tail.strip().splitlines()[-LAST_LINES:])
    return f"; its last lines: {lines}" if lines else ""


def _memory_limit(facts: Facts) -> str:
    limit = f" of {facts.memory_mb} MiB" if facts.memory_mb else ""
    peak = f"; it was seen to hold {facts.peak_memory_mb} MiB" if facts.peak_memory_mb else ""
    return f"the kernel ended it for want of memory{limit}{peak}"


def _killed_at_its_limit(facts: Facts) -> bool:
    """The engine sometimes misses what the kernel did; a program that had filled its memory was not killed for fun."""
    return (
        facts.exit_code == SIGKILL_EXIT_CODE
        and facts.memory_mb is not None
        and (facts.peak_memory_mb or 0) >= NEAR_LIMIT * facts.memory_mb
    )


def _error(facts: Facts) -> PythonError | None:
    return last_error(facts.log_tail)


def _out_of_memory_error(facts: Facts) -> bool:
    error = _error(facts)
    return error is not None and error.type in {"MemoryError", "_ArrayMemoryError"}


def _host_oom_row(applies: Callable[[Facts], bool], message: Callable[[Facts], str]) -> Row:
    return Row(
        EndReason.HOST_OOM,
        applies,
        message,
        "raise resources.memory_mb, or lower buffer_tokens, batch_size or expansion_factor (of a training), "
        "or the data held at once (of other programs)",
        "resources.memory_mb",
    )


_ROW_OF_LOST_GPU: Final = Row(
    EndReason.GPU_LOST,
    lambda facts: bool(facts.lost_gpus),
    lambda facts: f"its GPU no longer answers: {'; '.join(facts.lost_gpus)}",
    "nvidia-smi and the kernel's log (dmesg, Xid) tell more; a reset or a reboot often helps. It is not handed out "
    "meanwhile",
)
_ROW_OF_SIGTERM: Final = Row(
    EndReason.KILLED,
    _exited_with(SIGTERM_EXIT_CODE),
    _words("told to end from outside (SIGTERM), as an engine does to all when it restarts"),
    _RESTART,
)

TABLE: Final[tuple[Row, ...]] = (
    _ROW_OF_LOST_GPU,
    _host_oom_row(_accused, _memory_limit),
    Row(
        EndReason.LAUNCH_FAILED,
        lambda facts: facts.engine_error is not None and facts.exit_code is not None,
        lambda facts: facts.engine_error or "",
        "check the image and the command, then restart the job",
    ),
    Row(
        EndReason.LOST,
        _exited_with(None),
        lambda facts: (
            facts.engine_error
            or "the attempt is gone and nobody saw it end: it was removed from outside, or the machine went down"
        ),
        _RESTART,
    ),
    Row(
        EndReason.KILLED,
        lambda facts: facts.overdue and facts.intent in ("pause", "requeue"),
        _words("it was asked to pause and wrote no checkpoint within SAEFORGE_GRACE_S"),
        "raise SAEFORGE_GRACE_S, then restart the job",
    ),
    Row(
        EndReason.ALREADY_CLAIMED,
        _exited_with(CLAIMED_EXIT_CODE),
        _words("the run directory was claimed by an earlier process of the same attempt"),
        "restart the job",
    ),
    Row(
        EndReason.LAUNCH_FAILED,
        _exited_with(UNWRITABLE_EXIT_CODE),
        _words("the job's user may not write into its run directory"),
        "check the owner of <home>/runs and SAEFORGE_CONTAINER_USER, then restart the job",
    ),
    Row(
        EndReason.DISK_FULL,
        # Another program may mean something else by this code.
        lambda facts: facts.exit_code == DISK_FULL_EXIT_CODE and facts.builtin,
        _words("the disk was full, so that the worker could not even write how it ended"),
        f"free space under SAEFORGE_HOME, then {_RESTART}",
    ),
    Row(
        EndReason.DISK_FULL,
        lambda facts: facts.home_is_full and _log_says(*_DISK_SIGNS)(facts),
        _quoting("the disk was full", *_DISK_SIGNS),
        "free space under SAEFORGE_HOME (saeforge cleanup, saeforge purge), then restart the job",
    ),
    Row(
        EndReason.CUDA_OOM,
        _log_says(*_CUDA_OOM_SIGNS),
        _quoting("the GPU's memory did not suffice", *_CUDA_OOM_SIGNS),
        "lower the program's batch size or sequence length, use a smaller data type, or ask for a larger GPU "
        "(resources.gpu_model); one that it has alone (without resources.gpu_memory_mb) has more to give",
    ),
    Row(
        EndReason.GPU_LOST,
        _log_says(*_GPU_LOST_SIGNS),
        _quoting("its GPU failed", *_GPU_LOST_SIGNS),
        "nvidia-smi and the kernel's log (dmesg, Xid) tell more; a reset or a reboot often helps",
    ),
    Row(
        EndReason.GPU_ABSENT,
        _log_says(*_GPU_ABSENT_SIGNS),
        _quoting("it found no GPU that it could use", *_GPU_ABSENT_SIGNS),
        "ask for one with resources.gpus; the image's CUDA must not be newer than the driver's (nvidia-smi tells both)",
    ),
    Row(
        EndReason.EXIT_CODE,
        lambda facts: facts.exit_code == 128 + signal.SIGBUS or _log_says(*_SHM_SIGNS)(facts),
        lambda facts: f"it ran out of shared memory ({facts.shm_mb or '?'} MiB in /dev/shm){_log_end(facts)}",
        "raise resources.shm_mb, or use fewer loader processes",
        "resources.shm_mb",
    ),
    _host_oom_row(_killed_at_its_limit, _memory_limit),
    _host_oom_row(
        _log_says(*_HOST_MEMORY_SIGNS), _quoting("the machine's memory did not suffice", *_HOST_MEMORY_SIGNS)
    ),
    _host_oom_row(_out_of_memory_error, lambda facts: f"the machine's memory did not suffice: {_error(facts)}"),
    Row(
        EndReason.EXIT_CODE,
        _log_says(*_DISK_SIGNS),
        _quoting("a file system in its container was full, and not the disk", *_DISK_SIGNS),
        "/tmp holds 1 GiB: write what is large into the run directory ($SAEFORGE_RUN_DIR)",
    ),
    Row(
        EndReason.KILLED,
        _exited_with(SIGKILL_EXIT_CODE),
        _words("killed by a signal from outside (SIGKILL, exit code 137)"),
        "if the machine ran out of memory (dmesg tells), set resources.memory_mb so that jobs fit it together; then "
        "restart the job",
    ),
    _ROW_OF_SIGTERM,
    Row(EndReason.EXIT_CODE, lambda facts: _crash(facts) is not None, _crash_words, "the log may tell more"),
    Row(
        EndReason.USER_ERROR,
        _exited_with(126),
        lambda facts: f"{facts.command or 'the program'} is there and cannot be run (exit code 126){_log_end(facts)}",
        "make it executable (chmod +x), give its interpreter first, or use an image built for this kind of processor",
        "params.command",
    ),
    Row(
        EndReason.USER_ERROR,
        _exited_with(127),
        lambda facts: f"{facts.command or 'the program'} was not found in the image (exit code 127){_log_end(facts)}",
        "check the spelling and the image; a command line for a shell needs one: sh -c '...'",
        "params.command",
    ),
    Row(
        EndReason.INTERNAL_ERROR,
        lambda facts: facts.builtin and facts.exit_code == 0,
        _words("the worker ended without saying how"),
        f"the log may tell more; {_RESTART}",
    ),
    Row(
        EndReason.USER_ERROR,
        lambda facts: not facts.builtin and _error(facts) is not None,
        lambda facts: str(_error(facts)),
        "correct the program; the log has the whole traceback",
    ),
    Row(
        EndReason.EXIT_CODE,
        lambda _: True,
        lambda facts: f"exited with code {facts.exit_code}{_log_end(facts)}",
        "the log has the whole story",
    ),
)
"""From the strongest evidence to the weakest; the first that applies is told."""

_ADVICE_OF: Final = {
    EndReason.IMAGE_MISSING: "check the name, or load it by hand with docker load",
    EndReason.LAUNCH_FAILED: "the engine's words say what it lacks; doctor looks at the rest",
    EndReason.GPU_LOST: "nvidia-smi tells whether the GPU and its driver are well",
    EndReason.DISK_FULL: "free space on the disk of the container engine, e.g. with docker system prune",
}


def _told(row: Row, facts: Facts) -> Outcome:
    return _failed(row.reason, row.message(facts), row.field, row.advice)


def _failed(reason: EndReason, message: str, field: str | None, suggestion: str) -> Outcome:
    return Outcome(reason, JobFailure(reason, message, field, suggestion))
