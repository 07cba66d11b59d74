"""Losses and gradients of another library's trainers, in float64, under our names for weights.

``lose.py LIBRARY FILE`` writes, for each case, ``<case>/x``, ``<case>/weight/<ours>``, ``<case>/dead`` (indices),
``<case>/loss/<term>`` and ``<case>/gradient/<term>/<ours>``.
"""

import sys

import torch
from safetensors.torch import save_file

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
LIBRARY, FILE = sys.argv[1:]
D, F, K, B = 6, 24, 2, 8
found = {}


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randomise(module):
    for seed, parameter in enumerate(module.parameters()):
        parameter.data = drawn(*parameter.shape, seed=seed) / 2
    return module


X = drawn(B, D, seed=100)


def tell(case, terms, weights, x=X, dead=None):
    """``weights``: our name -> (the library's tensor, whether it lies the other way round)."""
    found[f"{case}/x"] = x
    found[f"{case}/dead"] = torch.zeros(0, dtype=torch.int64) if dead is None else dead.nonzero().squeeze(1)
    for name, (tensor, turned) in weights.items():
        found[f"{case}/weight/{name}"] = tensor.T if turned else tensor
    for term, loss in terms.items():
        found[f"{case}/loss/{term}"] = loss
        gradients = torch.autograd.grad(
            loss, [tensor for tensor, _ in weights.values()], retain_graph=True, allow_unused=True
        )
        for (name, (tensor, turned)), gradient in zip(weights.items(), gradients, strict=True):
            gradient = torch.zeros_like(tensor) if gradient is None else gradient
            found[f"{case}/gradient/{term}/{name}"] = gradient.T if turned else gradient


def silent(fired, least):
    """Latents that no token of the batch activates, to be taken for dead."""
    dead = ~fired
    assert dead.sum() >= least, "the case has too few silent latents"
    return dead


def sparsify():
    from sparsify import SparseCoder, SparseCoderConfig

    for case, options in {
        "topk": {},
        "multi_topk": {"multi_topk": True},
        "skip_transcoder": {"transcode": True, "skip_connection": True},
    }.items():
        sae = randomise(SparseCoder(D, SparseCoderConfig(num_latents=F, k=K, **options), dtype=torch.float64))
        weights = {
            "W_enc_FD": (sae.encoder.weight, False),
            "b_enc_F": (sae.encoder.bias, False),
            "W_dec_FE": (sae.W_dec, False),
            "b_dec_E": (sae.b_dec, False),
        }
        if sae.W_skip is not None:
            weights["W_skip_ED"] = (sae.W_skip, False)
        y = drawn(B, D, seed=101) if sae.cfg.transcode else X
        fired = torch.zeros(F, dtype=torch.bool)
        fired[sae.encode(X).top_indices.flatten()] = True
        dead = silent(fired, 1)
        out = sae(X, y, dead_mask=dead)
        terms = {"fvu": out.fvu, "auxk": out.auxk_loss}
        if sae.cfg.multi_topk:
            terms["multi"] = out.multi_topk_fvu
        tell(case, terms, weights, dead=dead)
        found[f"{case}/y"] = y


def dictionary_learning():
    from dictionary_learning.trainers import batch_top_k, gdm, jumprelu, matryoshka_batch_top_k, standard, top_k

    common = {
        "steps": 10, "activation_dim": D, "dict_size": F, "layer": 0, "lm_name": "", "device": "cpu",
        "warmup_steps": 0,
    }  # fmt: skip
    for case, made in {
        "topk": lambda: top_k.TopKTrainer(k=K, **common),
        "batch_topk": lambda: batch_top_k.BatchTopKTrainer(k=K, **common),
        "matryoshka": lambda: matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer(
            k=K, group_fractions=[0.25, 0.25, 0.5], group_weights=[1.0] * 3, **common
        ),
    }.items():
        trainer = made()
        sae = randomise(trainer.ae)
        if case == "matryoshka":
            weights = {"W_enc_FD": (sae.W_enc, True), "b_enc_F": (sae.b_enc, False), "W_dec_FE": (sae.W_dec, False)}
        else:
            encoder = sae.encoder
            weights = {"W_enc_FD": (encoder.weight, False), "b_enc_F": (encoder.bias, False)}
            weights["W_dec_FE"] = (sae.decoder.weight, True)
        weights["b_dec_E"] = (sae.b_dec, False)
        fired = (sae.encode(X, use_threshold=False) > 0).any(0)
        trainer.auxk_alpha = 0.0
        terms = {"reconstruction": trainer.loss(X, step=0)}
        dead = silent(fired, trainer.top_k_aux)
        trainer.num_tokens_since_fired = torch.where(dead, trainer.dead_feature_threshold, 0)
        trainer.auxk_alpha = 1.0
        terms["auxk"] = trainer.loss(X, step=0) - terms["reconstruction"]
        tell(case, terms, weights, dead=dead)

    common |= {"sparsity_warmup_steps": None}
    for case, trainer in {
        "standard": standard.StandardTrainer(l1_penalty=0.3, **common),
        "standard_april": standard.StandardTrainerAprilUpdate(l1_penalty=0.3, **common),
        "gated": gdm.GatedSAETrainer(l1_penalty=0.3, **common),
    }.items():
        sae = randomise(trainer.ae)
        weights = {"W_enc_FD": (sae.encoder.weight, False), "W_dec_FE": (sae.decoder.weight, True)}
        if case == "gated":
            weights |= {"b_enc_F": (sae.gate_bias, False), "b_mag_F": (sae.mag_bias, False)}
            weights |= {"r_mag_F": (sae.r_mag, False), "b_dec_E": (sae.decoder_bias, False)}
        else:
            weights |= {"b_enc_F": (sae.encoder.bias, False), "b_dec_E": (sae.bias, False)}
        tell(case, {"total": trainer.loss(X, step=5)}, weights)

    trainer = jumprelu.JumpReluTrainer(bandwidth=0.3, target_l0=3.0, sparsity_penalty=0.0, **common)
    sae = randomise(trainer.ae)
    sae.threshold.data.abs_()
    sae.b_dec.data.zero_()  # what its encoder does not subtract
    weights = {"W_enc_FD": (sae.W_enc, True), "b_enc_F": (sae.b_enc, False), "W_dec_FE": (sae.W_dec, False)}
    weights |= {"threshold_F": (sae.threshold, False)}
    tell("jumprelu", {"reconstruction": trainer.loss(X, step=5)}, weights)


def saelens():
    import sae_lens as lens
    from sae_lens.saes.sae import TrainStepInput

    common = {"d_in": D, "d_sae": F, "dtype": "float64"}
    counted = {"k": K, "rescale_acts_by_decoder_norm": False}
    nested = {"matryoshka_widths": [6, 12, F]}
    tanh = {"jumprelu_sparsity_loss_mode": "tanh", "jumprelu_bandwidth": 0.3, "pre_act_loss_coefficient": 3e-6}
    for case, sae in {
        "standard_april": lens.StandardTrainingSAE(lens.StandardTrainingSAEConfig(**common)),
        "topk": lens.TopKTrainingSAE(lens.TopKTrainingSAEConfig(**common, **counted)),
        "batch_topk": lens.BatchTopKTrainingSAE(lens.BatchTopKTrainingSAEConfig(**common, **counted)),
        "matryoshka": lens.MatryoshkaBatchTopKTrainingSAE(
            lens.MatryoshkaBatchTopKTrainingSAEConfig(**common, **counted, **nested)
        ),
        "jumprelu_tanh": lens.JumpReLUTrainingSAE(lens.JumpReLUTrainingSAEConfig(**common, **tanh)),
    }.items():
        randomise(sae)
        weights = {"W_enc_FD": (sae.W_enc, True), "b_enc_F": (sae.b_enc, False)}
        weights |= {"W_dec_FE": (sae.W_dec, False), "b_dec_E": (sae.b_dec, False)}
        if case == "jumprelu_tanh":
            sae.threshold.data = sae.threshold.data.abs().double()
            weights["threshold_F"] = (sae.threshold, False)
        dead = torch.arange(F) < 3
        if "topk" in case or case == "matryoshka":
            dead = silent((sae.encode(X) > 0).any(0), 1)
        step = TrainStepInput(
            sae_in=X, coefficients={"l1": 1.0, "l0": 1.0}, dead_neuron_mask=dead, n_training_steps=0,
            is_logging_step=False,
        )  # fmt: skip
        losses = sae.training_forward_pass(step).losses
        inner = [loss for name, loss in losses.items() if name.startswith("inner_mse_loss")]
        terms = {name: loss for name, loss in losses.items() if not name.startswith("inner_mse_loss")}
        terms["mse_loss"] = terms["mse_loss"] + sum(inner)
        terms.pop("auxiliary_reconstruction_loss" if case == "matryoshka" else "", None)
        tell(case, terms, weights, dead=dead)


{"sparsify": sparsify, "dictionary_learning": dictionary_learning, "saelens": saelens}[LIBRARY]()
save_file({name: value.detach().contiguous().clone() for name, value in found.items()}, FILE)
