"""The ``sae_features`` job: what a trained autoencoder's latents react to, in a file that is read by latent."""

from worker_image.contract.sae_features import SaeFeaturesParams
from worker_image.jobs.halted import Halted
from worker_image.jobs.looking import halt
from worker_image.jobs.sae_features.finding import Finding
from worker_image.jobs.trained import open_trained
from worker_image.reporter import RunContext


def main(params: SaeFeaturesParams, run: RunContext) -> None:
    """Run the job to its end, or to the pause or stop it is told. Paused, it goes on.

    Raises:
        UserError: the parameters or inputs cannot work.
    """
    finding = Finding(params, run, open_trained(params, run))
    try:
        finding.execute()
    except Halted as halted:
        halt(run, halted.instruction, finding.bookmarks, finding.bookmark())
