"""The layout of EleutherAI's sparsify (1.3): ``sae.safetensors`` and ``cfg.json`` in a folder named by the hookpoint.

It knows TopK, plain or with a skip connection or as a transcoder, whose output is as wide as its input. The skip
connection reads raw activations; the encoder reads ``x - b_dec`` unless it transcodes.
"""

from pathlib import Path

import torch

from worker_image.sae.files import write_json
from worker_image.sae.formats.deployed import DeployedSae
from worker_image.sae.formats.native import described, restored
from worker_image.sae.formats.provenance import Provenance
from worker_image.sae.formats.refusals import CannotExpress, Unreadable
from worker_image.sae.formats.stored import read_json, read_tensors, write_tensors

NAME = "sparsify"
_WEIGHTS, _CONFIG = "sae.safetensors", "cfg.json"


def write(sae: DeployedSae, folder: Path, provenance: Provenance) -> None:
    """Write ``sae`` into ``folder``.

    Raises:
        CannotExpress: it is not TopK, or its output has another width than its input.
    """
    if sae.family != "topk":
        raise CannotExpress(f"sparsify has no {sae.family} autoencoders, only topk", f"export to {sae.fits} instead")
    if sae.d_in != sae.d_out:
        raise CannotExpress(
            f"sparsify's transcoders give as many entries as they read, not {sae.d_out} for {sae.d_in}",
            f"export to {sae.fits} instead",
        )
    tensors = {
        "encoder.weight": sae.W_enc_FD,
        "encoder.bias": sae.b_enc_F,
        "W_dec": sae.W_dec_FE,
        "b_dec": sae.b_dec_E,
        "W_skip": sae.W_skip_ED,
    }
    write_tensors({name: value for name, value in tensors.items() if value is not None}, folder / _WEIGHTS)
    unit_norm = torch.allclose(sae.W_dec_FE.norm(dim=1), torch.ones(sae.d_sae), atol=1e-4)
    config = {
        "activation": "topk",
        "expansion_factor": max(1, sae.d_sae // sae.d_in),
        "normalize_decoder": unit_norm,
        "num_latents": sae.d_sae,
        "k": sae.k,
        "multi_topk": sae.multi_topk,
        "skip_connection": sae.W_skip_ED is not None,
        "transcode": not sae.centred,
        "d_in": sae.d_in,
        "saeforge": described(sae) | {"provenance": provenance.to_json()},
    }
    write_json(config, folder / _CONFIG)


def read(folder: Path) -> tuple[DeployedSae, Provenance]:
    """What sparsify's ``save_to_disk`` or ``write`` wrote.

    Raises:
        Unreadable: a file is missing, or it is of a kind that cannot be had here.
    """
    config = read_json(folder / _CONFIG)
    if config.get("activation", "topk") != "topk":
        raise Unreadable(f"{folder} uses the activation {config['activation']!r}, which there is not here")
    tensors = read_tensors(folder / _WEIGHTS)
    ours = config.get("saeforge", {})
    try:
        told = {
            "family": "topk",
            "wiring": "transcoder" if config.get("transcode", False) else "autoencoder",
            "k": config["k"],
            "multi_topk": config.get("multi_topk", False),
        }
        sae = DeployedSae(
            W_enc_FD=tensors["encoder.weight"],
            b_enc_F=tensors["encoder.bias"],
            W_dec_FE=tensors["W_dec"],
            b_dec_E=tensors["b_dec"],
            W_skip_ED=tensors.get("W_skip"),
            **(restored(ours) if "family" in ours else told),
        )
    except KeyError as error:
        raise Unreadable(f"{folder} is not a whole autoencoder of sparsify: {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise Unreadable(f"{folder} does not hold what its cfg.json says: {error}") from error
    return sae, Provenance.from_json(ours.get("provenance", {"hookpoint": folder.name}))
