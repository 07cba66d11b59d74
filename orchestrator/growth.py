"""Tells when files grow that others append to: by the kernel's word where it gives one, else by looking."""

import asyncio
import errno
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from inotify_simple import INotify, flags

logger = logging.getLogger(__name__)

PAUSE_S = 0.005
"""After the kernel told of something the next word waits this long, so that a flood of small writes becomes a few
wakings."""
POLL_S = 0.05
"""Between two looks at files of which the kernel does not tell."""
CHECK_S = 2.0
"""Between two looks at files of which it does, in case it does not after all: on a network share, say."""
_MISSES = 2
"""Growths found by looking alone, in a row, after which the kernel's word is not waited for any more."""
_MASK = flags.MODIFY | flags.DONT_FOLLOW


@dataclass(eq=False)
class _File:
    path: Path
    listeners: list[Callable[[], None]] = field(default_factory=list)
    watch: int | None = None
    """The kernel's name for what it watches."""
    size_bytes: int = -1
    """When it was last looked at; negative when it was not there."""
    told: bool = False
    """Whether the kernel told of it since the last look."""
    misses: int = 0

    @property
    def polled(self) -> bool:
        return self.watch is None or self.misses >= _MISSES


class Growth:
    """Watches files, each once, however many wait for it. Belongs to one event loop."""

    def __init__(self, *, notified: bool = True) -> None:
        """Without ``notified``, or where the kernel has no inotify left to give, it only looks."""
        self._files: dict[Path, _File] = {}
        self._watched: dict[int, list[_File]] = {}
        self._kernel = _kernel() if notified else None
        self._full = False
        self._task: asyncio.Task[None] | None = None
        self._more = asyncio.Event()
        self._resume: asyncio.TimerHandle | None = None

    @contextmanager
    def watch(self, path: Path, tell: Callable[[], None]) -> Iterator[None]:
        """Call ``tell`` whenever the file may have grown, and once it is watched; it need not exist yet.

        What the file held before that first call is for the caller to read.
        """
        if self._task is None:
            self._start()
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = _File(path)
            self._more.set()
        file.listeners.append(tell)
        try:
            yield
        finally:
            file.listeners.remove(tell)
            if not file.listeners:
                del self._files[path]
                self._forget(file)

    async def close(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._kernel is not None:
            asyncio.get_running_loop().remove_reader(self._kernel.fileno())
            self._kernel.close()

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._kernel is not None:
            loop.add_reader(self._kernel.fileno(), self._read)
        self._task = loop.create_task(self._look_on(), name="growth")

    # --- by the kernel's word

    def _read(self) -> None:
        """Tell of what the kernel told, then let it gather for a moment."""
        assert self._kernel is not None
        grown: dict[_File, None] = {}
        for event in self._kernel.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                grown.update(dict.fromkeys(self._files.values()))
            found = self._watched.get(event.wd, [])
            if event.mask & flags.IGNORED:
                self._watched.pop(event.wd, None)
                for file in found:
                    file.watch = None
            grown.update(dict.fromkeys(found))
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._kernel.fileno())
        self._resume = loop.call_later(PAUSE_S, loop.add_reader, self._kernel.fileno(), self._read)
        for file in grown:
            file.told, file.misses = True, 0
            _tell(file)

    def _forget(self, file: _File) -> None:
        if file.watch is None or self._kernel is None:
            return
        sharing = self._watched.get(file.watch, [])
        if file in sharing:
            sharing.remove(file)
        if not sharing:
            self._watched.pop(file.watch, None)
            with suppress(OSError):
                # It may be gone with its file already.
                self._kernel.rm_watch(file.watch)

    # --- by looking

    async def _look_on(self) -> None:
        checked_at = 0.0
        loop = asyncio.get_running_loop()
        while True:
            self._more.clear()
            due = checked_at + CHECK_S
            if loop.time() >= due:
                checked_at, due = loop.time(), loop.time() + CHECK_S
                chosen = list(self._files.values())
            else:
                chosen = [file for file in self._files.values() if file.polled]
            if chosen:
                for file, size in zip(chosen, await asyncio.to_thread(self._look, chosen), strict=True):
                    self._looked(file, size)
            wait_s = POLL_S if any(file.polled for file in self._files.values()) else max(0.0, due - loop.time())
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s if self._files else None):
                    await self._more.wait()
                    # After a restart a thousand come at once: they are looked at together.
                    await asyncio.sleep(PAUSE_S)

    def _look(self, files: Sequence[_File]) -> list[tuple[int | None, int]]:
        """(the kernel's watch, size) of each, in a thread: a path may lie on a share that does not answer."""
        return [(self._armed(file), _size(file.path)) for file in files]

    def _armed(self, file: _File) -> int | None:
        if file.watch is not None or self._kernel is None or self._full:
            return file.watch
        try:
            watch: int = self._kernel.add_watch(file.path, _MASK)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                logger.warning("fs.inotify.max_user_watches is used up: more files are looked at every %g s", POLL_S)
                self._full = True
            return None
        return watch

    def _looked(self, file: _File, found: tuple[int | None, int]) -> None:
        watch, size = found
        fresh = watch is not None and file.watch is None
        if watch is not None and fresh:
            file.watch = watch
            self._watched.setdefault(watch, []).append(file)
            if self._files.get(file.path) is not file:
                # Its last listener left meanwhile.
                self._forget(file)
                return
        grown = size != file.size_bytes
        if grown and not fresh:
            file.misses = 0 if file.told else file.misses + 1
        file.size_bytes, file.told = size, False
        if grown or fresh:
            _tell(file)


def _kernel() -> INotify | None:
    try:
        return INotify(nonblocking=True)
    except OSError as error:
        logger.warning("no inotify (%s): files are looked at every %g s instead", error.strerror, POLL_S)
        return None


def _tell(file: _File) -> None:
    for tell in list(file.listeners):
        tell()


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return -1
