"""``python -m worker_image.run <run directory>``: what runs inside a job's container.

Reads ``params.json``, calls ``main(params, run)`` of the module in ``worker_image/jobs/`` that bears the job type's
name, and turns whatever goes wrong into one ``Finished(outcome="failed")`` with its traceback in the log.

Exit codes: 0 completed, paused or stopped; 1 internal error or out of GPU memory; 2 the user's parameters cannot work;
96 the disk was full, and how the run ended could not be written.
"""

import errno
import importlib
import os
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Literal

from worker_image.contract.events import Failure
from worker_image.contract.job_type import JobType
from worker_image.contract.launch import DISK_FULL_EXIT_CODE
from worker_image.contract.rundir import RunDir, RunSpec
from worker_image.errors import GpuAbsent, OutOfGpuMemory, UserError
from worker_image.reporter import Run, write_line

EXIT_INTERNAL = 1
EXIT_USER_ERROR = 2
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""No space left; over the user's quota."""


_CODES: dict[type[UserError], Literal["cuda_oom", "gpu_absent"]] = {
    OutOfGpuMemory: "cuda_oom",
    GpuAbsent: "gpu_absent",
}
"""What is told apart from what the user asked for."""


_FILLS_GPU = {
    "batch_size": "lower batch_size or expansion_factor, or share the GPU with fewer jobs",
    "harvest_batch_size": "lower harvest_batch_size or context_length, or share the GPU with fewer jobs",
}
"""Parameter that fills a GPU -> what to do, the first that a job has."""


def prepare_environment(spec: RunSpec) -> None:
    """Settle what libraries read from the environment when they are imported.

    Without network the hub client must not try; compute threads follow the cores granted (a container's limit does
    not show in ``os.cpu_count``); and a home that cannot be written (read-only root) must not be anyone's cache.

    OpenMP threads sleep instead of spinning at a barrier: on two cores shared with an orchestrator and a browser,
    spinning made a training step cost three times the CPU time (measured 504 against 161 ms).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    home, temporary = Path("~").expanduser(), Path(tempfile.gettempdir())
    if not spec.params.network:
        os.environ["HF_HUB_OFFLINE"] = "1"
    elif spec.cache is not None and home == temporary:
        # A container's home is small and in memory; what one job fetches the next one finds here.
        os.environ.setdefault("HF_HOME", str(Path(spec.cache) / "hub"))
    if spec.cpus is not None:
        threads = str(max(1, int(spec.cpus)))
        os.environ["OMP_NUM_THREADS"] = threads
        os.environ["RAYON_NUM_THREADS"] = threads
    if not os.access(home, os.W_OK):
        os.environ.setdefault("HF_HOME", str(temporary / "huggingface"))


def failure_of(error: BaseException, params: JobType | None = None) -> Failure:
    """What a user is told about an exception of a job with ``params``."""
    if isinstance(error, UserError):
        code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), "user_error")
        return Failure(code=code, message=error.message, field=error.field, suggestion=error.suggestion)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return Failure(
            code="disk_full",
            message=f"the disk is full: {error}",
            suggestion="free space under the saeforge home, or lower keep_checkpoints, then restart the job",
        )
    if _is_lack_of_gpu_memory(error):
        field = next((name for name in _FILLS_GPU if params and name in type(params).model_fields), None)
        return Failure(
            code="cuda_oom",
            message=f"the GPU's memory did not suffice: {error}",
            field=field,
            suggestion=_FILLS_GPU[field] if field else "run the job on a GPU with more memory",
        )
    return Failure(
        code="internal_error",
        message=f"{type(error).__name__}: {error}",
        suggestion="the job's log holds the traceback; the failure is likely a defect of saeforge",
    )


def _is_lack_of_gpu_memory(error: BaseException) -> bool:
    # Only what has imported torch can raise its errors, and importing it takes seconds.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def main(argv: list[str]) -> int:
    """Run the attempt in ``argv[0]``; return the process's exit code."""
    if len(argv) != 1:
        sys.stderr.write("usage: python -m worker_image.run <run directory>\n")
        return EXIT_USER_ERROR
    run_dir = RunDir(Path(argv[0]))
    try:
        spec = run_dir.spec()
    except (OSError, ValueError) as error:
        # No run spec, so nothing of the contract can be kept either: the exit code and the log have to do.
        write_line(f"cannot read {run_dir.params}: {error}", "error")
        return EXIT_USER_ERROR
    # Before the heavy imports: they take seconds, in which SIGTERM would otherwise kill without a word.
    return execute(Run(run_dir, spec), spec)


def execute(run: Run, spec: RunSpec) -> int:
    """Do the job of ``spec``, reporting to ``run``; return the process's exit code."""
    prepare_environment(spec)
    try:
        job = importlib.import_module(f"worker_image.jobs.{spec.params.type}")
        job.main(spec.params, run)
    except Exception as error:  # the task boundary: everything becomes a Failure
        return _fail(run, error, spec.params)
    return 0


def _fail(run: Run, error: Exception, params: JobType) -> int:
    """Report the failure, then explain it in the log; return the exit code.

    In this order: on a disk with little room left, the last word is what has to be written.
    """
    failure = failure_of(error, params)
    code = EXIT_USER_ERROR if failure.code == "user_error" else EXIT_INTERNAL
    try:
        run.finish("failed", failure=failure)
    except OSError as refused:
        code = DISK_FULL_EXIT_CODE if refused.errno in DISK_FULL else EXIT_INTERNAL
    advice = f" ({failure.field}) {failure.suggestion or ''}" if failure.field else ""
    with suppress(OSError):
        if not isinstance(error, UserError):
            run.log("".join(traceback.format_exception(error)), "error")
        run.log(f"job failed: {failure.message}{advice}", "error")
    return code


def _let_go_of_log() -> None:
    """Drop what a full disk did not take: Python would try again at exit, and change the exit code when it fails."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    _let_go_of_log()
    sys.exit(exit_code)
