"""The parent of one attempt that runs as a plain process. Standard library only; run as a script.

    python process_shim.py <private folder> <program> [argument...]

It detaches from its caller, so the orchestrator may die; records itself under a lock, so an attempt has one shim at
most; passes SIGTERM on; and writes how the program ended to ``exit.json``, so the exit code outlives everybody.
SIGUSR1 means: kill the program now. Whatever the program leaves running is killed with it, as in a container.

Exits at once, with 0 when this or an earlier shim has started the program.
"""

import ctypes
import fcntl
import json
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

STARTED = "started.json"
EXIT = "exit.json"
LOCK = "lock"

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SIGNALS = {signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD}


def start_ticks(pid: int) -> int | None:
    """When process ``pid`` started, in clock ticks since boot; none if it is gone or a zombie.

    With the pid it names a process for ever, until the machine restarts.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the command name may hold anything, so count from its closing bracket
    return None if fields[0] in "ZX" else int(fields[19])


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def write_record(file: Path, record: dict[str, object]) -> None:
    """Write whole or not at all."""
    draft = file.with_suffix(".tmp")
    with draft.open("w") as stream:
        json.dump(record, stream)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)


def main(folder: Path, argv: list[str]) -> int:
    folder.mkdir(exist_ok=True)
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # whoever waits here finds the first one's record
    if (folder / STARTED).exists():
        return 0
    ready, report = os.pipe()
    if os.fork():
        os.close(report)
        return 0 if os.read(ready, 1) else 1
    os.setsid()
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    shim = os.getpid()
    # Recorded before the program exists: a crash in between loses the attempt, but never runs it twice.
    write_record(folder / STARTED, {"pid": shim, "start_ticks": start_ticks(shim), "boot_id": boot_id()})
    fcntl.flock(lock, fcntl.LOCK_UN)
    _silence()
    program = os.fork()
    if program == 0:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != shim:
            os._exit(137)
        _become(argv)
    os.write(report, b"1")
    os.close(report)
    status = _wait(program)
    _clear()
    code = os.waitstatus_to_exitcode(status)
    write_record(folder / EXIT, {"exit_code": code if code >= 0 else 128 - code})
    return 0


def _become(argv: list[str]) -> NoReturn:
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        os._exit(126 if isinstance(error, PermissionError) else 127)


def _wait(program: int) -> int:
    """Pass signals on until the program has ended; return its wait status."""
    while True:
        received = signal.sigwait(_SIGNALS)
        if received == signal.SIGCHLD:
            while (reaped := _reap()) is not None:
                if reaped[0] == program:
                    return reaped[1]
        else:
            os.kill(program, signal.SIGKILL if received == signal.SIGUSR1 else received)


def _reap() -> tuple[int, int] | None:
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None


def _clear() -> None:
    """Kill what the program left running, and what that leaves in turn."""
    while left := _children():
        for process in left:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def _children() -> list[int]:
    """The shim's children: orphans of the program come to it, their nearest subreaper."""
    own = str(os.getpid())
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if parent == own:
                found.append(int(entry.name))
    return found


def _silence() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
