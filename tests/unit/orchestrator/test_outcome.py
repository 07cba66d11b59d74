from dataclasses import replace

import pytest

from orchestrator.domain import FAILURE_CLASS, STATUS_OF, EndReason, JobStatus
from orchestrator.errors import ImageMissing, LaunchFailed
from orchestrator.outcome import TABLE, Facts, launch_outcome, outcome
from worker_image.contract.events import Failure, Finished


def finished(how: str, failure: Failure | None = None) -> Finished:
    return Finished(seq=1, ts=0, outcome=how, failure=failure)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (Facts("run", 0), EndReason.COMPLETED),
        (Facts("run", 0, finished=finished("completed")), EndReason.COMPLETED),
        (Facts("pause", 0, finished=finished("paused")), EndReason.PAUSED),
        (Facts("pause", 0, finished=finished("stopped")), EndReason.PAUSED),
        (Facts("stop", 0, finished=finished("paused")), EndReason.STOPPED),
        (Facts("stop", 143), EndReason.STOPPED),
        (Facts("run", 0, finished=finished("stopped")), EndReason.KILLED),
        (Facts("run", 143), EndReason.KILLED),
        (Facts("run", 143, overran=True), EndReason.TIMEOUT),
        (Facts("run", 137, overran=True, oom_killed=True), EndReason.HOST_OOM),
        (Facts("run", 0, overran=True, finished=finished("stopped")), EndReason.TIMEOUT),
        (Facts("run", 0, overran=True), EndReason.COMPLETED),
        (Facts("run", 3, overran=True), EndReason.EXIT_CODE),
        (Facts("cancel", 0, finished=finished("completed")), EndReason.CANCELLED),
        (Facts("cancel", None), EndReason.CANCELLED),
        (Facts("run", None), EndReason.LOST),
        (Facts("run", None, finished=finished("completed")), EndReason.COMPLETED),
        (Facts("run", 137, oom_killed=True), EndReason.HOST_OOM),
        (Facts("run", 0, oom_killed=True), EndReason.COMPLETED),
        (Facts("run", 137), EndReason.KILLED),
        (Facts("run", 97), EndReason.ALREADY_CLAIMED),
        (Facts("run", 98), EndReason.LAUNCH_FAILED),
        (Facts("run", 96, builtin=True), EndReason.DISK_FULL),
        (Facts("run", 96), EndReason.EXIT_CODE),
        (Facts("run", 0, builtin=True), EndReason.INTERNAL_ERROR),
        (Facts("pause", 137, overdue=True), EndReason.KILLED),
        (Facts("pause", 137, overdue=True, has_checkpoint=True), EndReason.PAUSED),
        (Facts("run", 3), EndReason.EXIT_CODE),
        (Facts("run", 143, timed_out=True), EndReason.TIMEOUT),
        (Facts("run", 0, timed_out=True, finished=finished("stopped")), EndReason.TIMEOUT),
        (Facts("run", 0, timed_out=True, finished=finished("completed")), EndReason.COMPLETED),
        (Facts("run", 127, engine_error="no such file"), EndReason.LAUNCH_FAILED),
        (Facts("run", None, engine_error="its process is gone"), EndReason.LOST),
    ],
)
def test_the_facts_tell_the_reason(facts: Facts, reason: EndReason) -> None:
    assert outcome(facts).reason is reason


def test_a_failure_keeps_the_workers_words_and_names_the_parameter() -> None:
    failure = Failure(code="user_error", message="no such module", field="hookpoint", suggestion="layers.0")
    told = outcome(Facts("run", 2, finished=finished("failed", failure))).failure
    assert told is not None
    assert (told.reason, told.field, told.suggestion) == (EndReason.USER_ERROR, "params.hookpoint", "layers.0")


def test_an_exit_code_comes_with_the_last_lines_of_the_log() -> None:
    told = outcome(Facts("run", 1, log_tail="ValueError: no")).failure
    assert told is not None
    assert "ValueError: no" in told.message


TRACEBACK = """starting
Traceback (most recent call last):
  File "/app/train.py", line 12, in main
    fit(model)
  File "/usr/lib/python3.11/json/decoder.py", line 355, in raw_decode
    raise
{}
"""
LOST = ("GPU 0 (H200): it is lost: GPU is lost",)

# Facts -> reason, what the message holds, the field it names.
ROWS: list[tuple[Facts, EndReason, str, str | None]] = [
    (Facts("run", 1, lost_gpus=LOST), EndReason.GPU_LOST, "GPU 0 (H200)", None),
    (Facts("run", 143, lost_gpus=LOST), EndReason.GPU_LOST, "no longer answers", None),
    (Facts("run", 0, builtin=True, finished=finished("stopped"), lost_gpus=LOST), EndReason.GPU_LOST, "GPU 0", None),
    (Facts("run", 1, oom_killed=True, memory_mb=256), EndReason.HOST_OOM, "of 256 MiB", "resources.memory_mb"),
    (Facts("run", 1, oom_killed=True, memory_mb=256, peak_memory_mb=250), EndReason.HOST_OOM, "hold 250 MiB",
     "resources.memory_mb"),
    (Facts("run", 137, memory_mb=256, peak_memory_mb=251), EndReason.HOST_OOM, "251 MiB", "resources.memory_mb"),
    (Facts("run", 137, memory_mb=256, peak_memory_mb=20), EndReason.KILLED, "SIGKILL", None),
    (Facts("run", 127, engine_error="no shell in the image"), EndReason.LAUNCH_FAILED, "no shell", None),
    (Facts("run", None), EndReason.LOST, "nobody saw it end", None),
    (Facts("run", 97), EndReason.ALREADY_CLAIMED, "claimed", None),
    (Facts("run", 98), EndReason.LAUNCH_FAILED, "may not write", None),
    (Facts("run", 96, builtin=True), EndReason.DISK_FULL, "disk was full", None),
    (Facts("run", 1, home_is_full=True, log_tail="cp: error writing 'x': No space left on device"),
     EndReason.DISK_FULL, "cp: error writing", None),
    (Facts("run", 1, log_tail=TRACEBACK.format("OSError: [Errno 28] No space left on device: '/tmp/x'")),
     EndReason.EXIT_CODE, "not the disk", None),
    (Facts("run", 1, log_tail=TRACEBACK.format("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB")),
     EndReason.CUDA_OOM, "Tried to allocate 2 GiB", None),
    (Facts("run", 1, log_tail=TRACEBACK.format("RuntimeError: No CUDA GPUs\nno CUDA-capable device is detected")),
     EndReason.GPU_ABSENT, "no CUDA-capable device", None),
    (Facts("run", 1, log_tail="CUDA error: uncorrectable ECC error encountered"), EndReason.GPU_LOST, "ECC", None),
    (Facts("run", 135, shm_mb=64), EndReason.EXIT_CODE, "64 MiB in /dev/shm", "resources.shm_mb"),
    (Facts("run", 1, shm_mb=64, log_tail="Unexpected bus error: insufficient shared memory (shm)"),
     EndReason.EXIT_CODE, "shared memory", "resources.shm_mb"),
    (Facts("run", 1, log_tail=TRACEBACK.format("RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed.")),
     EndReason.HOST_OOM, "DataLoader worker", "resources.memory_mb"),
    (Facts("run", 1, log_tail=TRACEBACK.format("MemoryError")), EndReason.HOST_OOM, "MemoryError",
     "resources.memory_mb"),
    (Facts("run", 137), EndReason.KILLED, "137", None),
    (Facts("run", 143), EndReason.KILLED, "SIGTERM", None),
    (Facts("run", 139), EndReason.EXIT_CODE, "SIGSEGV (exit code 139)", None),
    (Facts("run", 134, builtin=True), EndReason.EXIT_CODE, "SIGABRT", None),
    (Facts("run", 132), EndReason.EXIT_CODE, "another one", None),
    (Facts("run", 126, command="train.sh"), EndReason.USER_ERROR, "train.sh is there", "params.command"),
    (Facts("run", 127, command="trian"), EndReason.USER_ERROR, "trian was not found", "params.command"),
    (Facts("run", 0, builtin=True), EndReason.INTERNAL_ERROR, "without saying how", None),
    (Facts("run", 1, log_tail=TRACEBACK.format("ValueError: no")), EndReason.USER_ERROR,
     "ValueError: no (train.py line 12, in main)", None),
    (Facts("run", 3, log_tail="one\ntwo"), EndReason.EXIT_CODE, "its last lines: one\ntwo", None),
    (Facts("pause", 137, overdue=True), EndReason.KILLED, "SAEFORGE_GRACE_S", None),
    (Facts("run", 143, timed_out=True, timeout_s=60), EndReason.TIMEOUT, "(60 s)", "resources.timeout_s"),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "reason", "words", "field"), ROWS, ids=lambda value: str(value)[:60])
def test_each_kind_of_failure_is_told_with_its_field_and_advice(
    facts: Facts, reason: EndReason, words: str, field: str | None
) -> None:
    told = outcome(facts).failure
    assert told is not None
    assert (told.reason, told.field) == (reason, field)
    assert words in told.message
    assert told.suggestion


def test_every_row_of_the_table_is_reached_by_one_of_the_cases() -> None:
    judged = [facts for facts, reason, *_ in ROWS if reason is not EndReason.TIMEOUT]
    reached = [next(row for row in TABLE if row.applies(facts)) for facts in judged]
    assert [row for row in TABLE if row not in reached] == []


@pytest.mark.parametrize("code", sorted({*range(1, 256)}))
def test_no_exit_code_is_left_without_advice(code: int) -> None:
    told = outcome(Facts("run", code)).failure
    assert told is not None
    assert told.suggestion


def test_what_a_program_caught_and_went_on_from_is_not_what_ended_it() -> None:
    log = "CUDA out of memory. Trying a smaller batch\n" + TRACEBACK.format("ValueError: no")
    assert outcome(Facts("run", 1, log_tail=log)).reason is EndReason.USER_ERROR


def test_what_a_launcher_says_of_its_children_is_looked_through() -> None:
    log = "[rank0]: torch.OutOfMemoryError: CUDA out of memory.\n" + TRACEBACK.format("ChildFailedError: train.py")
    assert outcome(Facts("run", 1, log_tail=log)).reason is EndReason.CUDA_OOM


def test_the_workers_own_account_stands_unless_its_gpu_is_lost() -> None:
    failure = Failure(code="internal_error", message="RuntimeError: CUDA error: unknown error")
    facts = Facts("run", 1, builtin=True, finished=finished("failed", failure))
    assert outcome(facts).reason is EndReason.INTERNAL_ERROR
    assert outcome(replace(facts, lost_gpus=LOST)).reason is EndReason.GPU_LOST


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImageMissing("no such image", field="image"), EndReason.IMAGE_MISSING),
        (LaunchFailed("the engine refused: nvidia-container-cli: device error: GPU-a: unknown device"),
         EndReason.GPU_LOST),
        (LaunchFailed("mkdir /var/lib/docker/x: no space left on device"), EndReason.DISK_FULL),
        (LaunchFailed("something else"), EndReason.LAUNCH_FAILED),
    ],
)  # fmt: skip
def test_what_the_engine_refused_is_told_with_advice(error: ImageMissing | LaunchFailed, reason: EndReason) -> None:
    told = launch_outcome(error).failure
    assert told is not None
    assert told.reason is reason
    assert told.message == error.message
    assert told.suggestion
    assert told.field == (f"params.{error.field}" if error.field else None)


def test_every_failure_has_a_class_that_tells_about_another_try() -> None:
    failures = {reason for reason in EndReason if STATUS_OF[reason] is JobStatus.FAILED}
    assert FAILURE_CLASS.keys() == failures
