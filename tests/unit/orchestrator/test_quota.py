import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from orchestrator.job_log import Part, read_part, read_parts, read_tail
from orchestrator.quota import Excess, LogQuota, can_punch, punch_hole, read_dropped
from worker_image.contract.rundir import RunDir

QUOTA = 64 * 1024


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    found = RunDir(tmp_path / "job" / "1")
    found.path.mkdir(parents=True)
    found.log.touch()
    return found


def append(run_dir: RunDir, data: bytes) -> None:
    with run_dir.log.open("ab") as log:
        log.write(data)


def lines(count: int, first: int = 0) -> bytes:
    return b"".join(b"line %09d\n" % number for number in range(first, first + count))


class Crash(Exception):
    """The orchestrator dies here."""


class Logging(RuleBasedStateMachine):
    """A run writes its log, an orchestrator that may die at the worst moment bounds it, readers compare."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.run_dir = RunDir(Path(self.folder.name) / "1")
        self.run_dir.path.mkdir()
        self.run_dir.log.touch()
        self.written = b""
        self.quota = LogQuota(self.run_dir, QUOTA)
        self.bounded = True

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(
        data=st.one_of(
            st.binary(max_size=50),
            st.integers(1, 6000).map(lines),
            st.integers(1, QUOTA).map(lambda size: b"\xe2\x82\xac" * (size // 3)),
            st.integers(1, QUOTA).map(lambda size: b"\0" * size),
        )
    )
    def write(self, data: bytes) -> None:
        append(self.run_dir, data)
        self.written += data
        self.bounded = len(self.written) <= QUOTA

    @rule()
    def look(self) -> None:
        self.quota.enforce()
        self.bounded = True

    @rule(before_the_hole=st.booleans())
    def die_while_dropping(self, before_the_hole: bool) -> None:
        def punch(descriptor: int, offset: int, length: int) -> None:
            if os.readlink(f"/proc/self/fd/{descriptor}") != str(self.run_dir.log):
                return  # the question whether holes can be punched here
            if not before_the_hole:
                punch_hole(descriptor, offset, length)
            raise Crash

        try:
            LogQuota(self.run_dir, QUOTA, punch).enforce()
        except Crash:
            self.bounded = False
        self.quota = LogQuota(self.run_dir, QUOTA)

    @invariant()
    def what_is_read_is_what_was_written_and_what_is_not_is_said_to_be_gone(self) -> None:
        offset, gaps = 0, 0
        for part in read_parts(self.run_dir, 0, 1 << 30):
            assert part.offset == offset
            if part.gap:
                gaps += 1
                assert part.gap.size_bytes == part.next_offset - part.offset > 0
            else:
                assert part.data == self.written[offset : part.next_offset]
            offset = part.next_offset
        assert offset == len(self.written)
        assert gaps <= 1

    @invariant()
    def it_takes_no_more_than_its_quota(self) -> None:
        kept = sum(len(part.data) for part in read_parts(self.run_dir, 0, 1 << 30))
        if self.bounded:
            assert kept <= QUOTA
            on_disk = self.run_dir.log.stat().st_blocks * 512
            assert on_disk <= QUOTA + 8 * 4096

    @rule(start=st.floats(0, 1), limit=st.integers(1, 3 * QUOTA))
    def read_from_anywhere(self, start: float, limit: int) -> None:
        offset = int(start * len(self.written))
        part = read_part(self.run_dir, offset, limit)
        assert part.offset == offset
        if part.gap is None:
            assert part.data == self.written[offset : part.next_offset]
            assert part.data or offset == len(self.written)

    @rule(wanted=st.integers(1, 50))
    def read_the_last_lines(self, wanted: int) -> None:
        parts = read_tail(self.run_dir, wanted, 1 << 20)
        assert parts[-1].next_offset == len(self.written)
        kept = b"".join(part.data for part in parts)
        assert self.written.endswith(kept)
        if parts[0].gap is None:
            assert kept == b"".join(self.written.splitlines(keepends=True)[-wanted:]) or b"\r" in self.written


TestLogging = Logging.TestCase
TestLogging.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def exceed(run_dir: RunDir) -> Excess | None:
    append(run_dir, lines(20_000))
    return LogQuota(run_dir, QUOTA).enforce()


def test_the_cut_is_made_between_lines_and_the_start_and_the_newest_stay(run_dir: RunDir) -> None:
    excess = exceed(run_dir)
    assert excess is not None
    assert excess.dropped is not None
    first, gap, last = read_parts(run_dir, 0, 1 << 20)
    assert first.data.startswith(b"line 000000000\n")
    assert first.data.endswith(b"\n")
    assert last.data.startswith(b"line ")
    assert last.data.endswith(b"line 000019999\n")
    assert gap.gap is not None
    assert gap.gap.marker == (
        f"[saeforge: {gap.gap.size_bytes} bytes dropped here: the log exceeded its quota of 0.0625 MB]\n"
    )


def test_an_excess_is_told_once(run_dir: RunDir) -> None:
    append(run_dir, lines(20_000))
    quota = LogQuota(run_dir, QUOTA)
    assert quota.enforce() is not None
    append(run_dir, lines(20_000))
    assert quota.enforce() is None
    assert LogQuota(run_dir, QUOTA).enforce() is None


def test_the_dropped_range_only_grows(run_dir: RunDir) -> None:
    exceed(run_dir)
    before = read_dropped(run_dir)
    exceed(run_dir)
    after = read_dropped(run_dir)
    assert before is not None
    assert after is not None
    assert after.offset == before.offset
    assert after.next_offset > before.next_offset


def test_a_log_within_its_quota_is_left_alone(run_dir: RunDir) -> None:
    append(run_dir, b"x" * QUOTA)
    assert LogQuota(run_dir, QUOTA).enforce() is None
    assert read_dropped(run_dir) is None


def test_no_quota_is_no_limit(run_dir: RunDir) -> None:
    append(run_dir, lines(20_000))
    quota = LogQuota(run_dir, 0)
    assert not quota.due()
    assert quota.enforce() is None


def no_holes(descriptor: int, offset: int, length: int) -> None:
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")


def test_where_no_hole_can_be_punched_nothing_is_touched_and_it_is_told_once(run_dir: RunDir) -> None:
    append(run_dir, lines(20_000))
    quota = LogQuota(run_dir, QUOTA, no_holes)
    excess = quota.enforce()
    assert excess is not None
    assert excess.dropped is None
    assert read_dropped(run_dir) is None
    assert read_parts(run_dir, 0, 1 << 20)[0].data == lines(20_000)
    assert quota.enforce() is None
    assert not quota.due()


def test_whether_holes_can_be_punched_is_found_out(tmp_path: Path) -> None:
    assert not can_punch(tmp_path, no_holes)
    assert can_punch(tmp_path, lambda *_: None)
    assert not list(tmp_path.iterdir())


def test_a_sparse_log_of_a_terabyte_is_read_in_a_moment(run_dir: RunDir) -> None:
    append(run_dir, lines(1000))
    os.truncate(run_dir.log, 1 << 40)
    append(run_dir, b"end\n")
    LogQuota(run_dir, QUOTA).enforce()
    parts = read_parts(run_dir, 0, 1 << 20)
    assert sum(len(part.data) for part in parts) <= QUOTA
    assert parts[-1].data.endswith(b"end\n")


def test_what_a_run_writes_into_the_hole_is_freed_with_the_next_drop(run_dir: RunDir) -> None:
    exceed(run_dir)
    dropped = read_dropped(run_dir)
    assert dropped is not None
    with run_dir.log.open("r+b") as log:
        log.seek(dropped.offset)
        log.write(b"x" * dropped.size_bytes)
    exceed(run_dir)
    assert run_dir.log.stat().st_blocks * 512 <= QUOTA + 8 * 4096


@pytest.mark.parametrize("size", [0, 100, QUOTA])
def test_a_log_that_its_run_cut_is_read_as_far_as_it_goes(run_dir: RunDir, size: int) -> None:
    exceed(run_dir)
    os.truncate(run_dir.log, size)
    assert read_parts(run_dir, 0, 1 << 20)[-1].next_offset == size
    LogQuota(run_dir, QUOTA).enforce()
    append(run_dir, b"afresh\n")
    parts = read_parts(run_dir, 0, 1 << 20)
    assert parts[-1].data.endswith(b"afresh\n")
    assert parts[-1].next_offset == size + 7


def replaced(target: Path, run_dir: RunDir) -> None:
    run_dir.log.unlink()
    run_dir.log.symlink_to(target)


def piped(target: Path, run_dir: RunDir) -> None:
    run_dir.log.unlink()
    os.mkfifo(run_dir.log)


def shared(target: Path, run_dir: RunDir) -> None:
    run_dir.log.unlink()
    run_dir.log.hardlink_to(target)


@pytest.mark.parametrize("put", [replaced, piped, shared])
def test_what_a_run_put_in_place_of_its_log_is_never_cut(
    run_dir: RunDir, tmp_path: Path, put: Callable[[Path, RunDir], None]
) -> None:
    other = tmp_path / "precious"
    other.write_bytes(lines(20_000))
    put(other, run_dir)
    assert LogQuota(run_dir, QUOTA).enforce() is None
    assert other.read_bytes() == lines(20_000)
    assert read_dropped(run_dir) is None


def test_a_run_cannot_reach_the_record_of_what_was_dropped(run_dir: RunDir) -> None:
    assert run_dir.path not in run_dir.dropped.parents


def test_a_limit_that_ends_in_the_gap_ends_before_it(run_dir: RunDir) -> None:
    exceed(run_dir)
    (first,) = read_parts(run_dir, 0, 10)
    assert first == Part(b"line 00000", 0, 300_000)
