"""Several steps at once: each on its own threads, none lost."""

import threading
from collections.abc import Iterator

import pytest
import torch

from worker_image.jobs.train_sae.abreast import Abreast
from worker_image.sae.config import SaeConfig
from worker_image.sae.trainer import Trainer


@pytest.fixture
def four_threads() -> Iterator[None]:
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("four_threads")
def test_threads_are_divided_and_nobody_else_loses_any() -> None:
    abreast = Abreast(2)
    together = threading.Barrier(2)

    def look(_: int) -> int:
        together.wait()
        return torch.get_num_threads()

    assert abreast.map(look, range(4)) == [2, 2, 2, 2]
    abreast.close()
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert (torch.get_num_threads(), later) == (4, [4])


@pytest.mark.usefixtures("four_threads")
def test_one_that_fails_is_told_once_all_have_ended() -> None:
    abreast, ended = Abreast(2), []

    def step(number: int) -> None:
        if number == 0:
            raise ArithmeticError("lost")
        ended.append(number)

    with pytest.raises(ArithmeticError, match="lost"):
        abreast.map(step, range(6))
    abreast.close()
    assert sorted(ended) == [1, 2, 3, 4, 5]


def test_autoencoders_learn_abreast_what_they_would_in_turns(four_threads: None) -> None:
    torch.manual_seed(0)
    batches = torch.randn(5, 64, 8)

    def trained(at_once: int) -> list[dict[str, torch.Tensor]]:
        trainers = [Trainer(SaeConfig(d_in=8, d_sae=32, k=k, lr=1e-2)) for k in (1, 2, 3, 4)]
        abreast = Abreast(at_once)
        for x_BD in batches:
            abreast.map(lambda it, x_BD=x_BD: it.train_step(x_BD), trainers)
        abreast.close()
        return [trainer.state().weights for trainer in trainers]

    abreast = trained(4)
    torch.set_num_threads(1)
    for found, wanted in zip(abreast, trained(1), strict=True):
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_with_one_thread_they_take_turns() -> None:
    abreast = Abreast(8)
    assert abreast.at_once == 1
    assert abreast.map(lambda it: it * 2, range(3)) == [0, 2, 4]
