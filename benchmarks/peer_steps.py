"""One training step of each library that ours is compared with, as its own trainer makes it. Needs .peers.

Each trains TopK with Adam in float32 on whole batches; logging and progress bars are left out. ``sparsify``'s step is
written out from its ``Trainer.train``, which does not come apart from a language model.
"""

from collections.abc import Iterator

import torch
from dictionary_learning.trainers.top_k import TopKTrainer
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from sparsify import SparseCoder, SparseCoderConfig
from torch import Tensor

from benchmarks.step_data import Shape, Step

_LEARNING_RATE = 1e-4
_DEAD_AFTER_TOKENS = 10_000_000
_AUXK_ALPHA = 1 / 32


def sparsify_step(shape: Shape, sample_BD: Tensor) -> Step:
    """eai-sparsify with ``optimizer=adam`` and AuxK."""
    torch.manual_seed(0)
    coder = SparseCoder(shape.d_in, SparseCoderConfig(num_latents=shape.d_sae, k=shape.k))
    coder.b_dec.data = sample_BD.mean(0)
    adam = torch.optim.Adam(coder.parameters(), lr=_LEARNING_RATE)
    since_fired_F = torch.zeros(shape.d_sae, dtype=torch.long)

    def step(x_BD: Tensor) -> None:
        coder.set_decoder_norm_to_unit_norm()
        dead_F = since_fired_F > _DEAD_AFTER_TOKENS
        out = coder(x_BD, x_BD, dead_mask=dead_F, total_variance=(x_BD - x_BD.mean(0)).pow(2).sum())
        fired_F = torch.zeros(shape.d_sae, dtype=torch.bool)
        fired_F[out.latent_indices.flatten()] = True
        (out.fvu + _AUXK_ALPHA * out.auxk_loss + out.multi_topk_fvu / 8).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
        since_fired_F.add_(len(x_BD))
        since_fired_F[fired_F] = 0

    return step


def dictionary_learning_step(shape: Shape, sample_BD: Tensor) -> Step:
    """dictionary-learning's ``TopKTrainer``."""
    trainer = TopKTrainer(
        steps=100_000,
        activation_dim=shape.d_in,
        dict_size=shape.d_sae,
        k=shape.k,
        layer=0,
        lm_name="none",
        lr=_LEARNING_RATE,
        auxk_alpha=_AUXK_ALPHA,
        seed=0,
        device="cpu",
    )
    trainer.ae.b_dec.data = sample_BD.mean(0)
    # Step 0 looks for the geometric median, and the thousandth starts to keep a threshold.
    return lambda x_BD: trainer.update(1, x_BD)


def sae_lens_step(shape: Shape, sample_BD: Tensor) -> Step:
    """SAELens's ``SAETrainer`` with its TopK."""
    torch.manual_seed(0)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=shape.d_in, d_sae=shape.d_sae, k=shape.k))
    sae.b_dec.data = sample_BD.mean(0)
    config = SAETrainerConfig(
        total_training_samples=10**9, train_batch_size_samples=shape.tokens, lr=_LEARNING_RATE, lr_end=_LEARNING_RATE
    )
    trainer = SAETrainer(config, sae, _no_batches())

    def step(x_BD: Tensor) -> None:
        trainer.step(x_BD)
        trainer.n_training_steps += 1

    return step


def _no_batches() -> Iterator[Tensor]:
    yield from ()
