from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.series import thinned

NOW = datetime.now(UTC)


@given(st.lists(st.floats(-1e6, 1e6), max_size=300), st.integers(2, 50))
def test_thinning_keeps_the_ends_the_order_and_the_bound(losses: list[float], most: int) -> None:
    points = [(step, NOW, {"loss": loss}) for step, loss in enumerate(losses)]
    kept = thinned(points, most)
    steps = [point[0] for point in kept]
    assert len(kept) <= max(most, 2)
    assert steps == sorted(set(steps))
    assert not points or (kept[0] == points[0] and kept[-1] == points[-1])


def test_a_spike_survives() -> None:
    points = [(step, NOW, {"loss": 99.0 if step == 777 else 1.0}) for step in range(1000)]
    assert 777 in [point[0] for point in thinned(points, 20)]
