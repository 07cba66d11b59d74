from orchestrator.rates import MOST_NAMES, Buckets


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    clock = Clock()
    buckets = Buckets(2, 3, clock)
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    clock.now = 0.5
    assert buckets.take("a") == 0
    assert buckets.take("a") == 0.5


def test_one_does_not_use_up_what_is_anothers() -> None:
    buckets = Buckets(1, 1, Clock())
    assert buckets.take("a") == 0
    assert buckets.take("b") == 0


def test_looking_takes_nothing() -> None:
    buckets = Buckets(1, 1, Clock())
    assert [buckets.wait_s("a"), buckets.wait_s("a"), buckets.take("a")] == [0, 0, 0]
    assert buckets.wait_s("a") == 1


def test_memory_is_bounded_whoever_knocks() -> None:
    clock = Clock()
    buckets = Buckets(1, 2, clock)
    for number in range(3 * MOST_NAMES):
        clock.now += 1e-6
        buckets.take(str(number))
    assert len(buckets._left) <= MOST_NAMES
