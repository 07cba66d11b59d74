"""How long a training step of each family takes, and what dead latents add, beside the encoder's product alone.

    python -m benchmarks.families [--rounds 6] [--threads 2] [--tokens 4096 --d-in 384 --d-sae 6144 --k 32]

Families that a penalty keeps sparse start dense; here their thresholds are set so that about ``k`` latents per token
are active, as they are for most of a training.

Shapes: B tokens, D = d_in, F = d_sae.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.step_data import HEADINGS, Shape, activations, in_turns
from benchmarks.table import show
from worker_image.sae.config import SaeConfig
from worker_image.sae.trainer import Trainer

_FAMILIES: dict[str, dict[str, Any]] = {
    "topk": {"family": "topk"},
    "topk, Multi-TopK": {"family": "topk", "multi_topk": True},
    "batch_topk": {"family": "batch_topk"},
    "matryoshka": {"family": "matryoshka"},
    "jumprelu": {"family": "jumprelu"},
    "gated": {"family": "gated"},
    "standard": {"family": "standard"},
}
_DEAD_SHARE = 0.1


def sparse_trainer(shape: Shape, sample_BD: Tensor, **options: Any) -> Trainer:
    """A trainer of which about k latents per token are active."""
    # No learning, so that L0 stays where it is set.
    trainer = Trainer(SaeConfig(d_in=shape.d_in, d_sae=shape.d_sae, k=shape.k, lr=1e-12, **options))
    sae: Any = trainer.sae  # of one family or another
    with torch.no_grad():
        sae.b_dec_E.copy_(sample_BD.mean(0))
        pre_BF = functional.linear(sample_BD[:256] - sae.b_dec_E, sae.encoder_FD)
        limit = pre_BF.topk(shape.k + 1, dim=1).values[:, -1].mean()
        if sae.config.family == "jumprelu":
            sae.log_threshold_F.fill_(float(limit.log()))
        elif sae.config.family in ("gated", "standard"):
            sae.b_enc_F.fill_(-float(limit))
    return trainer


def with_dead(trainer: Trainer) -> Trainer:
    """Take a tenth of the latents for dead ones."""
    n_dead = int(_DEAD_SHARE * trainer.config.d_sae)
    with torch.no_grad():
        trainer.sae.b_enc_F[:n_dead] = -1e3
    trainer.tokens_since_fired_F[:n_dead] = trainer.config.dead_after_tokens
    return trainer


def encoder_alone(shape: Shape) -> Callable[[Tensor], object]:
    """The encoder's product by row chunks, of which nothing is kept."""
    W_FD = torch.randn(shape.d_sae, shape.d_in)

    def step(x_BD: Tensor) -> None:
        for chunk_RD in x_BD.split(1024):
            functional.linear(chunk_RD, W_FD)

    return step


def _next(step: Callable[[Tensor], object], turn: Iterator[Tensor]) -> None:
    step(next(turn))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for name in ("tokens", "d_in", "d_sae", "k"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Shape(), name))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    shape = Shape(given.tokens, given.d_in, given.d_sae, given.k)

    batches = list(itertools.islice(activations(shape), 4))
    trainers = {name: sparse_trainer(shape, batches[0], **options) for name, options in _FAMILIES.items()}
    trainers["topk, a tenth dead, AuxK"] = with_dead(sparse_trainer(shape, batches[0], family="topk"))
    l0 = {name: float(trainer.sae(batches[1]).code.l0) for name, trainer in trainers.items()}
    turn = itertools.cycle(batches)
    steps: dict[str, Callable[[Tensor], object]] = {"the encoder's product alone": encoder_alone(shape)}
    steps |= {name: trainer.train_step for name, trainer in trainers.items()}
    timings = in_turns({name: partial(_next, step, turn) for name, step in steps.items()}, given.rounds)
    floor = timings["the encoder's product alone"]
    rows = [[name, l0.get(name, ""), *timing.row(floor)] for name, timing in timings.items()]
    show(f"One step of each family, {shape}, {given.threads} threads", ["", "L0", *HEADINGS], rows)


if __name__ == "__main__":
    main()
