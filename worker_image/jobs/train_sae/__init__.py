"""The ``train_sae`` job: harvest activations, train the autoencoder on them, leave it as artifacts."""

import time

import torch

from worker_image.contract.jobs import TrainSaeParams
from worker_image.jobs.halted import Halted
from worker_image.jobs.train_sae.inputs import check_inputs, load
from worker_image.jobs.train_sae.run_state import RunState
from worker_image.jobs.train_sae.training import Training
from worker_image.reporter import RunContext
from worker_image.sae.checkpoint import CheckpointState
from worker_image.trackers.tracked_run import TrackedBefore, TrackedRun


def main(params: TrainSaeParams, run: RunContext) -> None:
    """Run the job to its end, or to the pause or stop it is told.

    Raises:
        UserError: the parameters or inputs cannot work.
    """
    began = time.monotonic()
    inputs = check_inputs(params, run)
    with TrackedRun(run, params, continues(inputs.checkpoint)) as tracked:
        _train(Training(params, tracked, inputs, load(params, inputs), began))


def continues(checkpoint: CheckpointState | None) -> TrackedBefore:
    """The trackers' runs that the checkpoint's training was part of."""
    if checkpoint is None:
        return TrackedBefore()
    return TrackedBefore(RunState.of(checkpoint).trackers, checkpoint.step)


def _train(training: Training) -> None:
    training.announce()
    try:
        try:
            training.execute()
        except Halted as halt:
            training.halt(halt.instruction)
    except torch.cuda.OutOfMemoryError as error:
        _keep(training)
        raise training.need.lacking(
            "batch_size",
            f"what is done beside training at step {training.step} (measuring held-out tokens, exporting)",
            "lower batch_size or expansion_factor, or share the GPU with fewer jobs",
        ) from error
    except Exception:
        _keep(training)
        raise
    finally:
        training.close()


def _keep(training: Training) -> None:
    """Save what was learned: it is worth more than the seconds it takes."""
    try:
        training.checkpoints.settle(training.params)
        training.keep()
    except Exception as error:
        # What ended the training is what is told.
        training.run.log(f"no checkpoint could be written of step {training.step}: {error}", "warning")
