"""The loop: batches come in, every autoencoder learns from them, commands are obeyed at every batch."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from worker_image.contract.budget import steps_at_once
from worker_image.contract.commands import (
    AppliedChange,
    CheckpointNow,
    ParameterValue,
    Pause,
    SetLearningRate,
    SetParameters,
    Stop,
    Validate,
)
from worker_image.contract.events import Progress, Started
from worker_image.contract.jobs import TrainSaeParams
from worker_image.errors import UserError
from worker_image.jobs.artifact import keep
from worker_image.jobs.halted import Halted
from worker_image.jobs.train_sae.abreast import Abreast
from worker_image.jobs.train_sae.checkpoints import Checkpoints, Moment, Reason
from worker_image.jobs.train_sae.inputs import Inputs, Loaded, without_cache
from worker_image.jobs.train_sae.learner import Learner
from worker_image.jobs.train_sae.report import Curves, report
from worker_image.jobs.train_sae.results import export, joined, result_lines
from worker_image.jobs.train_sae.run_state import RunState
from worker_image.jobs.train_sae.steering import Refused, Steering
from worker_image.jobs.train_sae.summary import duration, made_with, summary_of, told_apart
from worker_image.lm.cache import CacheFull
from worker_image.pace import Pace
from worker_image.reporter import Instruction, RunContext, Terminated
from worker_image.sae.checkpoint import CheckpointState, Kind
from worker_image.sae.evaluation import Evaluation
from worker_image.sae.normalisation import Scaling
from worker_image.sae.random_state import restore_random_state
from worker_image.sae.trainer import OptimizerOutOfMemory, StepOutcome

_CENTRE_SAMPLE = 16_384
"""Activations from which the biases start; more do not move their median visibly."""

_GPU_MEMORY_EVERY_STEPS = 100


@dataclass(frozen=True)
class Standing:
    """What a step may change for the worse."""

    micro_batch_size: int | None
    skipped_steps: int

    @classmethod
    def of(cls, learner: Learner) -> "Standing":
        return cls(learner.trainer.micro_batch_size, learner.trainer.skipped_steps)


class Training:
    """The loop and what it holds: data on one side, the learners on the other, the run in between."""

    def __init__(self, params: TrainSaeParams, run: RunContext, inputs: Inputs, loaded: Loaded, began: float) -> None:
        self.run = run
        self.inputs = inputs
        self.batches = inputs.batches
        self.learners = loaded.learners
        self._columns = loaded.columns
        self.need = loaded.need
        self._asked = params
        self.steering = Steering(params, run.changes)
        self.checkpoints = Checkpoints(run)
        self._abreast = Abreast(steps_at_once(params, on_gpu=inputs.device.type == "cuda"))
        self.curves = Curves()
        self._reserved = params.checkpoint_every_steps is None and params.checkpoint_every_minutes is None
        """Whether there is room for copies of the state: not taken before one is sure to be needed."""
        self._measured: tuple[Moment, list[Evaluation]] | None = None
        self._scaling: Scaling | None = None
        """Known from the first batches on."""
        self._has_held_out = False
        self._is_probed = False
        self._is_between_steps = True
        """Whether learners and batches stand where a checkpoint may be written of them."""
        self._began = began
        if inputs.checkpoint is not None:
            self._continue_from(inputs.checkpoint)
        self._began_at = self.step
        self._harvest_pace = Pace()
        self._train_pace = Pace()
        self._reported = self._logged = time.monotonic()

    @property
    def params(self) -> TrainSaeParams:
        """The job's parameters as they are in force."""
        return self.steering.params

    @property
    def step(self) -> int:
        """Steps done: all learners take each together."""
        return self.learners[0].trainer.step

    def _continue_from(self, checkpoint: CheckpointState) -> None:
        kept = RunState.of(checkpoint)
        self._began -= kept.elapsed_s
        origin = self.run.resume_from
        # The run directories of a job's attempts lie side by side.
        is_own = origin is not None and origin.parent.parent.parent == self.run.checkpoints.parent.parent
        before, now = self.steering.restore(kept.steering, checkpoint.params, is_own=is_own)
        self.curves.restore(kept.curves)
        for learner, state in zip(self.learners, checkpoint.saes, strict=True):
            # The state is that of a trainer that was changed already: whether it has a controller, for one.
            learner.trainer.reconfigure(before)
            learner.trainer.restore(state)
            learner.trainer.reconfigure(now)
        if kept.scaling is not None:
            self._scaling = Scaling.from_json(kept.scaling, self._columns)
        # Last: everything that was loaded before may have drawn from them.
        restore_random_state(checkpoint.random.tensors, checkpoint.random.values)

    def close(self) -> None:
        """Let go of threads, locks and the language model."""
        self._abreast.close()
        self.batches.close()

    def announce(self) -> None:
        """Say what is about to happen, to people and to the machine."""
        summary = summary_of(self.params, self.inputs, self.learners)
        width = max(len(name) for name in summary)
        self.run.log("\n".join(f"{name.replace('_', ' '):<{width}}  {value}" for name, value in summary.items()))
        if self.inputs.checkpoint:
            self.run.log(f"continuing from {self.run.resume_from} at step {self.step}")
            before = RunState.of(self.inputs.checkpoint).made_with
            if other := told_apart(before, made_with(self.inputs.device)):
                self.run.notify(
                    f"the checkpoint was made with {other}: the weights need not be those, to the last bit, that it "
                    "would have led to",
                    "warning",
                )
            for name, value in self.steering.changed.items():
                self.run.log(f"{name} is {value}, as was asked for while it ran")
        self.run.emit(
            Started,
            device=str(self.inputs.device),
            summary=summary,
            resumed_from=str(self.run.resume_from) if self.run.resume_from else None,
        )

    def execute(self) -> None:
        """Harvest and train to the last step, then evaluate and export."""
        # Even with no step left to take: what is measured at the end is held out here.
        self._prepare()
        # What is to be so from the first step on, even where nothing was left to harvest.
        self._obey()
        while self.step < self.params.steps:
            if not self.batches.ready:
                self._prepare()
            self._is_between_steps = False
            outcomes = self._step(self.batches.next_batch())
            self._is_between_steps = True
            if self._is_reported(self.step):
                self._report(outcomes)
            elif between := self._due_between(outcomes):
                self._tell(self.step, between)
            if self.step < self.params.steps and self.checkpoints.is_due(self.step, self.params):
                self._validate()
                self._save("interval")
            self._obey()
        self._validate()
        self._save_and_wait("final")
        results = self._export()
        self.checkpoints.close()
        self.run.log("\n".join(result_lines(self.learners, results)), "success")
        self.run.finish("completed", results=results)

    def halt(self, instruction: Pause | Stop | Terminated) -> None:
        """End early, losing nothing."""
        results: dict[str, float] = {}
        if isinstance(instruction, Pause):
            name = self._save_and_wait("pause")
            self.checkpoints.close()
            self.run.applied(instruction, f"paused at step {self.step}; {name} is saved", self.step)
            self.run.log(f"paused at step {self.step}")
            self.run.finish("paused")
            return
        name = self._save_and_wait("stop")
        self.checkpoints.close()
        if isinstance(instruction, Stop):
            if self.step:
                results = self._export()
            else:
                self.run.notify("stopped before the first step: there is nothing to export", "warning")
        self.run.applied(instruction, f"stopped at step {self.step}; {name} is saved", self.step)
        self.run.log(f"stopped at step {self.step}")
        self.run.finish("stopped", results=results)

    def keep(self) -> None:
        """Write a checkpoint of the steps that an error would cost.

        Not where there are none, nor where they are lost: the error came in the middle of a step, or left something
        that is not finite.
        """
        if self._is_between_steps and self.step > self._began_at and self._lost(weights=True) is None:
            self.checkpoints.save_and_wait(self._moment, partial(self._state, "step"), self.params, "error")

    def _prepare(self) -> None:
        """Get activations for the next batches, reporting progress and obeying commands meanwhile."""
        try:
            self._harvest()
        except CacheFull as full:
            # Others took the room since it was looked for. Batches that were learned from cannot be had elsewhere.
            if self.params.cache == "on" or self.step:
                raise
            self._leave_cache(full)
            self._harvest()
        self._has_held_out = True
        if self._scaling is None:
            self._begin()
        self._train_pace.start()

    def _leave_cache(self, full: CacheFull) -> None:
        """
        Raises:
            UserError: memory has no room for activations either.
        """
        self.batches.close()
        self.inputs = without_cache(self.params, self.inputs)
        self.batches = self.inputs.batches
        self.need = self.need.with_buffers(self.batches.buffered_tokens)
        self.run.notify(f"{full}; activations are harvested as training goes instead, and not kept", "warning")

    def _harvest(self) -> None:
        self._harvest_pace.start()
        before = self.batches.harvested
        for tokens in self.batches.prepare():
            self._harvest_pace.advance(tokens)
            if self._train_pace.per_s is None:
                self._probe()
            self._obey()
            self._report_harvest()
        if self.batches.harvested > before:
            self._report_harvest(now=True)

    def _begin(self) -> None:
        """Settle what the first activations settle: their scale, and where the biases start."""
        sample_NW = self.batches.sample(_CENTRE_SAMPLE).to(self.inputs.device, torch.float32)
        self._scaling = Scaling.measured(sample_NW, self._columns, self.params.normalisation)
        for learner in self.learners:
            learner.centre(self._scaling.apply(sample_NW))

    def _report_harvest(self, *, now: bool = False) -> None:
        done, total = self.batches.harvested, self.batches.to_harvest
        clock = time.monotonic()
        if now or clock - self._reported >= 1:
            self._progress("harvesting", done, total, "tokens", self._harvest_pace.per_s)
            self._reported = clock
        if now or clock - self._logged >= 5:
            rate = self._harvest_pace.per_s or 0
            self.run.log(f"harvesting {done:,}/{total:,} tokens  {rate:,.0f} tok/s  eta {duration(self._eta_s())}")
            self._logged = clock

    def _probe(self) -> None:
        """Time a step's gradients before the first step, so that the time left is known while harvesting."""
        batch_BW = self.batches.sample(self.params.batch_size)
        if not self._is_probed and len(batch_BW) == self.params.batch_size:
            self._is_probed = True
            try:
                batch_BW = batch_BW.to(self.inputs.device, torch.float32)
                for _ in range(2):  # the first pass also pays for allocating
                    self._train_pace.start()
                    for learner in self.learners:
                        learner.rehearse(batch_BW)
            except torch.cuda.OutOfMemoryError:
                # The language model is there beside it; training's own steps will tell whether they fit.
                return
            self._train_pace.advance(1)

    def _step(self, batch_BW: Tensor) -> list[StepOutcome]:
        measure = self._is_reported(self.step + 1)
        try:
            assert self._scaling is not None
            # From pinned memory it is copied beside what the GPU computes, as stored; the allocator of pinned memory
            # keeps the batch until it has been copied.
            batch_BW = batch_BW.to(self.inputs.device, non_blocking=True)
            batch_BW = self._scaling.apply(batch_BW.to(torch.float32))
            before = [Standing.of(learner) for learner in self.learners]
            outcomes = self._abreast.map(lambda it: it.train_step(batch_BW, measure=measure), self.learners)
        except OptimizerOutOfMemory as error:
            remembers_less = (
                "lower expansion_factor, or take the optimizer signum, which remembers half as much as adam"
            )
            raise self.need.lacking(
                "expansion_factor",
                f"what {self.params.optimizer} remembers of {self.learners[0].trainer.config.d_sae} latents",
                remembers_less if self.params.optimizer in ("adam", "adamw") else "lower expansion_factor",
            ) from error
        except torch.cuda.OutOfMemoryError as error:
            raise self.need.lacking(
                "batch_size",
                f"a step on {self.params.batch_size} tokens with {self.learners[0].trainer.config.d_sae} latents",
                "lower batch_size or expansion_factor",
            ) from error
        self._train_pace.advance(1)
        for learner, standing in zip(self.learners, before, strict=True):
            self._tell_of_trouble(learner, standing)
        if not self._reserved:
            # Moments exist from the first step on.
            self.checkpoints.reserve(self._state("step"))
            self._reserved = True
        if not all(learner.trainer.is_patient for learner in self.learners):
            self._check_finite()
        return outcomes

    def _tell_of_trouble(self, learner: Learner, before: "Standing") -> None:
        trainer = learner.trainer
        which = f"{learner.label}: " if learner.label else ""
        if trainer.micro_batch_size != before.micro_batch_size:
            self.run.notify(
                f"{which}out of GPU memory: from step {self.step} on {trainer.micro_batch_size} of "
                f"{self.params.batch_size} tokens are differentiated at once",
                "warning",
            )
        if trainer.skipped_steps > before.skipped_steps:
            self.run.notify(f"{which}step {trainer.step} was skipped: its loss or a gradient is not finite", "warning")

    def _is_reported(self, step: int) -> bool:
        return step % self.params.log_every_steps == 0 or step == self.params.steps

    def _report(self, outcomes: list[StepOutcome]) -> None:
        step, steps = self.step, self.params.steps
        tokens_per_s = (self._train_pace.per_s or 0) * self.params.batch_size
        found = []
        for learner, outcome in zip(self.learners, outcomes, strict=True):
            dead = learner.trainer.dead_count
            share = dead / learner.trainer.config.d_sae
            values = outcome.values() | {"dead_latents": float(dead), "dead_share": share}
            found.append(values)
            self.run.log(
                f"step {step:>{len(str(steps))}}/{steps}  {learner.label + '  ' if learner.label else ''}"
                f"loss {values['loss']:.4f}  fvu {values['fvu']:.4f}  l0 {values['l0']:.1f}  dead {dead} "
                f"({share:.1%})  {tokens_per_s:,.0f} tok/s  eta {duration(self._eta_s())}"
            )
        self._tell(step, joined(found) | self._throughput() | self._gpu_memory())
        self._progress("training", step, steps, "steps", self._train_pace.per_s)
        self._check_finite()

    def _throughput(self) -> dict[str, float]:
        """How fast it goes, now and in this attempt, and how much of it is done."""
        pace, batch = self._train_pace, self.params.batch_size
        return {
            "tokens_per_s": (pace.per_s or 0) * batch,
            "tokens_per_s_average": (pace.average_per_s or 0) * batch,
            "tokens_per_s_peak": pace.peak_per_s * batch,
            "tokens_trained": float(self.step * batch),
            "tokens_left": float((self.params.steps - self.step) * batch),
            "stall_share": self.batches.stall_share,
        }

    def _due_between(self, outcomes: list[StepOutcome]) -> dict[str, float]:
        """What has steps of its own, on a step whose other figures are not reported."""
        every = self.params.gradient_statistics_every_steps
        is_due = every is not None and self.step % every == 0
        looks = [{name: float(value) for name, value in it.statistics.items()} for it in outcomes] if is_due else []
        return (joined(looks) if looks else {}) | self._gpu_memory()

    def _gpu_memory(self) -> dict[str, float]:
        """What torch holds of the GPU, in bytes, every so many steps; nothing on a CPU."""
        if self.inputs.device.type != "cuda" or self.step % _GPU_MEMORY_EVERY_STEPS:
            return {}
        return {
            "gpu_memory_allocated_bytes": float(torch.cuda.memory_allocated(self.inputs.device)),
            "gpu_memory_reserved_bytes": float(torch.cuda.memory_reserved(self.inputs.device)),
            "gpu_memory_peak_bytes": float(torch.cuda.max_memory_allocated(self.inputs.device)),
        }

    def _tell(self, step: int, values: dict[str, float]) -> None:
        self.curves.add(step, values)
        self.run.metrics(step, values)

    def _check_finite(self, *, weights: bool = False) -> None:
        """No more time is spent on weights that are lost, and no checkpoint to continue from is written.

        ``weights``: look at them too, and at what held-out tokens showed of them. A step's loss is that of the weights
        before it.

        Raises:
            UserError: something is not finite; how it came to that is kept as ``anomaly_<step>``.
        """
        if (found := self._lost(weights=weights)) is None:
            return
        lost, what = found
        self.checkpoints.save_and_wait(self._moment, partial(self._state, "anomaly"), self.params, "anomaly")
        good, which = self.checkpoints.newest, f" of {lost.label}" if lost.label else ""
        raise UserError(
            "lr",
            f"the {what}{which} is no longer finite at step {self.step}{_since(lost.trainer.lost_in_a_row)}",
            f"lower lr (it is {lost.trainer.peak_lr:g}) or set grad_clip, e.g. to 1"
            + (f", and restart from {good}: nothing before it is lost" if good else ""),
        )

    def _lost(self, *, weights: bool) -> tuple[Learner, str] | None:
        """The first learner with something that is not finite, and what that is."""
        measured = self._measured[1] if self._measured and self._measured[0] == self._moment else []
        for index, learner in enumerate(self.learners):
            if not math.isfinite(learner.trainer.last_loss or 0.0):
                return learner, "loss"
            if weights and (name := learner.trainer.lost_parameter) is not None:
                return learner, f"parameter {name}"
            if weights and measured and not measured[index].is_finite:
                return learner, "reconstruction of held-out tokens"
        return None

    def _progress(self, phase: str, done: int, total: int, unit: str, rate_per_s: float | None) -> None:
        self.run.emit(
            Progress, phase=phase, done=done, total=total, unit=unit, rate_per_s=rate_per_s, eta_s=self._eta_s()
        )

    def _eta_s(self) -> float | None:
        """Seconds to the end of the job: what is left to harvest and to train, each at its pace."""
        tokens = self.batches.to_harvest - self.batches.harvested
        harvesting = self._harvest_pace.seconds_for(tokens) if tokens else 0.0
        training = self._train_pace.seconds_for(self.params.steps - self.step)
        return None if harvesting is None or training is None else harvesting + training

    def _obey(self) -> None:
        """Carry out what was asked since the last batch.

        Raises:
            Halted: it was to end. What was asked after that is refused when the run finishes.
        """
        self.checkpoints.tend(self.params)
        while (change := self.steering.due(self.step)) is not None:
            self._repeat(change)
        instructions = self.run.poll()
        for position, instruction in enumerate(instructions):
            match instruction:
                case SetLearningRate(lr=lr):
                    self._change(instruction, {"lr": lr})
                case SetParameters(values=values):
                    self._change(instruction, values)
                case Validate():
                    self._answer_with_validation(instruction)
                case CheckpointNow():
                    self._save("command", instruction)
                case Pause() | Stop() | Terminated():
                    self._refuse(instructions[position + 1 :], "the job is ending")
                    raise Halted(instruction)

    def _refuse(self, instructions: list[Instruction], reason: str) -> None:
        for instruction in instructions:
            self.run.rejected(instruction, reason)

    def _change(self, instruction: SetLearningRate | SetParameters, values: Mapping[str, ParameterValue]) -> None:
        try:
            self.steering.change(AppliedChange(id=instruction.id, step=self.step, values=dict(values)))
        except Refused as refused:
            self.run.rejected(instruction, str(refused))
        else:
            self._take_up(values)
            self.run.applied(instruction, self._said(values), self.step)

    def _repeat(self, change: AppliedChange) -> None:
        """Make a change again that an earlier attempt made after as many steps."""
        try:
            self.steering.repeat(change)
        except Refused as refused:
            self.run.notify(f"a change that was made before cannot be made again: {refused}", "warning")
        else:
            self._take_up(change.values)

    def _take_up(self, values: Mapping[str, ParameterValue]) -> None:
        for learner in self.learners:
            learner.trainer.reconfigure(values)
        self.run.log(self._said(values))

    def _said(self, values: Mapping[str, ParameterValue]) -> str:
        told = (f"{name} {f'{value:g}' if isinstance(value, float) else value}" for name, value in values.items())
        return f"{', '.join(told)} from step {self.step + 1}"

    def _answer_with_validation(self, instruction: Validate) -> None:
        if (measured := self._validate()) is None:
            self.run.rejected(instruction, "the held-out tokens are not harvested yet; ask again once it trains")
        else:
            said = "; ".join(self._said_of(learner, it) for learner, it in zip(self.learners, measured, strict=True))
            self.run.applied(instruction, f"{said} after step {self.step}", self.step)

    def _said_of(self, learner: Learner, measured: Evaluation) -> str:
        label = f"{learner.label}  " if learner.label else ""
        return f"{label}held-out fvu {measured.fvu:.4f} at l0 {measured.l0:.1f}"

    def _validate(self) -> list[Evaluation] | None:
        """Measure on the held-out tokens, unless this very state was; None before training has begun."""
        if self._scaling is None or not self._has_held_out:
            return None
        if self._measured is None or self._measured[0] != self._moment:
            held_out_NW = self._scaled_held_out(self._scaling)
            measured = [learner.evaluate(held_out_NW, self.params.batch_size) for learner in self.learners]
            self._measured = (self._moment, measured)
            values = joined([_validated(it) for it in measured])
            self._tell(self.step, values)
            for learner, it in zip(self.learners, measured, strict=True):
                self.run.log(f"step {self.step}  {self._said_of(learner, it)}")
            # What was measured is no training.
            self._train_pace.start()
        return self._measured[1]

    def _scaled_held_out(self, scaling: Scaling) -> Tensor:
        return scaling.apply(self.batches.held_out().float())

    @property
    def _moment(self) -> Moment:
        return Moment(self.step, self.steering.count)

    def _save(self, reason: Reason, command: Instruction | None = None) -> None:
        """Have a checkpoint written beside training; it is announced, and ``command`` answered, once it is on disk."""
        self._check_finite(weights=True)
        self.checkpoints.save(self._moment, partial(self._state, "step"), self.params, reason, command)

    def _save_and_wait(self, reason: Reason) -> str:
        """Write a checkpoint, announce it, return its name."""
        self._check_finite(weights=True)
        return self.checkpoints.save_and_wait(self._moment, partial(self._state, "step"), self.params, reason)

    def _state(self, kind: Kind) -> CheckpointState:
        """All that continuing from here needs."""
        measured = self._measured[1] if self._measured and self._measured[0] == self._moment else []
        held_out_loss = sum(it.loss or 0.0 for it in measured) / len(measured) if measured else math.nan
        losses = [learner.trainer.last_loss for learner in self.learners]
        loss = math.nan if None in losses else sum(filter(None, losses)) / len(losses)
        return CheckpointState(
            step=self.step,
            saes=tuple(learner.trainer.state() for learner in self.learners),
            loss=loss if math.isfinite(loss) else None,
            held_out_loss=held_out_loss if math.isfinite(held_out_loss) else None,
            run=RunState(
                position=self.batches.position,
                dataset_bytes=self.inputs.activations.dataset.size_bytes,
                elapsed_s=time.monotonic() - self._began,
                steering=self.steering.to_json(),
                curves=self.curves.to_json(),
                scaling=None if self._scaling is None else self._scaling.to_json(),
                trackers=dict(self.run.tracker_runs),
                made_with=made_with(self.inputs.device),
            ).to_json(),
            params=self._asked.model_dump(mode="json"),
            kind=kind,
        )

    def _export(self) -> dict[str, float]:
        """Write the artifacts with what was measured; return the results."""
        measured, deployed = self._validate(), None
        if measured is not None and self._scaling is not None:
            held_out_NW = self._scaled_held_out(self._scaling)
            deployed = [learner.evaluate_deployed(held_out_NW, self.params.batch_size) for learner in self.learners]
        wall_time_s = time.monotonic() - self._began
        results = export(
            self.params, self.run, self.inputs, self.learners, self._scaling, measured, deployed, wall_time_s
        )
        text = report(
            self._asked,
            labels=[learner.label for learner in self.learners],
            step=self.step,
            wall_time_s=wall_time_s,
            results=results,
            curves=self.curves,
            changes=self.steering.history,
            checkpoint=self.checkpoints.newest,
        )
        keep(self.run, "report.md", "report", text.encode())
        return results


def _since(lost_in_a_row: int) -> str:
    return f", after {lost_in_a_row} steps in a row that were skipped" if lost_in_a_row > 1 else ""


def _validated(measured: Evaluation) -> dict[str, float]:
    """Metric name -> value; densities as ``val_density/-3``, the share of latents by the power of ten of theirs."""
    densities = {f"density/{edge:g}": share for edge, share in measured.densities.items()}
    return {f"val_{name}": value for name, value in (measured.values() | densities).items()}
