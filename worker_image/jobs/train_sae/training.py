"""The loop: harvesting and training alternate, obeying commands at every batch."""

import math
import platform
import time
from collections.abc import Mapping
from functools import partial

import torch
import transformers
from torch import Tensor

from worker_image import __version__
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
from worker_image.contract.events import ArtifactSaved, Progress, Started
from worker_image.contract.jobs import TrainSaeParams
from worker_image.errors import OutOfGpuMemory, UserError
from worker_image.jobs.train_sae.checkpoints import Checkpoints, Moment, Reason
from worker_image.jobs.train_sae.inputs import Inputs, Loaded
from worker_image.jobs.train_sae.steering import Refused, Steering
from worker_image.lm.harvest import Harvester
from worker_image.lm.tokens import Sequence
from worker_image.pace import Pace
from worker_image.reporter import Instruction, RunContext, Terminated
from worker_image.sae.checkpoint import CheckpointState, Kind
from worker_image.sae.export import sparsify_config, write_json, write_weights
from worker_image.sae.files import sha256_of
from worker_image.sae.metrics import Evaluation, evaluate
from worker_image.sae.random_state import restore_random_state
from worker_image.sae.trainer import StepOutcome

_CENTRE_SAMPLE = 16_384
"""Activations from which the decoder's bias starts; more do not move their median visibly."""


class Halted(Exception):
    """Training was told to end early."""

    def __init__(self, instruction: Pause | Stop | Terminated) -> None:
        super().__init__(instruction)
        self.instruction = instruction


class Training:
    """The loop and what it holds: data on one side, the trainer on the other, the run in between."""

    def __init__(self, params: TrainSaeParams, run: RunContext, inputs: Inputs, loaded: Loaded, began: float) -> None:
        self.run = run
        self.inputs = inputs
        self.buffer = inputs.buffer
        self.trainer = loaded.trainer
        self._harvester: Harvester | None = loaded.harvester
        self._planned: list[Sequence] | None = inputs.first_generation
        self._held_out_ND: Tensor | None = None
        self._asked = params
        self.steering = Steering(params, run.changes)
        self.checkpoints = Checkpoints(run)
        self._reserved = params.checkpoint_every_steps is None and params.checkpoint_every_minutes is None
        """Whether there is room for copies of the state: not taken before one is sure to be needed."""
        self._measured: tuple[Moment, Evaluation] | None = None
        self._began = began
        if inputs.checkpoint is not None:
            self._continue_from(inputs.checkpoint)
        self._harvested = 0
        self._to_harvest = self.params.held_out_tokens + self.buffer.left_to_harvest
        self._harvest_pace = Pace()
        self._train_pace = Pace()

    @property
    def params(self) -> TrainSaeParams:
        """The job's parameters as they are in force."""
        return self.steering.params

    def _continue_from(self, checkpoint: CheckpointState) -> None:
        self._began -= float(checkpoint.run["elapsed_s"])  # type: ignore[arg-type]
        steering: dict[str, object] = checkpoint.run["steering"]  # type: ignore[assignment]
        self.trainer.restore(checkpoint.saes[0])
        self.trainer.reconfigure(self.steering.restore(steering, checkpoint.params))
        # Last: everything that was loaded before may have drawn from them.
        restore_random_state(checkpoint.random.tensors, checkpoint.random.values)

    def announce(self) -> None:
        """Say what is about to happen, to people and to the machine."""
        summary = self._summary()
        width = max(len(name) for name in summary)
        self.run.log("\n".join(f"{name.replace('_', ' '):<{width}}  {value}" for name, value in summary.items()))
        if self.inputs.checkpoint:
            self.run.log(f"continuing from {self.run.resume_from} at step {self.trainer.step}")
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
        blocks = list(self._harvest(self.inputs.held_out.sequences))
        self._held_out_ND = torch.cat(blocks)
        while self.trainer.step < self.params.steps:
            if not self.buffer.ready:
                self._fill()
            outcome = self._step(self.buffer.next_batch())
            if self._is_reported(self.trainer.step):
                self._report(outcome)
            if self.trainer.step < self.params.steps and self.checkpoints.is_due(self.trainer.step, self.params):
                self._validate()
                self._save("interval")
            self._obey()
        self._validate()
        self._save_and_wait("final")
        results = self._export()
        self.checkpoints.close()
        self.run.log(_result_line(results), "success")
        self.run.finish("completed", results=results)

    def halt(self, instruction: Pause | Stop | Terminated) -> None:
        """End early, losing nothing."""
        results: dict[str, float] = {}
        if isinstance(instruction, Pause):
            name = self._save_and_wait("pause")
            self.checkpoints.close()
            self.run.applied(instruction, f"paused at step {self.trainer.step}; {name} is saved", self.trainer.step)
            self.run.log(f"paused at step {self.trainer.step}")
            self.run.finish("paused")
            return
        name = self._save_and_wait("stop")
        self.checkpoints.close()
        if isinstance(instruction, Stop):
            if self.trainer.step:
                results = self._export()
            else:
                self.run.notify("stopped before the first step: there is nothing to export", "warning")
        self.run.applied(instruction, f"stopped at step {self.trainer.step}; {name} is saved", self.trainer.step)
        self.run.log(f"stopped at step {self.trainer.step}")
        self.run.finish("stopped", results=results)

    def _harvest(self, sequences: list[Sequence]):  # type: ignore[no-untyped-def]
        """Activations of ``sequences``, block by block, reporting progress and obeying commands in between."""
        assert self._harvester is not None, "the language model was released too early"
        reported = logged = time.monotonic()
        self._harvest_pace.start()
        for block_ND in self._harvester.harvest(sequences):
            self._harvested += len(block_ND)
            self._harvest_pace.advance(len(block_ND))
            yield block_ND.cpu()
            self._obey()
            now = time.monotonic()
            if now - reported >= 1 or self._harvested == self._to_harvest:
                self._progress("harvesting", self._harvested, self._to_harvest, "tokens", self._harvest_pace.per_s)
                reported = now
            if now - logged >= 5 or self._harvested == self._to_harvest:
                rate = self._harvest_pace.per_s or 0
                eta = _duration(self._eta_s())
                self.run.log(
                    f"harvesting {self._harvested:,}/{self._to_harvest:,} tokens  {rate:,.0f} tok/s  eta {eta}"
                )
                logged = now

    def _fill(self) -> None:
        """Bring the next generation into the buffer, and let the language model go when it was the last."""
        planned, self._planned = self._planned, None
        for block_ND in self._harvest(planned if planned is not None else self.buffer.plan()):
            self.buffer.add(block_ND)
            if self._train_pace.per_s is None:
                self._probe()
        if self.buffer.complete:
            self._harvester = None
        if self.trainer.step == 0:
            self.trainer.sae.centre(self.buffer.sample(_CENTRE_SAMPLE))
        self._train_pace.start()

    def _probe(self) -> None:
        """Time a step's gradients before the first step, so that the time left is known while harvesting."""
        batch_BD = self.buffer.sample(self.params.batch_size)
        if len(batch_BD) == self.params.batch_size:
            batch_BD = batch_BD.to(self.trainer.sae.b_dec_D)
            for _ in range(2):  # the first pass also pays for allocating
                self._train_pace.start()
                self.trainer.differentiate(batch_BD)
            self._train_pace.advance(1)

    def _step(self, batch_BD: Tensor) -> StepOutcome:
        measure = self._is_reported(self.trainer.step + 1)
        try:
            outcome = self.trainer.train_step(batch_BD.to(self.trainer.sae.b_dec_D), measure=measure)
        except torch.cuda.OutOfMemoryError as error:
            raise OutOfGpuMemory(
                "batch_size",
                f"a step on {self.params.batch_size} tokens with {self.trainer.config.d_sae} latents does not fit "
                "into GPU memory",
                "lower batch_size or expansion_factor",
            ) from error
        self._train_pace.advance(1)
        if not self._reserved:
            # Moments exist from the first step on.
            self.checkpoints.reserve(self._state("step"))
            self._reserved = True
        return outcome

    def _is_reported(self, step: int) -> bool:
        return step % self.params.log_every_steps == 0 or step == self.params.steps

    def _report(self, outcome: StepOutcome) -> None:
        step, steps = self.trainer.step, self.params.steps
        dead = self.trainer.dead_count
        tokens_per_s = (self._train_pace.per_s or 0) * self.params.batch_size
        values = outcome.values() | {
            "dead_latents": float(dead),
            "dead_share": dead / self.trainer.config.d_sae,
            "tokens_per_s": tokens_per_s,
        }
        self.run.log(
            f"step {step:>{len(str(steps))}}/{steps}  loss {values['loss']:.4f}  fvu {values['fvu']:.4f}  "
            f"l0 {values['l0']:.1f}  dead {dead} ({values['dead_share']:.1%})  {tokens_per_s:,.0f} tok/s  "
            f"eta {_duration(self._eta_s())}"
        )
        self.run.metrics(step, values)
        self._progress("training", step, steps, "steps", self._train_pace.per_s)
        self._check_finite()

    def _check_finite(self) -> None:
        """No more time is spent on weights that are lost, and no checkpoint to continue from is written.

        Raises:
            UserError: the loss is not finite; how it came to that is kept as ``anomaly_<step>``.
        """
        loss = self.trainer.last_loss
        if loss is None or math.isfinite(loss):
            return
        self.checkpoints.save_and_wait(self._moment, partial(self._state, "anomaly"), self.params, "anomaly")
        good = self.checkpoints.newest
        raise UserError(
            "lr",
            f"the loss is no longer finite at step {self.trainer.step}",
            f"lower lr (it is {self.trainer.peak_lr:g}) or set grad_clip, e.g. to 1"
            + (f", and restart from {good}: nothing before it is lost" if good else ""),
        )

    def _progress(self, phase: str, done: int, total: int, unit: str, rate_per_s: float | None) -> None:
        self.run.emit(
            Progress, phase=phase, done=done, total=total, unit=unit, rate_per_s=rate_per_s, eta_s=self._eta_s()
        )

    def _eta_s(self) -> float | None:
        """Seconds to the end of the job: what is left to harvest and to train, each at its pace."""
        tokens = self._to_harvest - self._harvested
        harvesting = self._harvest_pace.seconds_for(tokens) if tokens else 0.0
        training = self._train_pace.seconds_for(self.params.steps - self.trainer.step)
        return None if harvesting is None or training is None else harvesting + training

    def _obey(self) -> None:
        """Carry out what was asked since the last batch.

        Raises:
            Halted: it was to end. What was asked after that is refused when the run finishes.
        """
        self.checkpoints.tend(self.params)
        while (change := self.steering.due(self.trainer.step)) is not None:
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
            self.steering.change(instruction.id, values)
        except Refused as refused:
            self.run.rejected(instruction, str(refused))
        else:
            self._take_up(values)
            self.run.applied(instruction, self._said(values), self.trainer.step)

    def _repeat(self, change: AppliedChange) -> None:
        """Make a change again that an earlier attempt made after as many steps."""
        try:
            self.steering.repeat(change.id, change.values)
        except Refused as refused:
            self.run.notify(f"a change that was made before cannot be made again: {refused}", "warning")
        else:
            self._take_up(change.values)

    def _take_up(self, values: Mapping[str, ParameterValue]) -> None:
        self.trainer.reconfigure(values)
        self.run.log(self._said(values))

    def _said(self, values: Mapping[str, ParameterValue]) -> str:
        told = (f"{name} {f'{value:g}' if isinstance(value, float) else value}" for name, value in values.items())
        return f"{', '.join(told)} from step {self.trainer.step + 1}"

    def _answer_with_validation(self, instruction: Validate) -> None:
        if (measured := self._validate()) is None:
            self.run.rejected(instruction, "the held-out tokens are not harvested yet; ask again once it trains")
        else:
            said = f"held-out fvu {measured.fvu:.4f} at l0 {measured.l0:.1f}"
            self.run.applied(instruction, f"{said} after step {self.trainer.step}", self.trainer.step)

    def _validate(self) -> Evaluation | None:
        """Measure on the held-out tokens, unless this very state was; None before they are harvested."""
        if self._held_out_ND is None:
            return None
        if self._measured is None or self._measured[0] != self._moment:
            measured = evaluate(self.trainer.sae, self._held_out_ND, self.params.batch_size)
            self._measured = (self._moment, measured)
            values = {"fvu": measured.fvu, "explained_variance": measured.explained_variance, "l0": measured.l0}
            self.run.metrics(self.trainer.step, {f"val_{name}": value for name, value in values.items()})
            self.run.log(f"step {self.trainer.step}  held-out fvu {measured.fvu:.4f}  l0 {measured.l0:.1f}")
            # What was measured is no training.
            self._train_pace.start()
        return self._measured[1]

    @property
    def _moment(self) -> Moment:
        return Moment(self.trainer.step, self.steering.count)

    def _save(self, reason: Reason, command: Instruction | None = None) -> None:
        """Have a checkpoint written beside training; it is announced, and ``command`` answered, once it is on disk."""
        self._check_finite()
        self.checkpoints.save(self._moment, partial(self._state, "step"), self.params, reason, command)

    def _save_and_wait(self, reason: Reason) -> str:
        """Write a checkpoint, announce it, return its name."""
        self._check_finite()
        return self.checkpoints.save_and_wait(self._moment, partial(self._state, "step"), self.params, reason)

    def _state(self, kind: Kind) -> CheckpointState:
        """All that continuing from here needs."""
        measured = self._measured[1] if self._measured and self._measured[0] == self._moment else None
        loss = self.trainer.last_loss
        return CheckpointState(
            step=self.trainer.step,
            saes=(self.trainer.state(),),
            loss=loss if loss is not None and math.isfinite(loss) else None,
            held_out_loss=measured.fvu if measured and math.isfinite(measured.fvu) else None,
            run={
                "position": self.buffer.position.to_json(),
                "dataset_bytes": self.inputs.documents.size_bytes,
                "elapsed_s": time.monotonic() - self._began,
                "steering": self.steering.to_json(),
                "trackers": dict(self.run.tracker_runs),
            },
            params=self._asked.model_dump(mode="json"),
            kind=kind,
        )

    def _export(self) -> dict[str, float]:
        """Measure on the held-out tokens, write the artifacts, return the results."""
        trainer, dead = self.trainer, self.trainer.dead_count
        results: dict[str, float] = {
            "dead_share": dead / trainer.config.d_sae,
            "alive_features": trainer.config.d_sae - dead,
            "steps": trainer.step,
            "tokens": trainer.tokens_trained,
        }
        if trainer.last_loss is not None:
            results["train_loss"] = trainer.last_loss
        if (measured := self._validate()) is not None:
            results |= {
                "fvu": measured.fvu,
                "explained_variance": measured.explained_variance,
                "l0": measured.l0,
                "held_out_tokens": measured.tokens,
                "held_out_features": measured.fired,
            }
        results["wall_time_s"] = round(time.monotonic() - self._began, 3)
        folder = self.run.artifacts
        write_weights(trainer.sae, folder / "sae.safetensors")
        write_json(sparsify_config(trainer.config, self._provenance()), folder / "cfg.json")
        write_json({**results, **self._provenance()}, folder / "metrics.json")
        for name, kind in (("sae.safetensors", "sae"), ("cfg.json", "config"), ("metrics.json", "metrics")):
            path = folder / name
            self.run.emit(
                ArtifactSaved, path=name, kind=kind, size_bytes=path.stat().st_size, digest=f"sha256:{sha256_of(path)}"
            )
            self.run.log(f"artifact {path} saved")
        return results

    def _provenance(self) -> dict[str, object]:
        return {
            "model": self.inputs.source.reference,
            "hookpoint": self.params.hookpoint,
            "dataset": self.inputs.documents.name,
            "seed": self.params.seed,
            "saeforge_version": __version__,
        }

    def _summary(self) -> dict[str, str | int | float | bool | None]:
        config, source = self.trainer.config, self.inputs.source
        [hookpoint] = source.hookpoints
        return {
            "model": source.reference,
            "architecture": type(source.config).__name__.removesuffix("Config"),
            "hookpoint": hookpoint.name
            if hookpoint.name == hookpoint.place
            else f"{hookpoint.name} ({hookpoint.place})",
            "dataset": self.inputs.documents.name,
            "dataset_bytes": self.inputs.documents.size_bytes,
            "tokenizer": type(source.tokenizer).__name__,
            "vocabulary": len(source.tokenizer),
            "training_tokens": f"{self.params.steps * self.params.batch_size:,}"
            + (f" ({self.buffer.tokens:,} distinct)" if self.buffer.repeats else ""),
            "held_out_tokens": self.params.held_out_tokens,
            "d_in": config.d_in,
            "d_sae": config.d_sae,
            "k": config.k,
            "steps": config.steps,
            "batch_size": self.params.batch_size,
            "optimizer": config.optimizer,
            "lr": self.trainer.peak_lr,
            "seed": config.seed,
            "device": _device_name(self.inputs.device),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "saeforge": __version__,
        }


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


def _result_line(results: dict[str, float]) -> str:
    return (
        f"done: held-out fvu {results['fvu']:.4f} at l0 {results['l0']:.1f}, dead share {results['dead_share']:.2%}, "
        f"{results['alive_features']:.0f} features alive, {_duration(results['wall_time_s'])}"
    )
