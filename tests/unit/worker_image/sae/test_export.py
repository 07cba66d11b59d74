"""The exported layout is sparsify's."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from worker_image.sae.config import SaeConfig
from worker_image.sae.export import sparsify_config, write_json, write_weights
from worker_image.sae.families import build_sae

CONFIG = SaeConfig(d_in=4, d_sae=12, k=2)


def test_weights_bear_sparsifys_names_and_shapes(tmp_path: Path) -> None:
    write_weights(build_sae(CONFIG), tmp_path / "sae.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(tmp_path / "sae.safetensors").items()}
    assert shapes == {"encoder.weight": (12, 4), "encoder.bias": (12,), "W_dec": (12, 4), "b_dec": (4,)}


def test_the_exported_weights_reconstruct_as_the_model_does(tmp_path: Path) -> None:
    sae = build_sae(CONFIG)
    torch.nn.init.normal_(sae.b_dec_E)
    write_weights(sae, tmp_path / "sae.safetensors")
    loaded = load_file(tmp_path / "sae.safetensors")
    x = torch.randn(5, 4)
    pre = torch.relu((x - loaded["b_dec"]) @ loaded["encoder.weight"].T + loaded["encoder.bias"])
    top, idx = pre.topk(2)
    x_hat = torch.zeros(5, 12).scatter(1, idx, top) @ loaded["W_dec"] + loaded["b_dec"]
    torch.testing.assert_close(sae(x).y_hat_BE, x_hat)


def test_the_config_has_every_field_sparsify_reads() -> None:
    config = sparsify_config(CONFIG, {"seed": 3})
    wanted = {"activation": "topk", "expansion_factor": 3, "normalize_decoder": True, "num_latents": 12, "k": 2}
    wanted |= {"multi_topk": False, "skip_connection": False, "transcode": False, "d_in": 4}
    assert config == wanted | {"saeforge": {"seed": 3}}


def test_nothing_temporary_is_left(tmp_path: Path) -> None:
    write_json({"fvu": 0.1}, tmp_path / "metrics.json")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"fvu": 0.1}
