"""Where to compute."""

import torch

from worker_image.errors import GpuAbsent, UserError
from worker_image.memory import MIB


def choose_device(wanted: str, granted: int, memory_mb: int | None) -> torch.device:
    """Where to compute; of a GPU shared with other jobs no more than ``memory_mb`` MiB will be taken.

    Raises:
        GpuAbsent: a GPU was granted and cannot be used: on the CPU it would be held for nothing.
        UserError: one was asked for and none granted.
    """
    if wanted != "cpu" and granted and not torch.cuda.is_available():
        built = "" if torch.version.cuda else "; this PyTorch was built without CUDA"
        raise GpuAbsent(
            "device",
            f"{granted} GPU(s) were granted, and CUDA sees none here{built}",
            "check nvidia-smi, and that the worker's image was made for CUDA (make image); or train on the CPU: "
            "device cpu, resources.gpus 0",
        )
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device", "CUDA was asked for but no GPU is available", "set device to auto or cpu, or request a GPU"
        )
    use_cuda = wanted != "cpu" and torch.cuda.is_available()
    if use_cuda and memory_mb is not None:
        share = memory_mb * MIB / torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(share, 1.0), 0)
    return torch.device("cuda:0" if use_cuda else "cpu")
