"""Filling the cache, pass by pass of the language model, obeying commands in between."""

import json
import time
from contextlib import closing

import torch
from safetensors.torch import save
from torch import Tensor

from worker_image import __version__
from worker_image.contract.commands import Pause, Stop
from worker_image.contract.events import Progress, Started
from worker_image.contract.harvest_activations import HarvestActivationsParams
from worker_image.jobs.artifact import keep
from worker_image.jobs.halted import Halted
from worker_image.lm.activations import Activations
from worker_image.lm.cache import ActivationCache
from worker_image.lm.fill import Gained
from worker_image.pace import Pace
from worker_image.reporter import RunContext, Terminated

_PROGRESS_EVERY_S = 1.0
_LOG_EVERY_S = 5.0


class Harvesting:
    """The job and what it holds."""

    def __init__(
        self, params: HarvestActivationsParams, run: RunContext, activations: Activations, cache: ActivationCache
    ) -> None:
        self._params = params
        self._run = run
        self._activations = activations
        self._began = time.monotonic()
        wanted = params.max_tokens or activations.dataset.text_bytes
        self._held_out = activations.cached_part(cache, None)
        self._training = activations.cached_part(cache, wanted)
        self._expected = params.max_tokens or activations.estimated_tokens
        """Training tokens, as far as can be told before the dataset was read to its end."""
        self._before = self._held_out.held + self._training.held
        self._gained = 0
        """Since then, here and by jobs that were waited for."""
        self._harvested = 0
        self._pace = Pace()
        self._reported = self._logged = self._began
        self._told_of_waiting = False

    def announce(self) -> None:
        """Say what is about to happen, to people and to the machine."""
        source, reading = self._activations.source, self._activations.reading
        summary: dict[str, str | int | float | bool | None] = {
            "model": source.reference,
            "hookpoints": ", ".join(hookpoint.place for hookpoint in source.hookpoints),
            "dataset": self._activations.dataset.name,
            "dataset_bytes": self._activations.dataset.size_bytes,
            "context_length": reading.context_length,
            "dtype": reading.dtype,
            "tokens": self._params.max_tokens or f"all, about {self._expected:,}",
            "tokens_in_cache": self._training.held,
            "device": str(self._activations.device),
            "threads": torch.get_num_threads(),
            "saeforge": __version__,
        }
        width = max(len(name) for name in summary)
        self._run.log("\n".join(f"{name.replace('_', ' '):<{width}}  {value}" for name, value in summary.items()))
        self._run.emit(Started, device=str(self._activations.device), summary=summary)

    def execute(self) -> None:
        """Harvest what is missing, then tell what is there."""
        self._pace.start()
        for part in (self._held_out, self._training):
            with closing(part.fill(self._activations.harvester)) as filling:
                for gained in filling:
                    self._advance(gained)
        self._report(final=True)
        results = self._conclude()
        self._run.log(
            f"done: {self._training.held:,} tokens are in the cache, {results['size_bytes'] / 1e6:,.1f} MB", "success"
        )
        self._run.finish("completed", results=results)

    def halt(self, instruction: Pause | Stop | Terminated) -> None:
        """End early: what was harvested is in the cache."""
        detail = f"{self._training.held:,} tokens are in the cache"
        self._run.log(detail)
        self._run.applied(instruction, detail)
        if isinstance(instruction, Pause):
            self._run.finish("paused")
        else:
            results = self._conclude() if isinstance(instruction, Stop) and self._training.held else {}
            self._run.finish("stopped", results=results)

    def close(self) -> None:
        """Let the entries be evicted."""
        self._training.close()
        self._held_out.close()

    def _advance(self, gained: Gained) -> None:
        """So much more is there."""
        self._gained += gained.rows
        if gained.here:
            self._harvested += gained.rows
        elif not self._told_of_waiting:
            self._run.log("another job is harvesting these activations: waiting until it has as many or ends")
            self._told_of_waiting = True
        self._pace.advance(gained.rows)
        now = time.monotonic()
        if now - self._reported >= _PROGRESS_EVERY_S:
            self._report()
            self._reported = now
        if now - self._logged >= _LOG_EVERY_S:
            self._run.log(f"harvested {self._harvested:,} tokens  {self._pace.per_s or 0:,.0f} tok/s")
            self._logged = now
        self._obey()

    def _report(self, *, final: bool = False) -> None:
        if final:
            done = total = self._held_out.held + self._training.held
        else:
            done = self._before + self._gained
            total = max(done, self._held_out.rows + self._expected)
        rate = self._pace.per_s
        eta_s = 0.0 if final else self._pace.seconds_for(total - done)
        self._run.emit(
            Progress, phase="harvesting", done=done, total=total, unit="tokens", rate_per_s=rate, eta_s=eta_s
        )

    def _obey(self) -> None:
        """
        Raises:
            Halted: the job was told to end.
        """
        for instruction in self._run.poll():
            if isinstance(instruction, Pause | Stop | Terminated):
                raise Halted(instruction)
            self._run.rejected(instruction, "a harvest can be paused and stopped")

    def _conclude(self) -> dict[str, float]:
        """Tell what is in the cache; return the results."""
        statistics = {
            hookpoint.name: (entry, entry.statistics(self._training.held))
            for hookpoint, entry in self._training.entries.items()
        }
        described = {
            name: {"key": entry.recipe.key, "width": entry.width, "size_bytes": entry.size_bytes, **found.summary()}
            for name, (entry, found) in statistics.items()
        }
        size_bytes = sum(entry.size_bytes for entry, _ in statistics.values())
        results: dict[str, float] = {
            "tokens": self._training.held,
            "held_out_tokens": self._held_out.held,
            "harvested_tokens": self._harvested,
            "size_bytes": size_bytes,
            "width": sum(entry.width or 0 for entry, _ in statistics.values()),
            "wall_time_s": round(time.monotonic() - self._began, 3),
        }
        if len(statistics) == 1:
            [(_, found)] = statistics.values()
            results |= found.summary()
        report = {**results, "hookpoints": described, "saeforge_version": __version__}
        keep(self._run, "activations.json", "report", json.dumps(report, indent=2).encode() + b"\n")
        tensors: dict[str, Tensor] = {}
        for name, (_, found) in statistics.items():
            tensors |= {f"{name}.mean": found.mean_D, f"{name}.variance": found.variance_D}
        keep(self._run, "statistics.safetensors", "file", save(tensors))
        return results
