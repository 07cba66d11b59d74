"""Measurements of jobs: fresh ones in rows, older ones sealed into chunks of packed columns.

A row holds all that was measured at a step, so taking in costs one row; once there are enough of them, sealing moves
them into one chunk for each series. Every question sees rows and chunks in one view, so sealing changes no answer.
"""

import json
import struct
import sys
from array import array
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import pairwise
from sqlite3 import Row
from typing import Final, Literal
from uuid import UUID

from orchestrator import faults
from orchestrator.domain import Attempt
from orchestrator.series import CHUNK_POINTS, Columns, Piece, Point, Stats, bucket_width, chunks, thinned
from orchestrator.store.database import Database, Session
from worker_image.contract.rundir import step_of

Kind = Literal["metrics", "resources"]
"""By optimiser step; by milliseconds since the epoch."""

SEAL_ROWS: Final = CHUNK_POINTS
"""Rows from which on a job's fresh measurements are sealed."""
EXPORT_CHUNKS: Final = 4
"""Chunks of its longest series that an export reads at a time."""
MAX_STEP: Final = 2**62

BIG_ENDIAN: Final = sys.byteorder == "big"
_STATS: Final = struct.Struct("<q" + "qdd" * 4 + "dd")


@dataclass(frozen=True, slots=True)
class Sample:
    """All that was measured at one step."""

    step: int
    ts: float
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One named series of a job in the range that was asked for."""

    name: str
    stats: Stats
    points: tuple[Point, ...]
    """Those that are left after thinning."""


@dataclass(frozen=True, slots=True)
class Range:
    """Which points are meant."""

    start: int = 0
    end: int = MAX_STEP
    interval: int = 1
    """Only steps it divides."""


EVERYTHING: Final = Range()


class Measurements:
    """What jobs measured."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def series(
        self,
        job_id: UUID,
        kind: Kind,
        *,
        names: Collection[str] | None = None,
        within: Range = EVERYTHING,
        most: int = 0,
    ) -> list[Series]:
        """The series (all of them when ``names`` is empty) that have points in the range, by name, each with its
        statistics and at most ``most`` of its points."""
        read = partial(_series, job_id=str(job_id), kind=kind, names=names, within=within, most=most)
        if await self._db.read(partial(_unsealed, job_id=str(job_id), kind=kind)) > 2 * SEAL_ROWS:
            # From before there were chunks, or the orchestrator died at the wrong moment.
            await self.seal(job_id, kind)
        return await self._db.read(read)

    async def samples(
        self, job_id: UUID, kind: Kind, *, names: Collection[str] | None = None, within: Range = EVERYTHING
    ) -> AsyncIterator[list[Sample]]:
        """Every sample in the range in order, exactly as it was measured, some at a time."""
        edges = await self._db.read(partial(_edges, job_id=str(job_id), kind=kind, within=within))
        for start, stop in pairwise((within.start, *edges, within.end + 1)):
            if start < stop:
                part = Range(start, stop - 1, within.interval)
                yield await self._db.read(partial(_samples, job_id=str(job_id), kind=kind, names=names, within=part))

    async def measured_up_to(self, job_id: UUID) -> int:
        """Id of the job's newest event: whatever it and those before it tell of can be asked for from now on."""
        row = await self._db.one("newest_event_of_job", job_id=str(job_id))
        return 0 if row is None else int(row["id"])

    async def names(self, job_id: UUID, kind: Kind) -> list[str]:
        """Of every series of the job."""
        return await self._db.read(partial(_names, job_id=str(job_id), kind=kind))

    async def record(
        self, attempt: Attempt, sample: Sample, *, memory_mb: int | None, gpu_memory_mb: int | None
    ) -> None:
        """Keep what an attempt was seen to use, and the most of it. Nothing if its job was purged meanwhile."""

        def put(session: Session) -> int:
            key = {"job_id": str(attempt.job_id), "attempt": attempt.number}
            if not session.run("raise_peaks", **key, memory_mb=memory_mb, gpu_memory_mb=gpu_memory_mb):
                return 0
            return put_samples(session, attempt, "resources", [sample])

        if await self._db.write(put) >= SEAL_ROWS:
            await self.seal(attempt.job_id, "resources")

    async def seal(self, job_id: UUID, kind: Kind) -> None:
        """Move the fresh measurements of a job into chunks. Nothing if they change meanwhile: there is a next time."""
        ready = await self._db.read(partial(_ready_to_seal, job_id=str(job_id), kind=kind))
        if ready is not None:
            await self._db.write(ready.seal)


def put_samples(session: Session, attempt: Attempt, kind: Kind, samples: Sequence[Sample]) -> int:
    """Take in what an attempt measured; return how many rows wait to be sealed.

    Measured again, the newest value stands. What earlier attempts measured beyond the point from which this one
    continues belongs to a run that was given up, and is dropped when the attempt measures for the first time.
    """
    key = {"job_id": str(attempt.job_id), "kind": kind}
    head = session.one("head", **key)
    if kind == "metrics" and head is not None and head["attempt"] < attempt.number:
        _rewind(session, str(attempt.job_id), kind, _continues_at(attempt, samples[0].step))
    session.run_each(
        "put_sample",
        [{**key, "step": item.step, "ts": item.ts, "vals": json.dumps(item.values)} for item in samples],
    )
    session.run("advance_head", **key, attempt=attempt.number, added=len(samples))
    return _unsealed(session, job_id=str(attempt.job_id), kind=kind)


def _continues_at(attempt: Attempt, first_step: int) -> int:
    """The first step that is the attempt's own: the one after its checkpoint, else the first one it measured."""
    step = step_of(attempt.resume_from)
    return first_step if step is None else step + 1


def _rewind(session: Session, job_id: str, kind: Kind, step: int) -> None:
    """Drop everything from ``step`` on."""
    session.run("drop_samples", job_id=job_id, kind=kind, step=step)
    for row in session.all("series", job_id=job_id, kind=kind):
        cut = session.one("chunk_with", series=row["id"], step=step)
        if cut is None:
            continue
        begin, columns = _columns_from(session, row["id"], cut["number"])
        session.run("drop_chunks", series=row["id"], number=cut["number"])
        _put_chunks(session, row["id"], begin, columns.between(0, step - 1))
    session.run("drop_empty_series", job_id=job_id, kind=kind)


# --- sealing


@dataclass(frozen=True, slots=True)
class _Ready:
    """Chunks to be written, and the rows they were made of."""

    job_id: str
    kind: Kind
    revision: int
    begins: dict[str, tuple[int, Columns]]
    """Series -> points before the first that changes, and all from there on."""

    def seal(self, session: Session) -> None:
        key = {"job_id": self.job_id, "kind": self.kind}
        if not session.run("claim_sealing", **key, revision=self.revision):
            return
        session.run_each("put_series", [{**key, "name": name} for name in self.begins])
        ids = {row["name"]: row["id"] for row in session.all("series", **key)}
        for name, (begin, columns) in self.begins.items():
            _put_chunks(session, ids[name], begin, columns)
        session.run("drop_samples", **key, step=0)
        faults.reach("chunks_written")


def _ready_to_seal(session: Session, *, job_id: str, kind: Kind) -> _Ready | None:
    head = session.one("head", job_id=job_id, kind=kind)
    if head is None:
        return None
    known = {row["name"]: row["id"] for row in session.all("series", job_id=job_id, kind=kind)}
    begins = {
        name: _joined_to_end(session, known.get(name), fresh) for name, fresh in _fresh(session, job_id, kind).items()
    }
    return _Ready(job_id, kind, head["revision"], begins)


def _joined_to_end(session: Session, series: int | None, fresh: Columns) -> tuple[int, Columns]:
    """The fresh points with those in chunks that they fill up or change."""
    last = session.one("last_chunk", series=series) if series is not None else None
    if series is None or last is None:
        return 0, fresh
    changed = session.one("chunk_with", series=series, step=fresh.steps[0])
    begin, sealed = _columns_from(session, series, changed["number"] if changed else last["number"])
    return begin, sealed.updated(fresh)


def _put_chunks(session: Session, series: int, begin: int, columns: Columns) -> None:
    session.run_each(
        "put_chunk",
        [
            {
                "series": series,
                "number": piece.begin // CHUNK_POINTS,
                "first_step": piece.stats.first.step,
                "last_step": piece.stats.last.step,
                "stats": _packed_stats(piece.stats),
                "steps": _packed_steps(piece.columns.steps),
                "times": _bytes(piece.columns.times),
                "vals": _bytes(piece.columns.values),
            }
            for piece in chunks(begin, columns)
            if piece.columns is not None
        ],
    )


# --- reading


def _series(
    session: Session, *, job_id: str, kind: Kind, names: Collection[str] | None, within: Range, most: int
) -> list[Series]:
    known = {row["name"]: row["id"] for row in session.all("series", job_id=job_id, kind=kind)}
    fresh = _fresh(session, job_id, kind)
    found = []
    for name in sorted(known.keys() | fresh.keys() if names is None else set(names) & (known.keys() | fresh.keys())):
        pieces = _pieces(session, known.get(name), fresh.get(name), within)
        if not pieces:
            continue
        stats = reduce(Stats.joined, (piece.stats for piece in pieces))
        points: Sequence[Point] = ()
        if most:
            begin = pieces[0].begin
            if bucket_width(begin, begin + stats.count, most) < CHUNK_POINTS:
                pieces = _with_columns(session, known.get(name), pieces)
            points = thinned(pieces, most)
        found.append(Series(name, stats, tuple(points)))
    return found


def _pieces(session: Session, series: int | None, fresh: Columns | None, within: Range) -> list[Piece]:
    """The points in the range, cut where it ends and where chunks do; whole chunks come without columns."""
    pieces: list[Piece] = []
    begin = 0
    rest = fresh or Columns.of(())
    if series is not None:
        # Of chunks that fresh points change all columns are needed, wherever the range is.
        begin, sealed = _joined_to_end(session, series, rest) if rest else _end_of(session, series)
        rest = sealed
        sealed_end = begin // CHUNK_POINTS
        for row in session.all("chunk_stats", series=series, start=within.start, end=within.end):
            if row["number"] < sealed_end:
                pieces.append(Piece(row["number"] * CHUNK_POINTS, _unpacked_stats(row["stats"])))
    if rest:
        pieces.append(Piece.of(begin, rest))
    if within.interval > 1:
        pieces = _with_columns(session, series, pieces)
    return _within(session, series, pieces, within)


def _end_of(session: Session, series: int) -> tuple[int, Columns]:
    """How many points the series has, and no more of them."""
    last = session.one("last_chunk", series=series)
    return ((last["number"] + 1) * CHUNK_POINTS if last else 0), Columns.of(())


def _within(session: Session, series: int | None, pieces: list[Piece], within: Range) -> list[Piece]:
    """The pieces without what is outside of the range."""
    found: list[Piece] = []
    passed = 0
    for piece in pieces:
        first, last = piece.stats.first.step, piece.stats.last.step
        if first > within.end or last < within.start:
            continue
        if first >= within.start and last <= within.end and within.interval == 1:
            found.append(piece)
            continue
        (whole,) = _with_columns(session, series, [piece])
        assert whole.columns is not None
        before = sum(step < within.start for step in whole.columns.steps)
        cut = Columns.of(
            point
            for point in whole.columns
            if within.start <= point.step <= within.end and point.step % within.interval == 0
        )
        if cut:
            # Thinned to an interval it is another series, whose points are counted anew.
            found.append(Piece.of(passed if within.interval > 1 else piece.begin + before, cut))
            passed += len(cut)
    return found


def _with_columns(session: Session, series: int | None, pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces, those of chunks with their columns."""
    bare = [piece.begin // CHUNK_POINTS for piece in pieces if piece.columns is None]
    if series is None or not bare:
        return list(pieces)
    rows = session.all("chunk_columns", series=series, low=min(bare), high=max(bare))
    columns = {row["number"] * CHUNK_POINTS: row for row in rows}
    return [
        piece if piece.columns is not None else Piece(piece.begin, piece.stats, _columns_of(columns[piece.begin]))
        for piece in pieces
    ]


def _samples(
    session: Session, *, job_id: str, kind: Kind, names: Collection[str] | None, within: Range
) -> list[Sample]:
    values: defaultdict[int, dict[str, float]] = defaultdict(dict)
    times: dict[int, float] = {}
    for series in _series(session, job_id=job_id, kind=kind, names=names, within=within, most=MAX_STEP):
        for step, ts, value in series.points:
            values[step][series.name] = value
            times[step] = max(ts, times.get(step, ts))
    return [Sample(step, times[step], values[step]) for step in sorted(values)]


def _edges(session: Session, *, job_id: str, kind: Kind, within: Range) -> list[int]:
    """Steps at which to cut an export, ascending and inside the range."""
    rows = session.all("chunk_edges", job_id=job_id, kind=kind, start=within.start, end=within.end)
    return [row["first_step"] for row in rows[EXPORT_CHUNKS::EXPORT_CHUNKS]]


def _names(session: Session, *, job_id: str, kind: Kind) -> list[str]:
    known = {row["name"] for row in session.all("series", job_id=job_id, kind=kind)}
    return sorted(known | _fresh(session, job_id, kind).keys())


def _unsealed(session: Session, *, job_id: str, kind: Kind) -> int:
    head = session.one("head", job_id=job_id, kind=kind)
    return 0 if head is None else int(head["unsealed"])


def _fresh(session: Session, job_id: str, kind: Kind) -> dict[str, Columns]:
    """What is not sealed yet, by series."""
    found: defaultdict[str, list[Point]] = defaultdict(list)
    rows = session.all("samples", job_id=job_id, kind=kind)
    # One text for all: the reader of JSON then makes each name once.
    measured: list[dict[str, float]] = json.loads(f"[{','.join(row['vals'] for row in rows)}]")
    for row, values in zip(rows, measured, strict=True):
        step, ts = row["step"], row["ts"]
        for name, value in values.items():
            found[name].append(Point(step, ts, value))
    return {name: Columns.of(points) for name, points in found.items()}


# --- packing


def _columns_from(session: Session, series: int, number: int) -> tuple[int, Columns]:
    """How many points come before a chunk, and all from it on."""
    columns = Columns.of(())
    for row in session.all("chunk_columns", series=series, low=number, high=MAX_STEP):
        columns = columns.updated(_columns_of(row))
    return number * CHUNK_POINTS, columns


def _columns_of(row: Row) -> Columns:
    times, values = _doubles(row["times"]), _doubles(row["vals"])
    if row["steps"] is not None:
        return Columns(_integers(row["steps"]), times, values)
    first, last, count = row["first_step"], row["last_step"], len(values)
    apart = (last - first) // (count - 1) if count > 1 else 1
    return Columns(range(first, last + 1, apart), times, values)


def _packed_steps(steps: "array[int] | range") -> bytes | None:
    """Nothing where first, last and count tell them all."""
    if isinstance(steps, range) or len(steps) < 2:
        return None
    even = range(steps[0], steps[-1] + 1, steps[1] - steps[0])
    return None if len(even) == len(steps) and array("q", even) == steps else _bytes(steps)


def _bytes(numbers: "array[int] | array[float]") -> bytes:
    if BIG_ENDIAN:
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def _integers(data: bytes) -> "array[int]":
    numbers = array("q", data)
    if BIG_ENDIAN:
        numbers.byteswap()
    return numbers


def _doubles(data: bytes) -> "array[float]":
    numbers = array("d", data)
    if BIG_ENDIAN:
        numbers.byteswap()
    return numbers


def _packed_stats(stats: Stats) -> bytes:
    return _STATS.pack(stats.count, *stats.first, *stats.last, *stats.low, *stats.high, stats.mean, stats.m2)


def _unpacked_stats(data: bytes) -> Stats:
    count, *rest = _STATS.unpack(data)
    first, last, low, high = (Point(*rest[at : at + 3]) for at in range(0, 12, 3))
    return Stats(count, first, last, low, high, rest[12], rest[13])
