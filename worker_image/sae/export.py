"""Export in the layout of EleutherAI's sparsify: ``sae.safetensors`` beside ``cfg.json``."""

import json
from pathlib import Path

from safetensors.torch import save_file

from worker_image.sae.config import SaeConfig
from worker_image.sae.files import sync_directory, sync_file
from worker_image.sae.model import Sae


def write_weights(sae: Sae, path: Path) -> None:
    """Weights under sparsify's names; both matrices are (F, D) there too."""
    tensors = {
        "encoder.weight": sae.encoder_FD,
        "encoder.bias": sae.b_enc_F,
        "W_dec": sae.W_dec_FE,
        "b_dec": sae.b_dec_E,
    }
    draft = path.with_name(f".{path.name}.draft")
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, draft)
    _settle(draft, path)


def sparsify_config(config: SaeConfig, provenance: dict[str, object]) -> dict[str, object]:
    """What sparsify reads, and where the SAE comes from under a key that it ignores."""
    return {
        "activation": "topk",
        "expansion_factor": config.d_sae // config.d_in,
        "normalize_decoder": True,
        "num_latents": config.d_sae,
        "k": config.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": config.d_in,
        "saeforge": provenance,
    }


def write_json(content: dict[str, object], path: Path) -> None:
    """A JSON file that is whole or not there."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(content, indent=2) + "\n")
    _settle(draft, path)


def _settle(draft: Path, path: Path) -> None:
    sync_file(draft)
    draft.rename(path)
    sync_directory(path.parent)
