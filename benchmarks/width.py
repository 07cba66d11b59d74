"""How the time of a training step grows with the number of latents: in proportion, is the goal.

    python -m benchmarks.width [--rounds 4] [--threads 2] [--tokens 512 --d-in 128 --k 32]

Shapes: B tokens, D = d_in, F = d_sae.
"""

import argparse
import itertools
from functools import partial
from statistics import median

import torch

from benchmarks.families import encoder_alone, sparse_trainer
from benchmarks.step_data import Shape, activations, in_turns
from benchmarks.table import show

_WIDTHS = [2**power for power in range(12, 18)]
_FAMILIES = ["topk", "batch_topk", "jumprelu"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for name, default in (("tokens", 512), ("d_in", 128), ("k", 32)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)

    rows = []
    for d_sae in _WIDTHS:
        shape = Shape(given.tokens, given.d_in, d_sae, given.k)
        batches = list(itertools.islice(activations(shape), 2))
        steps = {"encoder": encoder_alone(shape)}
        steps |= {name: sparse_trainer(shape, batches[0], family=name).train_step for name in _FAMILIES}
        timings = in_turns({name: partial(step, batches[1]) for name, step in steps.items()}, given.rounds)
        processor = {name: median(timing.processor) for name, timing in timings.items()}
        per_latent = [1e3 * processor[name] / d_sae for name in _FAMILIES]
        rows.append([d_sae, *processor.values(), *per_latent])
    title = f"One step by the number of latents, B={given.tokens}, D={given.d_in}, K={given.k}, {given.threads} threads"
    headings = ["F", "encoder alone ms", *(f"{name} ms" for name in _FAMILIES)]
    show(f"{title}; processor time", [*headings, *(f"{name} µs per latent" for name in _FAMILIES)], rows)


if __name__ == "__main__":
    main()
