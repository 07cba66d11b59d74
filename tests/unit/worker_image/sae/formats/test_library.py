"""Every layout gives back what it was given, says what it cannot express, and is told from the others."""

import json
import pickle
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests.unit.worker_image.sae.formats.saes import D, every_sae, some_sae
from worker_image.sae.formats import native
from worker_image.sae.formats.deployed import DeployedSae, Family, Wiring
from worker_image.sae.formats.library import LAYOUTS, layout_of, read_sae
from worker_image.sae.formats.provenance import Provenance
from worker_image.sae.formats.refusals import CannotExpress, Unreadable

PROVENANCE = Provenance(
    model="m", hookpoint="layers.3", dataset="d", context_length=128, prepend_bos=True, training={"lr": 0.1, "steps": 7}
)
SAES = dict(every_sae())


def same(one: DeployedSae, other: DeployedSae) -> None:
    """Equal but for what moving a bias from one side of the encoder to the other rounds away."""
    assert native.described(one) == native.described(other)
    values, others = dict(one.tensors()), dict(other.tensors())
    assert values.keys() == others.keys()
    for name, value in values.items():
        torch.testing.assert_close(value, others[name], rtol=1e-6, atol=1e-6, msg=lambda text: f"{name}: {text}")  # noqa: B023


EXPRESSED = {"saeforge": len(SAES), "saelens": 6 + 6 + 4 + 4 * 4 + 1, "sparsify": 6, "dictionary_learning": 13}
"""How many of them each layout can express."""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_exported_and_imported_is_what_it_was(layout: str, tmp_path: Path) -> None:
    expressed = 0
    for name, sae in SAES.items():
        with suppress(CannotExpress):
            LAYOUTS[layout].write(sae, tmp_path / name, PROVENANCE)
            read, provenance = read_sae(tmp_path / name)
            same(read, sae)
            assert provenance == PROVENANCE
            assert layout_of(tmp_path / name).name == layout
            expressed += 1
    assert expressed == EXPRESSED[layout]


@pytest.mark.parametrize("name", SAES)
def test_our_own_layout_expresses_everything_bit_for_bit(name: str, tmp_path: Path) -> None:
    native.write(SAES[name], tmp_path, PROVENANCE)
    sae, _ = native.read(tmp_path)
    assert all(torch.equal(value, dict(SAES[name].tensors())[key]) for key, value in sae.tensors())


@pytest.mark.parametrize(
    ("layout", "family", "wiring", "skip", "d_out"),
    [
        ("saelens", "topk", "transcoder", False, D),
        ("saelens", "topk", "autoencoder", True, D),
        ("saelens", "gated", "transcoder", False, D),
        ("sparsify", "batch_topk", "autoencoder", False, D),
        ("sparsify", "topk", "transcoder", False, D - 1),
        ("dictionary_learning", "standard", "transcoder", False, D),
        ("dictionary_learning", "topk", "autoencoder", True, D),
    ],
)
def test_what_a_layout_cannot_say_is_refused_with_advice(
    layout: str, family: Family, wiring: Wiring, skip: bool, d_out: int, tmp_path: Path
) -> None:
    with pytest.raises(CannotExpress) as refused:
        LAYOUTS[layout].write(some_sae(family, wiring, skip, d_out), tmp_path, PROVENANCE)
    assert refused.value.field == "export_formats"
    assert refused.value.suggestion is not None
    assert "export to" in refused.value.suggestion
    assert not any(tmp_path.iterdir())


def test_an_advised_layout_can_express_what_the_other_could_not(tmp_path: Path) -> None:
    for number, (name, sae) in enumerate(SAES.items()):
        for layout in LAYOUTS.values():
            try:
                layout.write(sae, tmp_path / f"{number}{layout.name}", PROVENANCE)
            except CannotExpress as refused:
                advised = [other for other in LAYOUTS.values() if other.name in (refused.suggestion or "")]
                for other in advised:
                    other.write(sae, tmp_path / f"{number}{layout.name}advised{other.name}", PROVENANCE)
                assert advised, name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_temporary_is_left(layout: str, tmp_path: Path) -> None:
    LAYOUTS[layout].write(some_sae("topk"), tmp_path, PROVENANCE)
    assert len([path for path in tmp_path.iterdir() if not path.name.startswith(".")]) == 2
    assert not list(tmp_path.glob(".*"))


def test_a_pickle_that_holds_more_than_tensors_is_not_run(tmp_path: Path) -> None:
    LAYOUTS["dictionary_learning"].write(some_sae("topk"), tmp_path, PROVENANCE)

    class Opens:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(tmp_path / "run"), "w")

    (tmp_path / "ae.pt").write_bytes(pickle.dumps(Opens(), protocol=2))
    with pytest.raises(Unreadable, match="not a dictionary of tensors"):
        read_sae(tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("hurt", [b"", b"{}", b"[]", b'{"trainer": 3}', b"not json", b'{"architecture": "temporal"}'])
def test_a_config_that_says_something_else_is_named(layout: str, hurt: bytes, tmp_path: Path) -> None:
    LAYOUTS[layout].write(some_sae("batch_topk" if layout != "sparsify" else "topk"), tmp_path, PROVENANCE)
    [config] = tmp_path.glob("*.json")
    config.write_bytes(hurt)
    with pytest.raises(Unreadable, match=str(tmp_path)):
        LAYOUTS[layout].read(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cut_short_weights_are_named(layout: str, tmp_path: Path) -> None:
    LAYOUTS[layout].write(some_sae("topk"), tmp_path, PROVENANCE)
    [weights] = [path for path in tmp_path.iterdir() if path.suffix != ".json"]
    weights.write_bytes(weights.read_bytes()[:40])
    with pytest.raises(Unreadable, match=str(weights)):
        LAYOUTS[layout].read(tmp_path)


def test_a_folder_without_an_autoencoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="holds no autoencoder"):
        layout_of(tmp_path)


def test_activations_that_saelens_would_have_scaled_are_not_taken_as_raw(tmp_path: Path) -> None:
    LAYOUTS["saelens"].write(some_sae("topk"), tmp_path, PROVENANCE)
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"normalize_activations": "expected_average_only_in"}))
    with pytest.raises(Unreadable, match="scaled by a factor"):
        read_sae(tmp_path)


def test_topk_of_saelens_before_version_6_is_read(tmp_path: Path) -> None:
    sae = some_sae("topk")
    LAYOUTS["saelens"].write(sae, tmp_path, PROVENANCE)
    before = {
        "architecture": "standard", "d_in": D, "d_sae": sae.d_sae, "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": sae.k}, "apply_b_dec_to_input": True, "normalize_activations": "none",
        "model_name": "gpt2", "hook_name": "blocks.3.hook_resid_pre", "context_size": 64, "prepend_bos": True,
    }  # fmt: skip
    (tmp_path / "cfg.json").write_text(json.dumps(before))
    read, provenance = read_sae(tmp_path)
    same(read, sae)
    assert (provenance.model, provenance.context_length) == ("gpt2", 64)


def test_saelens_is_told_where_to_hook_in_its_own_words(tmp_path: Path) -> None:
    for hookpoint, name in {
        "layers.3": "blocks.3.hook_resid_post",
        "layers.0:in": "blocks.0.hook_resid_pre",
        "layers.12.mlp": "blocks.12.hook_mlp_out",
        "layers.2.attn": "blocks.2.hook_attn_out",
        "encoder.layer.3.output": "encoder.layer.3.output",
    }.items():
        LAYOUTS["saelens"].write(some_sae("topk"), tmp_path, Provenance(hookpoint=hookpoint))
        assert json.loads((tmp_path / "cfg.json").read_text())["metadata"]["hook_name"] == name


def test_the_layer_is_read_off_the_hookpoint() -> None:
    layers = {"layers.3": 3, "encoder.layer.12.attention": 12, "h.0:in": 0, "model.norm": None, "": None}
    assert {name: Provenance(hookpoint=name).layer for name in layers} == layers


def test_weights_in_half_precision_are_read_in_full(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    LAYOUTS["sparsify"].write(some_sae("topk"), tmp_path, PROVENANCE)
    path = tmp_path / "sae.safetensors"
    save_file({name: value.bfloat16() for name, value in load_file(path).items()}, path)
    sae, _ = read_sae(tmp_path)
    assert {value.dtype for _, value in sae.tensors()} == {torch.float32}
    assert torch.equal(sae.W_dec_FE, some_sae("topk").W_dec_FE.bfloat16().float())
