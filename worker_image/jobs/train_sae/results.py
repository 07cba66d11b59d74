"""What a training leaves: measurements on held-out tokens, and the autoencoders as artifacts."""

from worker_image.contract.jobs import TrainSaeParams
from worker_image.jobs.train_sae.artifacts import write_artifacts
from worker_image.jobs.train_sae.inputs import Inputs
from worker_image.jobs.train_sae.learner import Learner
from worker_image.jobs.train_sae.summary import duration
from worker_image.reporter import RunContext
from worker_image.sae.evaluation import Evaluation
from worker_image.sae.normalisation import Scaling

Results = dict[str, float]


def export(
    params: TrainSaeParams,
    run: RunContext,
    inputs: Inputs,
    learners: list[Learner],
    scaling: Scaling | None,
    measured: list[Evaluation] | None,
    deployed: list[Evaluation] | None,
    wall_time_s: float,
) -> Results:
    """Write every autoencoder's artifacts and announce them; return the results of all.

    ``scaling``: what was done to activations before training. ``measured``: on held-out tokens; None when the run
    ended before it had any. ``deployed``: the same as each is used after training, with its calibrated threshold in
    place of a ranking within the batch.

    One alone lies in ``artifacts/``, several each in ``artifacts/sae_<index>/``; their results are named by index too,
    ``fvu/2``, and without one stands the mean.
    """
    results = []
    for index, learner in enumerate(learners):
        found = _results(learner, measured[index] if measured else None) | {"wall_time_s": round(wall_time_s, 3)}
        if deployed:
            found |= {"deployed_fvu": deployed[index].fvu, "deployed_l0": deployed[index].l0}
        results.append(found)
        folder = run.artifacts if len(learners) == 1 else run.artifacts / f"sae_{index}"
        write_artifacts(params, run, inputs, learner, scaling, found, folder)
    return joined(results)


def result_lines(learners: list[Learner], results: Results) -> list[str]:
    """What came out, a line for each autoencoder."""
    lines = []
    for index, learner in enumerate(learners):
        ending = f"/{index}" if len(learners) > 1 else ""
        lines.append(
            f"done: {learner.label + ': ' if learner.label else ''}held-out fvu {results['fvu' + ending]:.4f} at l0 "
            f"{results['l0' + ending]:.1f}, deployed {results['deployed_fvu' + ending]:.4f} at "
            f"{results['deployed_l0' + ending]:.1f}, dead share {results['dead_share' + ending]:.2%}, "
            f"{results['alive_latents' + ending]:.0f} latents alive, {duration(results['wall_time_s'])}"
        )
    return lines


def joined(found: list[dict[str, float]]) -> dict[str, float]:
    """Measurements of all learners as one: each by its number, ``fvu/2``, and without one their mean; one alone as it
    is."""
    if len(found) == 1:
        return found[0]
    means = {}
    for name in sorted({name for values in found for name in values}):
        known = [values[name] for values in found if name in values]
        means[name] = sum(known) / len(known)
    return means | {f"{name}/{index}": value for index, values in enumerate(found) for name, value in values.items()}


def _results(learner: Learner, measured: Evaluation | None) -> Results:
    trainer, dead = learner.trainer, learner.trainer.dead_count
    found: Results = {
        "dead_share": dead / trainer.config.d_sae,
        "alive_latents": trainer.config.d_sae - dead,
        "steps": trainer.step,
        "tokens": trainer.tokens_trained,
    }
    if measured is not None:
        # Training saw more tokens than were held out, so its dead are the dead.
        found = measured.values() | {"held_out_tokens": measured.tokens, "held_out_latents": measured.fired} | found
    if trainer.last_loss is not None:
        found["train_loss"] = trainer.last_loss
    return found
