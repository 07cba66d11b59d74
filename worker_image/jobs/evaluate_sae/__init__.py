"""The ``evaluate_sae`` job: measure a trained autoencoder, and what the language model loses with it spliced in."""

from worker_image.contract.evaluate_sae import EvaluateSaeParams
from worker_image.jobs.evaluate_sae.evaluating import Evaluating
from worker_image.jobs.halted import Halted
from worker_image.jobs.looking import halt
from worker_image.jobs.trained import open_trained
from worker_image.reporter import RunContext


def main(params: EvaluateSaeParams, run: RunContext) -> None:
    """Run the job to its end, or to the pause or stop it is told. Paused, it goes on.

    Raises:
        UserError: the parameters or inputs cannot work.
    """
    evaluating = Evaluating(params, run, open_trained(params, run))
    try:
        evaluating.execute()
    except Halted as halted:
        halt(run, halted.instruction, evaluating.bookmarks, evaluating.bookmark())
