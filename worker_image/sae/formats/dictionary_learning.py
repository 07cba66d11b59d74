"""The layout of dictionary_learning (0.1): ``ae.pt``, a pickle, and ``config.json`` in a folder named ``trainer_<i>``.

The pickle is written for that library and read only as a dictionary of tensors (``weights_only=True``), which runs
nothing that it holds. The library has autoencoders alone. Its JumpReLU's encoder does not subtract ``b_dec``, so what
that did is in the encoder's bias. Loading an ``AutoEncoder`` with its ``normalize_decoder=True``, the default there,
scales latents by the lengths of the decoder's rows; reconstructions stay.
"""

import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from worker_image.sae.config import Family
from worker_image.sae.files import draft_of, settle, write_json
from worker_image.sae.formats.deployed import DeployedSae
from worker_image.sae.formats.native import described, restored
from worker_image.sae.formats.provenance import Provenance
from worker_image.sae.formats.refusals import CannotExpress, Unreadable
from worker_image.sae.formats.stored import read_json

NAME = "dictionary_learning"
_WEIGHTS, _CONFIG = "ae.pt", "config.json"

_CLASSES: Mapping[Family, tuple[str, str]] = {
    "topk": ("AutoEncoderTopK", "TopKTrainer"),
    "batch_topk": ("BatchTopKSAE", "BatchTopKTrainer"),
    "matryoshka": ("MatryoshkaBatchTopKSAE", "MatryoshkaBatchTopKTrainer"),
    "jumprelu": ("JumpReluAutoEncoder", "JumpReluTrainer"),
    "gated": ("GatedAutoEncoder", "GatedSAETrainer"),
    "standard": ("AutoEncoder", "StandardTrainer"),
}


def write(sae: DeployedSae, folder: Path, provenance: Provenance) -> None:
    """Write ``sae`` into ``folder``.

    Raises:
        CannotExpress: it is a transcoder or has a skip connection.
    """
    if not sae.centred:
        raise CannotExpress("dictionary_learning has no transcoders", f"export to {sae.fits} instead")
    if sae.W_skip_ED is not None:
        raise CannotExpress("dictionary_learning has no skip connections", f"export to {sae.fits} instead")
    folder.mkdir(parents=True, exist_ok=True)
    draft = draft_of(folder / _WEIGHTS)
    torch.save({name: value.detach().cpu().contiguous().clone() for name, value in _tensors(sae).items()}, draft)
    settle(draft, folder / _WEIGHTS)
    dict_class, trainer_class = _CLASSES[sae.family]
    trainer: dict[str, object] = {
        "trainer_class": trainer_class,
        "dict_class": dict_class,
        "lr": provenance.training.get("lr"),
        "steps": provenance.training.get("steps"),
        "seed": provenance.training.get("seed"),
        "activation_dim": sae.d_in,
        "dict_size": sae.d_sae,
        "device": "cpu",
        "layer": provenance.layer if provenance.layer is not None else -1,
        "lm_name": provenance.model,
        "submodule_name": provenance.hookpoint,
        "wandb_name": trainer_class,
    }
    if sae.k is not None:
        trainer["k"] = sae.k
    if sae.group_sizes:
        trainer["group_sizes"] = list(sae.group_sizes)
    buffer = {"d_submodule": sae.d_in, "io": "out", "ctx_len": provenance.context_length}
    ours = described(sae) | {"provenance": provenance.to_json()}
    write_json({"trainer": trainer, "buffer": buffer, "saeforge": ours}, folder / _CONFIG)


def read(folder: Path) -> tuple[DeployedSae, Provenance]:
    """What dictionary_learning's ``trainSAE`` or ``write`` wrote.

    Raises:
        Unreadable: a file is missing, holds more than tensors, or is of a kind that cannot be had here.
    """
    config = read_json(folder / _CONFIG)
    trainer = config.get("trainer", {})
    ours = config.get("saeforge", {})
    tensors = _read_pickle(folder / _WEIGHTS)
    try:
        sae = _sae(trainer["dict_class"], trainer, tensors)
        if ours:
            sae = replace(sae, **restored(ours))
    except KeyError as error:
        raise Unreadable(f"{folder} is not a whole autoencoder of dictionary_learning: {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise Unreadable(f"{folder} does not hold what its config.json says: {error}") from error
    if "provenance" in ours:
        return sae, Provenance.from_json(ours["provenance"])
    return sae, Provenance(
        model=trainer.get("lm_name") or "",
        hookpoint=trainer.get("submodule_name") or f"layers.{trainer.get('layer', 0)}",
        context_length=config.get("buffer", {}).get("ctx_len"),
        training={name: trainer[name] for name in ("trainer_class", "lr", "steps", "seed") if name in trainer},
    )


def _tensors(sae: DeployedSae) -> dict[str, Tensor]:
    """The state that the library's class of this family has."""
    counted = {"k": torch.tensor(sae.k or 0, dtype=torch.int32), "threshold": torch.tensor(-1.0)}
    if sae.threshold is not None:
        counted["threshold"] = sae.threshold
    match sae.family:
        case "topk" | "batch_topk":
            return {
                **counted,
                "b_dec": sae.b_dec_E,
                "encoder.weight": sae.W_enc_FD,
                "encoder.bias": _there(sae.b_enc_F),
                "decoder.weight": sae.W_dec_FE.T,
            }
        case "matryoshka":
            return {
                **counted,
                "group_sizes": torch.tensor(sae.group_sizes or (sae.d_sae,)),
                "W_enc": sae.W_enc_FD.T,
                "b_enc": _there(sae.b_enc_F),
                "W_dec": sae.W_dec_FE,
                "b_dec": sae.b_dec_E,
            }
        case "jumprelu":
            uncentred = sae.as_read_by_a_transcoder()
            return {
                "W_enc": uncentred.W_enc_FD.T,
                "b_enc": _there(uncentred.b_enc_F),
                "W_dec": uncentred.W_dec_FE,
                "b_dec": uncentred.b_dec_E,
                "threshold": _there(uncentred.threshold),
            }
        case "gated":
            return {
                "decoder_bias": sae.b_dec_E,
                "encoder.weight": sae.W_enc_FD,
                "r_mag": _there(sae.r_mag_F),
                "gate_bias": _there(sae.b_gate_F),
                "mag_bias": _there(sae.b_mag_F),
                "decoder.weight": sae.W_dec_FE.T,
            }
        case "standard":
            return {
                "bias": sae.b_dec_E,
                "encoder.weight": sae.W_enc_FD,
                "encoder.bias": _there(sae.b_enc_F),
                "decoder.weight": sae.W_dec_FE.T,
            }


def _sae(dict_class: str, trainer: Mapping[str, object], tensors: Mapping[str, Tensor]) -> DeployedSae:
    """Raises KeyError: a tensor is missing. ValueError: the class is unknown, or the tensors do not fit together."""
    match dict_class:
        case "AutoEncoderTopK" | "BatchTopKSAE":
            batch = dict_class == "BatchTopKSAE"
            return DeployedSae(
                family="batch_topk" if batch else "topk",
                W_enc_FD=tensors["encoder.weight"],
                b_enc_F=tensors["encoder.bias"],
                W_dec_FE=tensors["decoder.weight"].T.contiguous(),
                b_dec_E=tensors["b_dec"],
                # Unset it is -1 there, which lets every latent above 0 pass.
                threshold=tensors["threshold"].clamp_min(0) if batch else None,
                k=int(tensors["k"] if "k" in tensors else str(trainer["k"])),
            )
        case "MatryoshkaBatchTopKSAE":
            return DeployedSae(
                family="matryoshka",
                W_enc_FD=tensors["W_enc"].T.contiguous(),
                b_enc_F=tensors["b_enc"],
                W_dec_FE=tensors["W_dec"],
                b_dec_E=tensors["b_dec"],
                threshold=tensors["threshold"].clamp_min(0),
                k=int(tensors["k"]),
                group_sizes=tuple(int(size) for size in tensors["group_sizes"]),
            )
        case "JumpReluAutoEncoder":
            return DeployedSae(
                family="jumprelu",
                W_enc_FD=tensors["W_enc"].T.contiguous(),
                b_enc_F=tensors["b_enc"],
                W_dec_FE=tensors["W_dec"],
                b_dec_E=tensors["b_dec"],
                threshold=tensors["threshold"],
                wiring="transcoder",
            ).as_read_by_an_autoencoder()
        case "GatedAutoEncoder":
            return DeployedSae(
                family="gated",
                W_enc_FD=tensors["encoder.weight"],
                W_dec_FE=tensors["decoder.weight"].T.contiguous(),
                b_dec_E=tensors["decoder_bias"],
                b_gate_F=tensors["gate_bias"],
                b_mag_F=tensors["mag_bias"],
                r_mag_F=tensors["r_mag"],
            )
        case "AutoEncoder":
            return DeployedSae(
                family="standard",
                W_enc_FD=tensors["encoder.weight"],
                b_enc_F=tensors["encoder.bias"],
                W_dec_FE=tensors["decoder.weight"].T.contiguous(),
                b_dec_E=tensors["bias"],
            )
        case "AutoEncoderNew":
            return DeployedSae(
                family="standard",
                W_enc_FD=tensors["encoder.weight"],
                b_enc_F=tensors["encoder.bias"],
                W_dec_FE=tensors["decoder.weight"].T.contiguous(),
                b_dec_E=tensors["decoder.bias"],
                wiring="transcoder",
            ).as_read_by_an_autoencoder()
    raise ValueError(f"there is no {dict_class} here")


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise Unreadable(
            f"{path} is not a dictionary of tensors: {str(error).splitlines()[0] if str(error) else 'it is empty'}",
            "save its state_dict alone",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise Unreadable(f"{path} is not a dictionary of tensors", "save its state_dict alone")
    return {str(name): value.float() if value.is_floating_point() else value for name, value in state.items()}


def _there(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor
