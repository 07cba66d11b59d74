"""Orders: every row once an epoch, any part computed alone, the same for ever."""

import numpy as np
import pytest

from worker_image.lm.shuffle import BLOCK, Order, Permutation


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 63, 64, 1000])
def test_a_permutation_gives_everything_once(size: int) -> None:
    found = Permutation(size, (7, 1))(np.arange(size))
    assert sorted(found.tolist()) == list(range(size))


def test_a_permutation_is_the_same_on_every_machine_and_in_every_version() -> None:
    assert Permutation(10, (0, 3))(np.arange(10)).tolist() == [6, 8, 2, 4, 5, 1, 0, 7, 9, 3]


def test_keys_choose_different_permutations() -> None:
    orders = {tuple(Permutation(50, (0, epoch))(np.arange(50)).tolist()) for epoch in range(20)}
    assert len(orders) == 20


@pytest.mark.parametrize("rows", [1, 100, 640, 1000, 1023])
@pytest.mark.parametrize("window", [64, 100, 256, 5000])
def test_an_epoch_visits_every_row_once(rows: int, window: int) -> None:
    assert sorted(Order(rows, window, seed=3).at(2, 0, rows).tolist()) == list(range(rows))


@pytest.mark.parametrize("window", [128, 5000])
def test_any_part_of_an_epoch_is_what_the_whole_has_there(window: int) -> None:
    order = Order(1000, window, seed=3)
    whole = order.at(1, 0, 1000)
    for start, n in ((0, 10), (120, 20), (990, 10), (100, 500)):
        assert np.array_equal(order.at(1, start, n), whole[start : start + n])


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [Order(1000, 128, seed).at(epoch, 0, 1000).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_a_window_reads_whole_blocks_from_all_over_the_rows() -> None:
    first = Order(100 * BLOCK, 10 * BLOCK, seed=0).at(0, 0, 10 * BLOCK)
    blocks, counts = np.unique(first // BLOCK, return_counts=True)
    assert len(blocks) == 10
    assert set(counts) == {BLOCK}
    assert blocks.max() - blocks.min() > 50


def test_within_a_window_rows_do_not_come_in_their_order() -> None:
    found = Order(4096, 4096, seed=0).at(0, 0, 4096)
    assert abs(np.corrcoef(found, np.arange(4096))[0, 1]) < 0.1
