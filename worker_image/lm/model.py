"""Loading a language model: from a directory, or by hub id where there is a network. Weights are safetensors only."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from worker_image.errors import UserError
from worker_image.lm.hookpoints import Hookpoint, resolve_hookpoint

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@dataclass(frozen=True)
class ModelSource:
    """Where a language model comes from, checked as far as is possible without reading weights."""

    reference: str
    """Absolute path or hub id."""
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    hookpoints: tuple[Hookpoint, ...]
    """In the order they were asked for."""

    @property
    def longest(self) -> int | None:
        """Most tokens the model reads at once, when it says."""
        limits = [getattr(self.config.get_text_config(), "max_position_embeddings", None)]
        # Tokenizers without a limit of their own say so with an absurdly large one.
        limits += [self.tokenizer.model_max_length] if self.tokenizer.model_max_length < 10**9 else []
        return min((limit for limit in limits if limit), default=None)


def find_model(reference: str, hookpoints: Iterable[str], *, network: bool) -> ModelSource:
    """Read configuration and tokenizer, and find the hookpoints in the model's skeleton. Takes seconds at most.

    Raises:
        UserError: the model cannot be had, or lacks one of the hookpoints.
    """
    local = Path(reference).is_absolute()
    if local:
        _check_directory(Path(reference))
    elif not network:
        raise UserError(
            "model",
            f"{reference!r} is not on this machine and the job has no network",
            "name a local model or allow network",
        )
    try:
        config = AutoConfig.from_pretrained(reference, local_files_only=local)
        tokenizer = AutoTokenizer.from_pretrained(reference, local_files_only=local)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(
            "model", f"{reference} cannot be loaded: {_first_line(error)}", "name a complete Hugging Face model"
        ) from error
    try:
        with torch.device("meta"):
            skeleton = AutoModel.from_config(config)
    except (ValueError, KeyError, ImportError) as error:
        raise UserError(
            "model", f"{reference} is of a kind that cannot be built: {_first_line(error)}", "name another model"
        ) from error
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    found = tuple(resolve_hookpoint(skeleton, hookpoint, layers) for hookpoint in hookpoints)
    if len({hookpoint.place for hookpoint in found}) < len(found):
        raise UserError("hookpoint", "two hookpoints are the same place in the model", "name each place once")
    return ModelSource(reference, config, tokenizer, found)


def load_model(source: ModelSource, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The model with its weights, ready to be read from.

    Raises:
        UserError: the weights are missing or damaged.
    """
    return load_as(AutoModel, source, dtype, device)[0]


def load_as(
    kind: type[AutoModel] | type[AutoModelForCausalLM] | type[AutoModelForMaskedLM],
    source: ModelSource,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[PreTrainedModel, set[str]]:
    """The model as one of ``transformers``' kinds, and names of the weights that its files lack.

    Raises:
        UserError: the weights are missing or damaged.
    """
    try:
        loaded: Any = kind.from_pretrained(
            source.reference,
            local_files_only=Path(source.reference).is_absolute(),
            use_safetensors=True,
            dtype=dtype,
            output_loading_info=True,
        )
        model, loading = loaded
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            "model",
            f"the weights of {source.reference} cannot be loaded: {_first_line(error)}",
            "fetch the model again",
        ) from error
    # transformers fills what the file lacks with random numbers; a head may be missing, a model may not.
    if len(loading["missing_keys"]) > len(model.state_dict()) / 2:
        raise UserError(
            "model",
            f"the weights of {source.reference} belong to another architecture than its config.json describes",
            "fetch the model again",
        )
    return model.to(device).eval().requires_grad_(False), set(loading["missing_keys"])


def _check_directory(path: Path) -> None:
    try:
        files = {file.name for file in path.iterdir()}
        needed = [path / name for name in files if name.endswith((".json", ".safetensors"))]
        # As in a Hugging Face cache, whose blobs lie beside the directory: a container is given the directory alone.
        if any(file.is_symlink() and not file.exists() for file in needed):
            raise UserError(
                "model",
                f"{path} holds links to files outside the directory, which are not there",
                "copy the model with its files (cp -rL)",
            )
        for file in needed:
            file.open("rb").close()
    except FileNotFoundError:
        raise UserError(
            "model", f"there is no model directory at {path}", "put the model there or name another"
        ) from None
    except NotADirectoryError:
        raise UserError("model", f"{path} is not a directory", "name the directory that holds config.json") from None
    except OSError as error:
        raise UserError(
            "model",
            f"{error.filename} cannot be read: {error.strerror}",
            "make it readable for the user that jobs run as: chmod -R a+rX on the model directory",
        ) from None
    if "config.json" not in files:
        raise UserError("model", f"{path} holds no config.json", "name a directory saved by save_pretrained")
    if not any(name.endswith(".safetensors") for name in files):
        pickled = ", only pickled ones, which are never loaded" if any(n.endswith(".bin") for n in files) else ""
        raise UserError("model", f"{path} holds no *.safetensors weights{pickled}", "save the model as safetensors")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
