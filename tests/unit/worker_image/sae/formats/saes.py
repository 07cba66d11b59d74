"""Small autoencoders of every family and wiring, with weights that leave nothing at zero or of length 1 by chance."""

from collections.abc import Iterator

import torch
from torch import Tensor

from worker_image.sae.formats.deployed import DeployedSae, Family, Wiring

D, E, F, K = 6, 5, 16, 3
FAMILIES: tuple[Family, ...] = ("standard", "topk", "batch_topk", "matryoshka", "jumprelu", "gated")


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some_sae(
    family: Family, wiring: Wiring = "autoencoder", skip: bool = False, d_out: int = D, multi_topk: bool = False
) -> DeployedSae:
    """An autoencoder of this kind, the same every time."""
    biases = {"b_enc_F": drawn(F, seed=3) / 2}
    if family == "gated":
        biases = {name: drawn(F, seed=4 + place) / 2 for place, name in enumerate(("b_gate_F", "b_mag_F", "r_mag_F"))}
    thresholds = {"jumprelu": drawn(F, seed=7).abs(), "batch_topk": torch.tensor(0.7), "matryoshka": torch.tensor(0.4)}
    return DeployedSae(
        family=family,
        wiring=wiring,
        W_enc_FD=drawn(F, D, seed=0),
        W_dec_FE=drawn(F, d_out, seed=1),
        b_dec_E=drawn(d_out, seed=2),
        threshold=thresholds.get(family),
        W_skip_ED=drawn(d_out, D, seed=8) if skip else None,
        k=K if family in ("topk", "batch_topk", "matryoshka") else None,
        multi_topk=multi_topk,
        group_sizes=(2, 4, 10) if family == "matryoshka" else (),
        **biases,
    )


def every_sae() -> Iterator[tuple[str, DeployedSae]]:
    """Every family in every wiring, each with a name fit for a folder."""
    for family in FAMILIES:
        yield family, some_sae(family)
        yield f"{family}_skip", some_sae(family, skip=True)
        yield f"{family}_crosscoder", some_sae(family, "crosscoder")
        for d_out in (D, E):
            yield f"{family}_transcoder_{d_out}", some_sae(family, "transcoder", d_out=d_out)
            yield f"{family}_skip_transcoder_{d_out}", some_sae(family, "transcoder", skip=True, d_out=d_out)
    yield "multi_topk", some_sae("topk", multi_topk=True)
