"""A training that is killed and goes on from its newest checkpoint ends as one that nothing happened to."""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import get_args
from uuid import UUID, uuid4

import pytest
import torch
from safetensors.torch import load_file

from worker_image.contract.architecture import Family
from worker_image.contract.commands import AppliedChange, ParameterValue, SetParameters
from worker_image.contract.events import CheckpointSaved, CommandApplied, Event, Metrics, event
from worker_image.contract.jobs import TrainSaeParams
from worker_image.contract.rundir import RunDir, RunSpec
from worker_image.jobs.train_sae import main
from worker_image.lm.cache import ActivationCache
from worker_image.reporter import Run
from worker_image.sae.checkpoint import checkpoints_in, verify_checkpoint

STEPS = 30
FAMILIES = get_args(Family)
NOISE = ("_per_s", "stall_share")
"""What a clock has a part in."""


class Attempt(Run):
    """Calls ``look`` with each measurement."""

    def __init__(self, run_dir: RunDir, spec: RunSpec, look: Callable[[int], None]) -> None:
        super().__init__(run_dir, spec)
        self._look = look

    def metrics(self, step: int, values: dict[str, float]) -> None:
        super().metrics(step, values)
        self._look(step)

    def log(self, text: str, level: str = "info") -> None:
        """What happened is in the events."""


def in_own_process(work: Callable[[], None]) -> int:
    """The id of the process that does it."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def ended(process: int) -> int:
    """Its exit code, or minus the signal that ended it, once it has."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Bench:
    """Attempts of one job, each in a process and a run directory of its own."""

    def __init__(self, home: Path, params: TrainSaeParams, cache: Path | None = None) -> None:
        self._home, self._params, self._job_id = home, params, UUID(int=1)
        self.cache = cache
        self._attempts = count(1)

    def attempt(
        self,
        look: Callable[[int], None] = lambda step: None,
        resume_from: Path | None = None,
        changes: tuple[AppliedChange, ...] = (),
        audit: Callable[[str, tuple[object, ...]], None] | None = None,
    ) -> tuple[RunDir, int]:
        """Run it; where it left what, and how it ended."""
        run_dir, process = self.begin(look, resume_from, changes, audit)
        return run_dir, ended(process)

    def begin(
        self,
        look: Callable[[int], None] = lambda step: None,
        resume_from: Path | None = None,
        changes: tuple[AppliedChange, ...] = (),
        audit: Callable[[str, tuple[object, ...]], None] | None = None,
    ) -> tuple[RunDir, int]:
        """Have it run; where it leaves what, and its process."""
        number = next(self._attempts)
        run_dir = RunDir.of(self._home, self._job_id, number)
        spec = RunSpec(
            job_id=self._job_id,
            attempt=number,
            name="killed",
            params=self._params,
            inputs={"model": self._params.model, "dataset": self._params.dataset},
            resume_from=str(resume_from) if resume_from else None,
            changes=changes,
            cache=str(self.cache) if self.cache else None,
        )
        run_dir.create(spec)

        def work() -> None:
            if audit is not None:
                sys.addaudithook(audit)
            main(self._params, Attempt(run_dir, spec, look))

        return run_dir, in_own_process(work)


def honoured(family: str) -> set[str]:
    """Options that mean something with a family."""
    conditions = TrainSaeParams.conditions()
    return {name for name, needed in conditions.items() if family in needed.get("family", [family])}


@pytest.fixture
def bench(bert: Path, corpus: Path, tmp_path: Path) -> Callable[..., Bench]:
    homes = count()

    def make(*, keeps: bool = False, **changes: object) -> Bench:
        defaults: dict[str, object] = {
            "model": str(bert),
            "dataset": str(corpus),
            "hookpoint": "layers.1",
            "expansion_factor": 2,
            "steps": STEPS,
            "batch_size": 64,
            "held_out_tokens": 128,
            "log_every_steps": 1,
            "checkpoint_every_steps": 7,
            "context_length": 16,
            "lr": 1e-2,
            "dead_after_tokens": 500,
            "buffer_tokens": 300,
            "device": "cpu",
        }
        home = tmp_path / str(next(homes))
        return Bench(home, TrainSaeParams.model_validate(defaults | changes), home / "cache" if keeps else None)

    return make


def events(run_dir: RunDir) -> list[Event]:
    return [event.validate_json(line) for line in run_dir.events.read_bytes().splitlines()]


def newest(run_dir: RunDir) -> Path | None:
    """The newest checkpoint that was announced, which is what an orchestrator goes by."""
    names = [one.name for one in events(run_dir) if isinstance(one, CheckpointSaved)]
    return run_dir.checkpoints / names[-1] if names else None


def measured(*attempts: RunDir) -> dict[tuple[int, str], float]:
    """Every figure of every step; what a later attempt measured again replaces what was lost."""
    found: dict[tuple[int, str], float] = {}
    for run_dir in attempts:
        own = [one for one in events(run_dir) if isinstance(one, Metrics)]
        found = {key: value for key, value in found.items() if key[0] < own[0].step}
        for one in own:
            found |= {
                (one.step, name): value for name, value in one.values.items() if not any(part in name for part in NOISE)
            }
    return found


def assert_same_result(one: RunDir, other: RunDir) -> None:
    found = sorted(one.artifacts.rglob("*.safetensors"))
    assert found
    for path in found:
        weights = load_file(other.artifacts / path.relative_to(one.artifacts))
        for name, tensor in load_file(path).items():
            assert torch.equal(tensor, weights[name]), name


def at(step: int) -> Callable[[int], None]:
    """Dies once it has measured this step."""
    return lambda measured: die() if measured == step else None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_killed_training_of_every_family_ends_in_the_same_weights_and_figures(
    bench: Callable[..., Bench], family: str
) -> None:
    options = {"k": 2} if "k" in honoured(family) else {}
    one = bench(family=family, **options)
    whole, code = one.attempt()
    assert code == 0
    killed, code = one.attempt(at(18))
    assert code == -signal.SIGKILL
    resumed, code = one.attempt(resume_from=newest(killed))
    assert code == 0
    assert_same_result(whole, resumed)
    assert measured(killed, resumed) == measured(whole)
    assert {step for step, _ in measured(killed, resumed)} == set(range(1, STEPS + 1))


@pytest.mark.parametrize(
    "options",
    [
        {"family": "standard", "target_l0": 4.0},
        {"grid": {"k": [2, 4], "lr": [1e-2, 1e-3]}},
        {"k": 2, "dead_latents": "resample", "resample_every_tokens": 300},
        {"k": 2, "dead_latents": "ghost"},
        {"k": 2, "target_hookpoint": "layers.2", "skip_connection": True},
        {"k": 2, "crosscoder_hookpoints": ["layers.0"], "buffer_tokens": 100_000},
    ],
    ids=["controller", "several", "resampling", "ghost gradients", "skip transcoder", "crosscoder of one generation"],
)
def test_so_does_whatever_else_there_is_to_keep(bench: Callable[..., Bench], options: dict[str, object]) -> None:
    one = bench(**options)
    whole, _ = one.attempt()
    killed, code = one.attempt(at(18))
    assert code == -signal.SIGKILL
    resumed, code = one.attempt(resume_from=newest(killed))
    assert code == 0
    assert_same_result(whole, resumed)
    assert measured(killed, resumed) == measured(whole)


@pytest.mark.parametrize("family", FAMILIES)
def test_writing_checkpoints_and_measuring_at_each_changes_nothing(bench: Callable[..., Bench], family: str) -> None:
    options = {"k": 2} if "k" in honoured(family) else {}
    often, _ = bench(family=family, checkpoint_every_steps=3, **options).attempt()
    never, _ = bench(family=family, checkpoint_every_steps=None, **options).attempt()
    assert_same_result(often, never)


@pytest.mark.parametrize("rename", range(3))
def test_killed_while_a_checkpoint_is_written_it_goes_on_from_the_one_before(
    bench: Callable[..., Bench], rename: int
) -> None:
    one = bench(k=2)
    whole, _ = one.attempt()
    passed = count()
    killed, code = one.attempt(audit=lambda name, _: die() if name == "os.rename" and next(passed) == rename else None)
    assert code == -signal.SIGKILL
    for path in checkpoints_in(killed.checkpoints):
        verify_checkpoint(path)
    resumed, code = one.attempt(resume_from=newest(killed))
    assert code == 0
    assert_same_result(whole, resumed)
    assert measured(killed, resumed) == measured(whole)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several a run, and chunks that end elsewhere."""
    monkeypatch.setattr("worker_image.jobs.activations.ActivationCache", partial(ActivationCache, shard_rows=400))
    monkeypatch.setattr("worker_image.lm.fill._CHUNK_TOKENS", 256)
    monkeypatch.setattr("worker_image.lm.fill._PASSES", 1)


@pytest.mark.parametrize("shard", range(5))
def test_killed_while_the_cache_is_filled_it_harvests_and_trains_to_the_same_bits(
    bench: Callable[..., Bench], small_shards: None, shard: int
) -> None:
    options = {"keeps": True, "cache": "on", "k": 2, "harvest_batch_size": 4}
    whole, code = bench(**options).attempt()
    assert code == 0
    one, passed = bench(**options), count()

    def dies(name: str, arguments: tuple[object, ...]) -> None:
        """Before the so manyth shard has its name; the first is that of what is held out."""
        if name == "os.rename" and "shard-" in str(arguments[0]) and next(passed) == shard:
            die()

    killed, code = one.attempt(audit=dies)
    assert code == -signal.SIGKILL
    assert newest(killed) is None
    again, code = one.attempt()
    assert code == 0
    assert_same_result(whole, again)
    assert measured(again) == measured(whole)


@pytest.mark.parametrize("shard", [0, 1, 3], ids=["held out", "first", "later"])
def test_a_job_that_waits_for_one_that_is_killed_while_it_fills_the_cache_ends_in_the_same_bits(
    bench: Callable[..., Bench], small_shards: None, monkeypatch: pytest.MonkeyPatch, shard: int
) -> None:
    options = {"keeps": True, "cache": "on", "k": 2, "harvest_batch_size": 4}
    whole, code = bench(**options).attempt()
    assert code == 0
    one, passed = bench(**options), count()
    (writes, tells_that_it_writes), (waits, tells_that_it_waits) = os.pipe(), os.pipe()

    def dies_once_waited_for(name: str, arguments: tuple[object, ...]) -> None:
        if name == "os.rename" and "shard-" in str(arguments[0]) and next(passed) == shard:
            os.write(tells_that_it_writes, b"x")
            os.read(waits, 1)
            die()

    def wait(seconds: float) -> None:
        os.write(tells_that_it_waits, b"x")
        time.sleep(seconds)

    _, killed = one.begin(audit=dies_once_waited_for)
    os.read(writes, 1)
    monkeypatch.setattr("worker_image.lm.fill.time", SimpleNamespace(sleep=wait))
    heir, waiting = one.begin()
    assert ended(waiting) == 0
    os.write(tells_that_it_waits, b"x")
    assert ended(killed) == -signal.SIGKILL
    for descriptor in (writes, tells_that_it_writes, waits, tells_that_it_waits):
        os.close(descriptor)
    assert_same_result(whole, heir)
    assert measured(heir) == measured(whole)


@pytest.mark.parametrize("is_lost", [False, True], ids=["kept", "lost"])
def test_killed_after_the_cache_was_filled_it_ends_the_same_even_if_the_cache_is_lost(
    bench: Callable[..., Bench], small_shards: None, is_lost: bool
) -> None:
    one = bench(keeps=True, cache="on", k=2, harvest_batch_size=4)
    whole, code = one.attempt()
    assert code == 0
    killed, code = one.attempt(at(18))
    assert code == -signal.SIGKILL
    if is_lost:
        assert one.cache is not None
        shutil.rmtree(one.cache)
    resumed, code = one.attempt(resume_from=newest(killed))
    assert code == 0
    assert_same_result(whole, resumed)
    assert measured(killed, resumed) == measured(whole)


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({"k": 2}, {"lr": 1e-3, "auxk_alpha": 0.5}),
        ({"family": "standard"}, {"sparsity_coefficient": 0.5}),
        ({"family": "standard"}, {"target_l0": 4.0}),
        ({"family": "standard", "target_l0": 4.0}, {"target_l0": 2.0, "sparsity_coefficient": 0.5}),
        ({"family": "standard", "target_l0": 4.0}, {"target_l0": None}),
    ],
    ids=["rate and AuxK", "coefficient", "controller set up", "controller moved", "controller let go"],
)
@pytest.mark.parametrize("dies_at", [13, 18], ids=["before it is saved", "after"])
def test_what_was_asked_before_the_kill_is_in_force_afterwards_from_the_same_step(
    bench: Callable[..., Bench], options: dict[str, object], values: dict[str, ParameterValue], dies_at: int
) -> None:
    one = bench(**options)

    def ask(run_dir: Path) -> Callable[[int], None]:
        told = SetParameters(id=uuid4(), ts=0, values=values)

        def look(step: int) -> None:
            if step == 12:
                (run_dir / "commands.jsonl").write_text(told.model_dump_json() + "\n")

        return look

    home = one._home / "runs" / str(one._job_id)
    whole, _ = one.attempt(ask(home / "1"))
    looks = (ask(home / "2"), at(dies_at))
    killed, code = one.attempt(lambda step: [look(step) for look in looks].clear())
    assert code == -signal.SIGKILL
    [applied] = [found for found in events(killed) if isinstance(found, CommandApplied)]
    assert applied.step == 12
    command = json.loads(killed.commands.read_text())
    change = AppliedChange(id=applied.command_id, step=applied.step, values=command["values"])
    resumed, code = one.attempt(resume_from=newest(killed), changes=(change,))
    assert code == 0
    assert_same_result(whole, resumed)
    assert measured(killed, resumed) == measured(whole)
