import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator import growth
from orchestrator.growth import Growth


@asynccontextmanager
async def watching(*, notified: bool) -> AsyncIterator[Growth]:
    watched = Growth(notified=notified)
    try:
        yield watched
    finally:
        await watched.close()


class Listener:
    """Knows how long the file was when it was told last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen = b""
        self.calls = 0
        self._called = asyncio.Event()

    def __call__(self) -> None:
        self.calls += 1
        if self.path.exists():
            self.seen = self.path.read_bytes()
        self._called.set()

    async def called(self) -> None:
        async with asyncio.timeout(10):
            await self._called.wait()

    async def has(self, content: bytes) -> None:
        while self.seen != content:
            self._called.clear()
            await self.called()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.touch()
    return path


@pytest.fixture(autouse=True)
def checks_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "CHECK_S", 0.05)
    monkeypatch.setattr(growth, "POLL_S", 0.01)


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


@pytest.mark.parametrize("notified", [True, False])
async def test_every_listener_hears_of_every_growth(file: Path, notified: bool) -> None:
    one, other = Listener(file), Listener(file)
    async with watching(notified=notified) as watched:
        with watched.watch(file, one), watched.watch(file, other):
            append(file, b"a")
            await one.has(b"a")
            append(file, b"b")
            await one.has(b"ab")
            await other.has(b"ab")


async def test_the_kernels_word_comes_without_looking(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "CHECK_S", 3600.0)
    listener = Listener(file)
    async with watching(notified=True) as watched:
        with watched.watch(file, listener):
            await listener.called()
            for number in range(3):
                append(file, b"%d" % number)
                await listener.has(b"012"[: number + 1])


async def test_a_file_that_does_not_exist_yet_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "later"
    listener = Listener(path)
    async with watching(notified=True) as watched:
        with watched.watch(path, listener):
            append(path, b"a")
            await listener.has(b"a")


async def test_a_file_put_in_its_place_is_looked_at(file: Path, tmp_path: Path) -> None:
    listener = Listener(file)
    async with watching(notified=True) as watched:
        with watched.watch(file, listener):
            await listener.called()
            append(tmp_path / "other", b"new")
            os.replace(tmp_path / "other", file)
            for more in range(5):
                append(file, b"%d" % more)
                await listener.has(b"new01234"[: 4 + more])


async def test_a_flood_of_writes_is_few_wakings(file: Path) -> None:
    listener = Listener(file)
    async with watching(notified=True) as watched:
        with watched.watch(file, listener):
            for _ in range(20):
                for _ in range(50):
                    append(file, b"x")
                await asyncio.sleep(0)
            await listener.has(b"x" * 1000)
    assert listener.calls < 200


async def test_one_file_under_two_names_tells_those_of_both(file: Path, tmp_path: Path) -> None:
    alias = tmp_path / "alias"
    alias.hardlink_to(file)
    one, other = Listener(file), Listener(alias)
    async with watching(notified=True) as watched:
        with watched.watch(file, one):
            with watched.watch(alias, other):
                append(file, b"a")
                await other.has(b"a")
            append(file, b"b")
            await one.has(b"ab")


async def test_who_has_left_hears_nothing_more(file: Path) -> None:
    gone, stayed = Listener(file), Listener(file)
    async with watching(notified=True) as watched:
        with watched.watch(file, stayed):
            with watched.watch(file, gone):
                append(file, b"a")
                await gone.has(b"a")
            calls = gone.calls
            append(file, b"b")
            await stayed.has(b"ab")
            assert gone.calls == calls


async def test_watching_again_after_everyone_left_works(file: Path) -> None:
    async with watching(notified=True) as watched:
        for number in range(3):
            listener = Listener(file)
            with watched.watch(file, listener):
                append(file, b"%d" % number)
                await listener.has(b"012"[: number + 1])
