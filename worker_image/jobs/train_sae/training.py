"""The loop: harvesting and training alternate, obeying commands at every batch."""

import platform
import time

import torch
import transformers
from torch import Tensor

from worker_image import __version__
from worker_image.contract.commands import CheckpointNow, Pause, SetLearningRate, Stop
from worker_image.contract.events import ArtifactSaved, CheckpointRemoved, CheckpointSaved, Progress, Started
from worker_image.contract.jobs import TrainSaeParams
from worker_image.errors import OutOfGpuMemory, UserError
from worker_image.jobs.train_sae.inputs import Inputs, Loaded
from worker_image.lm.harvest import Harvester
from worker_image.lm.tokens import Sequence
from worker_image.pace import Pace
from worker_image.reporter import Instruction, RunContext, Terminated
from worker_image.sae.checkpoint import (
    CheckpointCorrupt,
    SavedCheckpoint,
    retain_newest,
    save_checkpoint,
    verify_checkpoint,
)
from worker_image.sae.export import sparsify_config, write_json, write_weights
from worker_image.sae.files import sha256_of
from worker_image.sae.metrics import evaluate
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
        self.params = params
        self.run = run
        self.inputs = inputs
        self.buffer = inputs.buffer
        self.trainer = loaded.trainer
        self._harvester: Harvester | None = loaded.harvester
        self._planned: list[Sequence] | None = inputs.first_generation
        self._held_out_ND: Tensor | None = None
        earlier = inputs.checkpoint.data["elapsed_s"] if inputs.checkpoint else 0.0
        self._began = began - float(earlier)
        self._saved: tuple[tuple[int, float], SavedCheckpoint] | None = None
        self._harvested = 0
        self._to_harvest = self.params.held_out_tokens + self.buffer.left_to_harvest
        self._harvest_pace = Pace()
        self._train_pace = Pace()

    def announce(self) -> None:
        """Say what is about to happen, to people and to the machine."""
        summary = self._summary()
        width = max(len(name) for name in summary)
        self.run.log("\n".join(f"{name.replace('_', ' '):<{width}}  {value}" for name, value in summary.items()))
        if self.inputs.checkpoint:
            self.run.log(f"continuing from {self.run.resume_from} at step {self.trainer.step}")
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
            every = self.params.checkpoint_every_steps
            if every and self.trainer.step % every == 0 and self.trainer.step < self.params.steps:
                self._save("interval")
            self._obey()
        self._save("final")
        results = self._export()
        self.run.log(_result_line(results), "success")
        self.run.finish("completed", results=results)

    def halt(self, instruction: Pause | Stop | Terminated) -> None:
        """End early, losing nothing."""
        results: dict[str, float] = {}
        if isinstance(instruction, Pause):
            name = self._save("pause")
            self.run.applied(instruction, f"paused at step {self.trainer.step}; {name} is saved")
            self.run.log(f"paused at step {self.trainer.step}")
            self.run.finish("paused")
            return
        name = self._save("stop")
        if isinstance(instruction, Stop):
            if self.trainer.step:
                results = self._export()
            else:
                self.run.notify("stopped before the first step: there is nothing to export", "warning")
        self.run.applied(instruction, f"stopped at step {self.trainer.step}; {name} is saved")
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
        """No checkpoint is written, and no more time spent, on weights that are lost."""
        loss = self.trainer.last_loss
        if loss is not None and loss - loss != 0:
            raise UserError(
                "lr",
                f"the loss is no longer finite at step {self.trainer.step}",
                f"lower lr (it is {self.trainer.peak_lr:g}) or set grad_clip, e.g. to 1",
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
        instructions = self.run.poll()
        for position, instruction in enumerate(instructions):
            match instruction:
                case SetLearningRate(lr=lr):
                    self.trainer.peak_lr = lr
                    self.run.log(f"peak learning rate is {lr:g} from step {self.trainer.step + 1}")
                    self.run.applied(instruction, f"peak learning rate {lr:g} from step {self.trainer.step + 1}")
                case CheckpointNow():
                    name = self._save("command")
                    self.run.applied(instruction, f"{name} is saved")
                case Pause() | Stop() | Terminated():
                    self._refuse(instructions[position + 1 :], "the job is ending")
                    raise Halted(instruction)

    def _refuse(self, instructions: list[Instruction], reason: str) -> None:
        for instruction in instructions:
            self.run.rejected(instruction, reason)

    def _save(self, reason: str) -> str:
        """Write a checkpoint, announce it, delete those beyond ``keep_checkpoints``; return its name."""
        self._check_finite()
        saved = self._checkpoint()
        self.run.emit(
            CheckpointSaved,
            name=saved.path.name,
            step=self.trainer.step,
            loss=self.trainer.last_loss,
            size_bytes=saved.size_bytes,
            digest=saved.digest,
            reason=reason,
        )
        self.run.log(f"checkpoint {saved.path.name} saved ({saved.size_bytes / 1e6:.1f} MB, {reason})")
        for name in retain_newest(self.run.checkpoints, self.params.keep_checkpoints):
            self.run.emit(CheckpointRemoved, name=name)
        return saved.path.name

    def _checkpoint(self) -> SavedCheckpoint:
        """The checkpoint of this very state: the one already on disk if it is intact, else a new one."""
        state = self.trainer.state()
        # Between two steps nothing else that training depends on can change.
        moment = (state.step, state.peak_lr)
        if self._saved and self._saved[0] == moment and _intact(self._saved[1]):
            return self._saved[1]
        data: dict[str, object] = {
            "position": self.buffer.position.to_json(),
            "dataset_bytes": self.inputs.documents.size_bytes,
            "elapsed_s": time.monotonic() - self._began,
        }
        saved = save_checkpoint(self.run.checkpoints, state, data, self.params.model_dump(mode="json"))
        self._saved = (moment, saved)
        return saved

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
        if self._held_out_ND is not None:
            measured = evaluate(trainer.sae, self._held_out_ND, self.params.batch_size)
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


def _intact(saved: SavedCheckpoint) -> bool:
    try:
        verify_checkpoint(saved.path)
    except CheckpointCorrupt:
        return False
    return True


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
