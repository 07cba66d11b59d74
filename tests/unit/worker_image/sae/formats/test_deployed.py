"""What an autoencoder computes does not depend on where its scales and biases are kept."""

from dataclasses import replace

import pytest
import torch

from tests.unit.worker_image.sae.formats.saes import FAMILIES, D, E, drawn, some_sae
from worker_image.sae.formats.deployed import DeployedSae, Family
from worker_image.sae.normalisation import Affine

X_BD = drawn(32, D, seed=11)


def test_a_hand_worked_autoencoder() -> None:
    sae = DeployedSae(
        family="standard",
        W_enc_FD=torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]),
        b_enc_F=torch.tensor([0.0, -1.0, 0.0]),
        W_dec_FE=torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]),
        b_dec_E=torch.tensor([1.0, 1.0]),
    )
    x_BD = torch.tensor([[3.0, 2.0]])  # less b_dec: (2, 1)
    assert sae.encode(x_BD).tolist() == [[2.0, 1.0, 0.0]]
    assert sae.decode(sae.encode(x_BD), x_BD).tolist() == [[3.0, 2.0]]
    skipping = replace(sae, W_skip_ED=torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    assert skipping.decode(sae.encode(x_BD), x_BD).tolist() == [[5.0, 2.0]]


def test_each_family_chooses_its_own_latents() -> None:
    eye, zero = torch.eye(3), torch.zeros(3)
    weights = {"W_enc_FD": eye, "W_dec_FE": eye, "b_dec_E": zero}
    x_BD = torch.tensor([[-1.0, 2.0, 0.5]])

    def latents(family: Family, **others: object) -> list[float]:
        return DeployedSae(family=family, **weights, **others).encode(x_BD)[0].tolist()  # type: ignore[arg-type]

    assert latents("standard", b_enc_F=zero) == [0, 2, 0.5]
    assert latents("topk", b_enc_F=zero, k=1) == [0, 2, 0]
    assert latents("topk", b_enc_F=zero, k=3) == [0, 2, 0.5]
    assert latents("batch_topk", b_enc_F=zero, threshold=torch.tensor(0.6)) == [0, 2, 0]
    assert latents("jumprelu", b_enc_F=zero, threshold=torch.tensor([0.0, 2.0, 0.4])) == [0, 0, 0.5]
    gates = {"b_gate_F": torch.tensor([2.0, -3.0, 0.0]), "b_mag_F": torch.tensor([3.0, 0.0, 1.0]), "r_mag_F": zero}
    assert latents("gated", **gates) == [2, 0, 1.5]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("skip", [False, True])
def test_an_encoder_that_subtracts_nothing_computes_the_same(family: Family, skip: bool) -> None:
    sae = some_sae(family, skip=skip)
    raw = sae.as_read_by_a_transcoder()
    assert not raw.centred
    torch.testing.assert_close(raw.encode(X_BD), sae.encode(X_BD), rtol=1e-5, atol=1e-5)
    latents_BF = sae.encode(X_BD)
    torch.testing.assert_close(raw.decode(latents_BF, X_BD), sae.decode(latents_BF, X_BD))
    torch.testing.assert_close(raw.as_read_by_an_autoencoder().encode(X_BD), latents_BF, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("transcodes", [False, True])
def test_folding_a_normalisation_changes_neither_latents_nor_reconstruction(
    family: Family, skip: bool, transcodes: bool
) -> None:
    sae = some_sae(family, "transcoder" if transcodes else "autoencoder", skip, E if transcodes else D)
    of_input = Affine(drawn(D, seed=12).exp(), drawn(D, seed=13))
    of_output = Affine(drawn(E, seed=14).exp(), drawn(E, seed=15)) if transcodes else of_input
    normalised_BD = (X_BD - of_input.mean_W) * of_input.scale_W
    latents_BF = sae.encode(normalised_BD)
    y_BE = sae.decode(latents_BF, normalised_BD) / of_output.scale_W + of_output.mean_W
    folded = sae.reading_raw(of_input, of_output)
    assert latents_BF.count_nonzero()
    torch.testing.assert_close(folded.encode(X_BD), latents_BF, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(folded.decode(latents_BF, X_BD), y_BE, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"W_dec_FE": torch.zeros(15, D)},
        {"b_dec_E": torch.zeros(E)},
        {"W_dec_FE": torch.zeros(16, E), "b_dec_E": torch.zeros(E)},
        {"b_enc_F": None},
        {"threshold": None},
        {"threshold": torch.zeros(16)},
        {"group_sizes": (1, 2)},
    ],
)
def test_weights_that_do_not_fit_together_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"shapes|entries|groups"):
        replace(some_sae("batch_topk"), **wrong)  # type: ignore[arg-type]
