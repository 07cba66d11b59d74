"""Gathering what latents react to, on firings small enough to count by hand."""

import torch

from worker_image.sae.features import BINS, Best, Examples, Firings, Histograms, nearest

CPU = torch.device("cpu")


def firings(*places: tuple[int, int, float], n_slots: int = 3) -> Firings:
    """(row, slot, value), in the order of rows and slots."""
    rows, slots, values = zip(*places, strict=True)
    return Firings(torch.tensor(rows), torch.tensor(slots), torch.tensor(values), n_slots)


def test_activations_are_found_again_by_place() -> None:
    found = firings((0, 1, 0.5), (2, 0, 1.5), (2, 2, 2.5))
    rows, slots = torch.tensor([0, 0, 2, 2, -1, 9]), torch.tensor([1, 2, 0, 2, 0, 0])
    assert found.at(rows, slots).tolist() == [0.5, 0, 1.5, 2.5, 0, 0]


def test_an_example_is_the_strongest_token_of_a_sequence_and_the_earlier_of_equals() -> None:
    found = firings((0, 0, 1.0), (1, 0, 3.0), (1, 1, 0.5), (2, 0, 3.0), (3, 0, 2.0))
    examples = Examples.of(found, torch.tensor([4, 4, 4, 5]), torch.tensor([1, 2, 3, 1]))
    parts = (examples.slot_M, examples.sequence_M, examples.position_M, examples.value_M)
    told = sorted(zip(*(part.tolist() for part in parts), strict=True))
    assert told == [(0, 4, 2, 3.0), (0, 5, 1, 2.0), (1, 4, 2, 0.5)]


def test_the_best_are_kept_over_batches() -> None:
    best = Best(2, 2, CPU)
    for slots, values, sequences in (([0, 0, 0, 1], [1, 5, 3, 2], [0, 1, 2, 0]), ([0, 1], [4, 9], [3, 3])):
        zeros = torch.zeros(len(slots), dtype=torch.int64)
        examples = Examples(torch.tensor(slots), torch.tensor(values).float(), torch.tensor(sequences), zeros)
        best.add(examples, examples.value_M.double())
    assert best.value_AK.tolist() == [[5, 4], [9, 2]]
    assert best.sequence_AK.tolist() == [[1, 3], [3, 0]]


def test_of_equals_the_earlier_sequence_goes_first_whenever_it_comes() -> None:
    best = Best(1, 2, CPU)
    for sequence in (7, 3, 5):
        one = torch.zeros(1, dtype=torch.int64)
        best.add(Examples(one, torch.ones(1), one + sequence, one), torch.ones(1).double())
    assert best.sequence_AK.tolist() == [[3, 5]]


def test_a_histogram_joins_bins_when_something_lies_beyond_them() -> None:
    histograms = Histograms(2, CPU)
    histograms.add(firings((0, 0, 0.6), (1, 0, 1.0), n_slots=2))
    assert histograms.width_A.tolist() == [1 / BINS, 0]
    histograms.add(firings((0, 0, 3.0), (0, 1, 0.1), n_slots=2))
    assert histograms.width_A[0] == 4 / BINS
    counts = {index: count for index, count in enumerate(histograms.counts_AH[0].tolist()) if count}
    # 0.6 in [0.5625, 0.625), the largest of the first batch at its upper end, 3 in [3, 3.0625).
    assert counts == {9: 1, 15: 1, 48: 1}


def test_the_nearest_are_others() -> None:
    rows = torch.tensor([[1.0, 0], [2, 0.1], [0, 1], [-1, 0]])
    latents, cosines = nearest(rows, torch.tensor([0, 2]), 1)
    assert latents.tolist() == [[1], [1]]
    assert cosines[0, 0] > 0.99
