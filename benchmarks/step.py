"""How long one TopK training step takes: ours, the floor under it, and the libraries it is compared with.

    python -m benchmarks.step [--rounds 8] [--threads 2] [--tokens 4096 --d-in 384 --d-sae 6144 --k 32]

The floor is what no exact step was thought to go without: the encoder's product with torch's top-k by row chunks, and
one pass of fused Adam. First our gradients are compared with those of plain autograd in float64; then all steps run in
turns on the same batches, each in a process of its own. Run by ``.peers/bin/python`` (see ``scripts/peers``) the
libraries take part.

Shapes: B tokens, D = d_in, F = d_sae, R rows of a chunk.
"""

import argparse
import importlib.util
import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.step_data import HEADINGS, Shape, Step, activations, in_processes
from benchmarks.table import show
from worker_image.sae.config import SaeConfig
from worker_image.sae.metrics import fvu
from worker_image.sae.trainer import Trainer

_LEARNING_RATE = 1e-4
_FLOOR_ROWS = 1024
_CHECKED_TOKENS = 512
_QUALITY_SHAPE = Shape(tokens=1024, d_in=384, d_sae=6144, k=32)
OURS = "ours, fp32"
_BFLOAT16: dict[str, Any] = {"encoder_dtype": "bfloat16"}


def config_of(shape: Shape, **options: Any) -> SaeConfig:
    """A TopK training of that shape."""
    return SaeConfig(d_in=shape.d_in, d_sae=shape.d_sae, k=shape.k, lr=_LEARNING_RATE, **options)


def trainer_of(config: SaeConfig, sample_BD: Tensor) -> Trainer:
    """A trainer whose bias starts where the others' does."""
    trainer = Trainer(config)
    with torch.no_grad():
        trainer.sae.b_dec_E.copy_(sample_BD.mean(0))
    return trainer


def our_step(shape: Shape, sample_BD: Tensor, **options: Any) -> Step:
    """What a job does with a batch."""
    return trainer_of(config_of(shape, **options), sample_BD).train_step


def floor_step(shape: Shape, dtype: torch.dtype, _: Tensor) -> Step:
    """The encoder's product with torch's top-k by row chunks, and fused Adam over all weights."""
    weights = [torch.randn(shape.d_sae, shape.d_in).requires_grad_() for _ in range(2)]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    adam = torch.optim.Adam(weights, lr=0.0, fused=True)
    W_enc_FD, b_enc_F = weights[0].detach().to(dtype), torch.zeros(shape.d_sae, dtype=dtype)

    def step(x_BD: Tensor) -> None:
        for chunk_RD in x_BD.to(dtype).split(_FLOOR_ROWS):
            functional.linear(chunk_RD, W_enc_FD, b_enc_F).topk(shape.k, dim=1, sorted=False)
        adam.step()

    return step


def gradient_error(shape: Shape) -> float:
    """The largest difference of a gradient from plain autograd's in float64, relative to that gradient's largest."""
    x_BD = next(activations(replace(shape, tokens=_CHECKED_TOKENS)))
    trainer = trainer_of(config_of(shape), x_BD)
    trainer.differentiate(x_BD)
    sae = trainer.sae
    leaves = {name: value.detach().double().requires_grad_() for name, value in sae.named_parameters()}
    pre_BF = functional.linear(x_BD - leaves["b_dec_E"], leaves["W_enc_FD"], leaves["b_enc_F"])
    top_BK, idx_BK = pre_BF.topk(shape.k, dim=1)
    acts_BF = torch.zeros_like(pre_BF).scatter(1, idx_BK, top_BK.relu())
    fvu(x_BD.double(), acts_BF @ leaves["W_dec_FE"] + leaves["b_dec_E"]).backward()
    found = {name: value.grad for name, value in sae.named_parameters()}
    errors = []
    for name, leaf in leaves.items():
        ours, true = found[name], leaf.grad
        assert ours is not None, f"{name} has no gradient of ours"
        assert true is not None, f"{name} has no gradient"
        errors.append(float((ours - true).abs().max() / true.abs().max()))
    return max(errors)


def trained_fvu(steps: int, **options: Any) -> float:
    """FVU on 16,384 unseen tokens after that many steps."""
    shape = _QUALITY_SHAPE
    batches, unseen = activations(shape), activations(shape, seed=1)
    trainer = trainer_of(replace(config_of(shape, steps=steps, **options), lr=1e-3), next(batches))
    for x_BD in itertools.islice(batches, steps):
        trainer.train_step(x_BD)
    x_ND = torch.cat(list(itertools.islice(unseen, 16)))
    with torch.no_grad():
        return float(fvu(x_ND, trainer.sae(x_ND).y_hat_BE))


def peers_are_here() -> bool:
    """Whether this Python has the libraries."""
    return all(importlib.util.find_spec(name) for name in ("sparsify", "dictionary_learning", "sae_lens"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quality-steps", type=int, default=300)
    for name in ("tokens", "d_in", "d_sae", "k"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Shape(), name))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    shape = Shape(given.tokens, given.d_in, given.d_sae, given.k)

    error = gradient_error(shape)
    print(f"largest relative error of a gradient against float64: {error:.1e}")
    if error > 1e-4:
        raise SystemExit("the gradients are wrong; nothing was timed")

    makers: dict[str, Callable[[Tensor], Step]] = {
        OURS: partial(our_step, shape),
        "ours, bf16 encoder": partial(our_step, shape, **_BFLOAT16),
        "floor, fp32": partial(floor_step, shape, torch.float32),
        "floor, bf16": partial(floor_step, shape, torch.bfloat16),
    }
    if peers_are_here():
        os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # its kernels need a GPU, even where it has tensors on the CPU
        from benchmarks.peer_steps import dictionary_learning_step, sae_lens_step, sparsify_step

        makers |= {
            "sparsify 1.3.3": partial(sparsify_step, shape),
            "dictionary_learning 0.1.0": partial(dictionary_learning_step, shape),
            "SAELens 6.54.12": partial(sae_lens_step, shape),
        }
    timings = in_processes(makers, shape, given.threads, given.rounds)
    rows = [[name, *timing.row(timings[OURS])] for name, timing in timings.items()]
    show(f"One TopK step, {shape}, {given.threads} threads", ["", *HEADINGS], rows)

    if given.quality_steps:
        full, quick = trained_fvu(given.quality_steps), trained_fvu(given.quality_steps, **_BFLOAT16)
        title = f"Quality after {given.quality_steps} steps, {_QUALITY_SHAPE}"
        show(title, ["", "FVU"], [["fp32", f"{full:.4f}"], ["bf16 encoder", f"{quick:.4f}"]])


if __name__ == "__main__":
    main()
