from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gpus import Gpu, assign


def gpu(index: int, used_mb: int = 0) -> Gpu:
    return Gpu(f"GPU-{index}", index, "H200", memory_total_mb=1000, memory_used_mb=used_mb)


def test_the_emptiest_gpus_are_given_first() -> None:
    assert assign([gpu(0, used_mb=500), gpu(1), gpu(2, used_mb=100)], 2) == ("GPU-1", "GPU-2")


@given(st.lists(st.integers(0, 1000), max_size=8), st.integers(0, 10))
def test_as_many_as_asked_for_or_none(used: list[int], need: int) -> None:
    given_out = assign([gpu(index, mb) for index, mb in enumerate(used)], need)
    assert given_out is None if need > len(used) else len(set(given_out or ())) == need
