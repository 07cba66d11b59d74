"""The ``harvest_activations`` job: fill the activation cache, and tell what is in it."""

from worker_image.contract.harvest_activations import HarvestActivationsParams
from worker_image.device import choose_device
from worker_image.errors import UserError
from worker_image.jobs.activations import cache_of, open_activations
from worker_image.jobs.halted import Halted
from worker_image.jobs.harvest_activations.harvesting import Harvesting
from worker_image.reporter import RunContext


def main(params: HarvestActivationsParams, run: RunContext) -> None:
    """Run the job to its end, or to the pause or stop it is told. What is in the cache is its checkpoint.

    Raises:
        UserError: the parameters or inputs cannot work.
    """
    device = choose_device(params.device, run.gpus, run.gpu_memory_mb)
    cache = cache_of(params, run)
    if cache is None:
        raise UserError(
            "cache", "this orchestrator keeps no activation cache", "set SAEFORGE_ACTIVATION_CACHE_MB above 0"
        )
    activations = open_activations(params, run, params.hookpoints, device)
    harvesting = Harvesting(params, run, activations, cache)
    try:
        harvesting.announce()
        harvesting.execute()
    except Halted as halt:
        harvesting.halt(halt.instruction)
    finally:
        harvesting.close()
