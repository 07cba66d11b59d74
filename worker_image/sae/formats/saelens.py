"""The layout of SAELens (6): ``sae_weights.safetensors`` and ``cfg.json``.

BatchTopK and Matryoshka, which need a batch to choose from, are stored there as JumpReLU with one threshold for all, as
SAELens itself does. Its transcoders know ReLU and JumpReLU; a skip connection exists there on transcoders alone, so an
autoencoder with one is written as a transcoder to the place it reads, with what its encoder subtracts in its bias.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from worker_image.sae.files import write_json
from worker_image.sae.formats.deployed import DeployedSae
from worker_image.sae.formats.native import described, restored
from worker_image.sae.formats.provenance import Provenance
from worker_image.sae.formats.refusals import CannotExpress, Unreadable
from worker_image.sae.formats.stored import read_json, read_tensors, write_tensors

NAME = "saelens"
_WEIGHTS, _CONFIG = "sae_weights.safetensors", "cfg.json"

_LAYOUT_VERSION = "6.54.12"
"""The SAELens that this was tested against; it converts configurations that say less than 6."""

_HOOK_NAMES = {
    r"layers\.(\d+)": r"blocks.\1.hook_resid_post",
    r"layers\.(\d+):in": r"blocks.\1.hook_resid_pre",
    r"layers\.(\d+)\.attn": r"blocks.\1.hook_attn_out",
    r"layers\.(\d+)\.mlp": r"blocks.\1.hook_mlp_out",
}
"""Places that TransformerLens, whose hooks SAELens uses, has a name for."""


def write(sae: DeployedSae, folder: Path, provenance: Provenance) -> None:
    """Write ``sae`` into ``folder``.

    Raises:
        CannotExpress: it is a TopK or gated transcoder, or has a skip connection and is one of these.
    """
    architecture = _architecture(sae)
    transcodes = "transcoder" in architecture
    stored = sae.as_read_by_a_transcoder() if transcodes else sae
    tensors = {
        "W_enc": stored.W_enc_FD.T,
        "W_dec": stored.W_dec_FE,
        "b_dec": stored.b_dec_E,
        "b_enc": stored.b_enc_F,
        "b_gate": stored.b_gate_F,
        "b_mag": stored.b_mag_F,
        "r_mag": stored.r_mag_F,
        "threshold": None if stored.threshold is None else stored.threshold.expand(sae.d_sae),
        "W_skip": stored.W_skip_ED,
    }
    write_tensors({name: value for name, value in tensors.items() if value is not None}, folder / _WEIGHTS)
    config: dict[str, object] = {
        "architecture": architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": not transcodes,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": _metadata(sae, provenance),
    }
    if architecture == "topk":
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    if transcodes:
        config["d_out"] = sae.d_out
    write_json(config, folder / _CONFIG)


def read(folder: Path) -> tuple[DeployedSae, Provenance]:
    """What SAELens' ``save_model``, ``save_inference_model`` or ``write`` wrote.

    Raises:
        Unreadable: a file is missing, or it is of a kind that cannot be had here.
    """
    config = read_json(folder / _CONFIG)
    metadata = config.get("metadata", {})
    ours = metadata.get("saeforge", {})
    tensors = read_tensors(folder / _WEIGHTS)
    _check_inputs(config, folder)
    try:
        sae = _sae(config, tensors)
        if ours:
            sae = _as_described(sae, ours)
    except KeyError as error:
        raise Unreadable(f"{folder} is not a whole autoencoder of SAELens: {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise Unreadable(f"{folder} does not hold what its cfg.json says: {error}") from error
    if ours:
        return sae, Provenance.from_json(ours.get("provenance", {}))
    told = config | metadata  # before version 6 they stood side by side
    return sae, Provenance(
        model=told.get("model_name") or "",
        hookpoint=told.get("hook_name") or "",
        dataset=told.get("dataset_path") or "",
        context_length=told.get("context_size"),
        prepend_bos=told.get("prepend_bos"),
        training=metadata.get("training_architecture_details") or {},
    )


def _architecture(sae: DeployedSae) -> str:
    family = {"batch_topk": "jumprelu", "matryoshka": "jumprelu"}.get(sae.family, sae.family)
    if sae.centred and sae.W_skip_ED is None:
        return family
    if family not in ("standard", "jumprelu"):
        kind = "transcoders" if not sae.centred else "autoencoders with a skip connection"
        raise CannotExpress(f"SAELens has no {sae.family} {kind}", f"export to {sae.fits} instead")
    parts = [*(["jumprelu"] if family == "jumprelu" else []), *(["skip"] if sae.W_skip_ED is not None else [])]
    return "_".join([*parts, "transcoder"])


def _metadata(sae: DeployedSae, provenance: Provenance) -> dict[str, object]:
    return {
        "sae_lens_version": _LAYOUT_VERSION,
        "sae_lens_training_version": None,
        "model_name": provenance.model,
        "hook_name": hook_name(provenance.hookpoint),
        "hook_name_out": hook_name(provenance.target_hookpoint) if provenance.target_hookpoint else None,
        "hook_head_index": None,
        "context_size": provenance.context_length,
        "prepend_bos": provenance.prepend_bos,
        "dataset_path": provenance.dataset,
        "training_architecture": sae.family,
        "training_architecture_details": dict(provenance.training),
        "saeforge": described(sae) | {"provenance": provenance.to_json()},
    }


def hook_name(hookpoint: str) -> str:
    """TransformerLens' name of a place, or ``hookpoint`` where it has none."""
    for pattern, name in _HOOK_NAMES.items():
        if re.fullmatch(pattern, hookpoint):
            return re.sub(pattern, name, hookpoint)
    return hookpoint


def _check_inputs(config: Mapping[str, Any], folder: Path) -> None:
    """Raises Unreadable: the autoencoder does not read raw activations, which all of ours do."""
    normalised = config.get("normalize_activations") or "none"
    if normalised == "expected_average_only_in":
        raise Unreadable(
            f"{folder} reads activations scaled by a factor that its files do not hold",
            "call fold_activation_norm_scaling_factor on it in SAELens, and save it again",
        )
    if normalised != "none":
        raise Unreadable(f"{folder} normalises every token by itself ({normalised}), which there is not here")
    if config.get("finetuning_scaling_factor"):
        raise Unreadable(f"{folder} has a finetuning_scaling_factor, which there is not here")


def _sae(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> DeployedSae:
    """Raises KeyError: a tensor is missing. ValueError: the architecture is unknown, or they do not fit together."""
    # Before version 6 TopK was a standard autoencoder with another activation function.
    before_6 = config.get("activation_fn_str", config.get("activation_fn")) == "topk"
    architecture = "topk" if before_6 else config.get("architecture", "standard")
    transcodes = "transcoder" in architecture
    if (tensors["W_enc"].shape[0], tensors["W_enc"].shape[1]) != (config["d_in"], config["d_sae"]):
        raise ValueError(f"W_enc has shape {tuple(tensors['W_enc'].shape)}")
    if architecture == "standard" and (more := tensors.keys() - {"W_enc", "W_dec", "b_enc", "b_dec"}):
        raise ValueError(f"a standard autoencoder has no {' and no '.join(sorted(more))}")
    weights: dict[str, Any] = {
        "W_enc_FD": tensors["W_enc"].T.contiguous(),
        "W_dec_FE": tensors["W_dec"],
        "b_dec_E": tensors["b_dec"],
        "wiring": "autoencoder" if not transcodes and config.get("apply_b_dec_to_input", True) else "transcoder",
    }
    match architecture:
        case "gated":
            weights |= {"b_gate_F": tensors["b_gate"], "b_mag_F": tensors["b_mag"], "r_mag_F": tensors["r_mag"]}
            sae = DeployedSae(family="gated", **weights)
        case "topk":
            k = int(config["activation_fn_kwargs"]["k"] if before_6 else config["k"])
            sae = DeployedSae(family="topk", b_enc_F=tensors["b_enc"], k=k, **weights)
            if config.get("rescale_acts_by_decoder_norm", False):
                sae = _with_norms_folded(sae)
        case "standard" | "transcoder" | "skip_transcoder":
            sae = DeployedSae(family="standard", b_enc_F=tensors["b_enc"], W_skip_ED=tensors.get("W_skip"), **weights)
        case "jumprelu" | "jumprelu_transcoder" | "jumprelu_skip_transcoder":
            sae = DeployedSae(
                family="jumprelu",
                b_enc_F=tensors["b_enc"],
                threshold=tensors["threshold"],
                W_skip_ED=tensors.get("W_skip"),
                **weights,
            )
        case _:
            raise ValueError(f"there is no architecture {architecture!r} here")
    return sae if transcodes else sae.as_read_by_an_autoencoder()


def _with_norms_folded(sae: DeployedSae) -> DeployedSae:
    """Latents in units of their decoder row, among which this TopK chooses, with the rows at length 1."""
    assert sae.b_enc_F is not None
    norm_F = sae.W_dec_FE.norm(dim=1).clamp_min(1e-8)
    return DeployedSae(
        family=sae.family,
        W_enc_FD=sae.W_enc_FD * norm_F[:, None],
        b_enc_F=sae.b_enc_F * norm_F,
        W_dec_FE=sae.W_dec_FE / norm_F[:, None],
        b_dec_E=sae.b_dec_E,
        wiring=sae.wiring,
        k=sae.k,
    )


def _as_described(sae: DeployedSae, ours: Mapping[str, Any]) -> DeployedSae:
    """``sae`` as the one that ``write`` was given: SAELens' architecture says less of it than we noted."""
    threshold = sae.threshold
    if ours["family"] in ("batch_topk", "matryoshka") and threshold is not None:
        threshold = threshold[0]
    centred = sae if ours["wiring"] == "transcoder" else sae.as_read_by_an_autoencoder(ours["wiring"])
    arguments: dict[str, Any] = {**dict(centred.tensors()), "threshold": threshold, **restored(ours)}
    return DeployedSae(**arguments)
