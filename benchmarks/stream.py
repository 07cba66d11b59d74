"""What one stream of activations saves: harvesting beside training, and several autoencoders on the same activations.

    python -m benchmarks.stream [--home .saeforge] [--rounds 3]

Wants the demo's model and dataset (``make demo`` once). Nothing is cached on disk: every token goes through the
language model as training goes on. What is timed begins with the first full buffer and ends with the last step, so all
but one of the buffers are harvested in it.

With one thread for each, harvesting beside training should take at most a tenth longer than the slower of the two
alone; with all threads, eight autoencoders in one run less than half the time of eight runs.

Shapes: B tokens of a batch, D = d_in, F = d_sae, N = number of autoencoders.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional

from benchmarks.step_data import HEADINGS, Timing, in_turns
from benchmarks.table import show
from worker_image.contract.budget import steps_at_once
from worker_image.contract.jobs import TrainSaeParams
from worker_image.jobs.train_sae.abreast import Abreast
from worker_image.jobs.train_sae.inputs import check_inputs, load
from worker_image.jobs.train_sae.learner import Learner
from worker_image.lm.batches import Batches
from worker_image.reporter import NullRun

_BATCH = 4096
_BATCHES_A_BUFFER = 4
_BUFFERS = 5
_SEVERAL = 8
_RATES = [1e-4 * 2**power for power in range(_SEVERAL)]


def params(home: Path, **options: object) -> TrainSaeParams:
    """A training that goes through its text as many buffers long as is timed."""
    values = {
        "model": str(home / "models" / "all-MiniLM-L6-v2"),
        "dataset": str(home / "datasets" / "python-docs.jsonl"),
        "cache": "off",
        "batch_size": _BATCH,
        "buffer_tokens": _BATCH * _BATCHES_A_BUFFER,
        "held_out_tokens": _BATCH,
        "steps": _BATCHES_A_BUFFER * _BUFFERS,
        "expansion_factor": 16,
        "k": 32,
        "device": "cpu",
    }
    return TrainSaeParams.model_validate(values | options)


def run(params: TrainSaeParams, *, harvest: bool = True, train: bool = True) -> tuple[float, float]:
    """(wall, processor) milliseconds of a training, or of one half of it."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = check_inputs(params, NullRun(Path(folder)))
        batches, learners = inputs.batches, load(params, inputs).learners
        _fill(batches)
        sample_ND = batches.sample(_BATCH).float()
        for learner in learners:
            learner.centre(sample_ND)
        kept_BD = batches.next_batch().float()
        abreast = Abreast(steps_at_once(params, on_gpu=False))
        wall_begin, processor_begin = time.perf_counter(), time.process_time()
        for step in range(params.steps):
            if step and harvest:
                if not batches.ready:
                    _fill(batches)
                kept_BD = batches.next_batch().float()
            if train:
                abreast.map(partial(Learner.train_step, batch_BW=kept_BD, measure=False), learners)
        took = time.perf_counter() - wall_begin, time.process_time() - processor_begin
        abreast.close()
        batches.close()
        return took[0] * 1e3, took[1] * 1e3


def _fill(batches: Batches) -> None:
    for _ in batches.prepare():
        pass


def timed(runs: Mapping[str, Callable[[], tuple[float, float]]], threads: int, rounds: int) -> dict[str, Timing]:
    """Make each run once a round."""
    torch.set_num_threads(threads)
    timings = {name: Timing([], []) for name in runs}
    for _ in range(rounds):
        for name, made in runs.items():
            wall, processor = made()
            timings[name].wall.append(wall)
            timings[name].processor.append(processor)
    return timings


def products(d_in: int, d_sae: int, threads: int, rounds: int) -> dict[str, Timing]:
    """The encoders' products, one after the other and as one."""
    torch.set_num_threads(threads)
    x_BD = torch.randn(_BATCH, d_in)
    W_NFD = torch.randn(_SEVERAL, d_sae, d_in)
    return in_turns(
        {
            "one after the other": lambda: [functional.linear(x_BD, W_FD) for W_FD in W_NFD],
            "as one": lambda: functional.linear(x_BD, W_NFD.view(-1, d_in)),
        },
        rounds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, default=Path(".saeforge"))
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    threads, asked = torch.get_num_threads(), partial(params, given.home)

    halves = timed(
        {
            "harvesting alone": partial(run, asked(), train=False),
            "training alone": partial(run, asked(), harvest=False),
            "one after the other": partial(run, asked(prefetch="off")),
            "beside each other": partial(run, asked(prefetch="on")),
        },
        1,
        given.rounds,
    )
    slower = max(halves["harvesting alone"], halves["training alone"], key=lambda timing: timing.median)
    tokens = _BATCH * _BATCHES_A_BUFFER * _BUFFERS
    rows = [[name, *timing.row(slower)] for name, timing in halves.items()]
    show(f"{tokens} tokens, one thread for each half", ["", *HEADINGS], rows)

    for factor in (8, 16):
        sized = partial(asked, expansion_factor=factor)
        several = timed(
            {"one": partial(run, sized()), f"{_SEVERAL} on one stream": partial(run, sized(grid={"lr": _RATES}))},
            threads,
            given.rounds,
        )
        rows = [[name, *timing.row(several["one"])] for name, timing in several.items()]
        show(f"SAEs of {384 * factor} latents on {tokens} tokens, {threads} threads", ["", *HEADINGS], rows)

    for d_sae in (384, 6144):
        batched = products(384, d_sae, threads, given.rounds)
        rows = [[name, *timing.row(batched["one after the other"])] for name, timing in batched.items()]
        show(f"{_SEVERAL} encoders' products, B={_BATCH}, D=384, F={d_sae}", ["", *HEADINGS], rows)


if __name__ == "__main__":
    main()
