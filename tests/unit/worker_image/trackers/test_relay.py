"""A tracker may do what it likes: the run goes on."""

import threading
from collections.abc import Callable

import pytest

from worker_image.reporter import Outcome
from worker_image.trackers.relay import Relay
from worker_image.trackers.tracker import Config

LONG_S = 30.0


class Kept:
    """Keeps what it is told; ``before`` may spoil it."""

    def __init__(self, before: Callable[[int], None] = lambda step: None) -> None:
        self.run_id = "run-1"
        self.steps: list[int] = []
        self.ended: Outcome | None = None
        self._before = before

    def log(self, step: int, values: dict[str, float]) -> None:
        self._before(step)
        self.steps.append(step)

    def summary(self, config: Config) -> None:
        pass

    def finish(self, outcome: Outcome, results: dict[str, float]) -> None:
        self.ended = outcome


def fails_on(*steps: int) -> Callable[[int], None]:
    def before(step: int) -> None:
        if step in steps:
            raise ConnectionError("no route\nto host")

    return before


def test_reports_arrive_in_order_and_before_the_end() -> None:
    tracker = Kept()
    relay = Relay("kept", lambda: tracker)
    for step in range(100):
        relay.log(step, {})
    relay.finish("completed", {}, LONG_S)
    assert tracker.steps == list(range(100))
    assert tracker.ended == "completed"
    assert relay.problems() == []


def test_the_end_arrives_however_many_reports_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker_image.trackers.relay._ROOM", 2)
    full = threading.Event()
    tracker = Kept(lambda step: full.wait(LONG_S) and None)
    relay = Relay("kept", lambda: tracker)
    for step in range(100):
        relay.log(step, {})
    threading.Timer(0.3, full.set).start()
    relay.finish("completed", {}, LONG_S)
    assert tracker.ended == "completed"
    assert 1 <= len(tracker.steps) < 100


def test_a_report_that_fails_is_told_once_and_the_next_ones_go_on() -> None:
    tracker = Kept(fails_on(1, 2))
    relay = Relay("kept", lambda: tracker)
    for step in range(4):
        relay.log(step, {})
    relay.finish("completed", {}, LONG_S)
    assert tracker.steps == [0, 3]
    assert relay.problems() == ["ConnectionError: no route"]


def test_a_tracker_that_keeps_failing_is_told_nothing_more() -> None:
    tracker = Kept(fails_on(*range(1000)))
    relay = Relay("kept", lambda: tracker)
    for step in range(20):
        relay.log(step, {})
    relay.finish("completed", {}, LONG_S)
    assert tracker.ended is None
    assert relay.problems() == ["ConnectionError: no route", "it failed 5 times in a row; nothing more goes there"]


@pytest.mark.parametrize("error", [ValueError("bad key"), SystemExit("bad key")])
def test_a_tracker_that_cannot_begin_harms_nothing(error: BaseException) -> None:
    def begin() -> Kept:
        raise error

    relay = Relay("kept", begin)
    assert relay.run_id(LONG_S) is None
    relay.log(1, {})
    relay.finish("completed", {}, LONG_S)
    assert relay.problems() == [f"it could not be begun ({type(error).__name__}: bad key); nothing goes there"]


def test_a_tracker_that_hangs_holds_nothing_up() -> None:
    let_go = threading.Event()
    tracker = Kept(lambda step: let_go.wait(LONG_S) and None)
    relay = Relay("kept", lambda: tracker)
    for step in range(20_000):
        relay.log(step, {})
    relay.finish("completed", {}, wait_s=0.05)
    first, second = relay.problems()
    let_go.set()
    assert first == "not everything had arrived after 0.05 s"
    assert second.endswith("reports were left out")


def test_the_name_of_its_run_is_known_once_it_is_open() -> None:
    may_open = threading.Event()

    def begin() -> Kept:
        may_open.wait(LONG_S)
        return Kept()

    relay = Relay("kept", begin)
    assert relay.run_id() is None
    may_open.set()
    assert relay.run_id(LONG_S) == "run-1"
    relay.finish("completed", {}, LONG_S)
