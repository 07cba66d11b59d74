"""Loads autoencoders in another library, saves them again, and saves some that the library made itself.

``exchange_saes.py LIBRARY GIVEN MADE``: for each folder of GIVEN writes what the library computes with it into
``MADE/given.safetensors`` and saves it into ``MADE/again/<name>``; its own are in ``MADE/own/<name>``, with what they
compute in ``MADE/own.safetensors``. Inputs are in ``GIVEN/inputs.safetensors``.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
torch.manual_seed(0)
LIBRARY, GIVEN, MADE = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
D, F, K = 6, 16, 3


def randomise(module):
    """No weight is left at a value that would hide that it is misread."""
    for name, parameter in module.named_parameters():
        torch.nn.init.normal_(parameter)
        if name == "threshold":
            parameter.data.abs_()
    return module


class SAELens:
    def load(self, folder):
        from sae_lens import SAE

        return SAE.load_from_disk(folder)

    def compute(self, sae, x):
        latents = sae.encode(x)
        return latents, sae(x)

    def save(self, sae, folder):
        sae.save_model(folder)

    def own(self):
        import sae_lens as lens

        for bias in (True, False):
            common = {"d_in": D, "d_sae": F, "apply_b_dec_to_input": bias}
            name = "centred" if bias else "uncentred"
            yield f"standard_{name}", lens.StandardSAE(lens.StandardSAEConfig(**common))
            yield f"jumprelu_{name}", lens.JumpReLUSAE(lens.JumpReLUSAEConfig(**common))
            yield f"gated_{name}", lens.GatedSAE(lens.GatedSAEConfig(**common))
            yield f"topk_{name}", lens.TopKSAE(lens.TopKSAEConfig(**common, k=K))
        rescaled = lens.TopKSAEConfig(d_in=D, d_sae=F, k=K, rescale_acts_by_decoder_norm=True)
        yield "topk_rescaled", lens.TopKSAE(rescaled)
        common = {"d_in": D, "d_sae": F, "d_out": 5, "apply_b_dec_to_input": False}
        yield "transcoder", lens.Transcoder(lens.TranscoderConfig(**common))
        yield "skip_transcoder", lens.SkipTranscoder(lens.SkipTranscoderConfig(**common))
        yield "jumprelu_transcoder", lens.JumpReLUTranscoder(lens.JumpReLUTranscoderConfig(**common))
        yield "jumprelu_skip_transcoder", lens.JumpReLUSkipTranscoder(lens.JumpReLUSkipTranscoderConfig(**common))
        for rescale in (True, False):
            options = {"d_in": D, "d_sae": F, "k": K, "rescale_acts_by_decoder_norm": rescale}
            batch = lens.BatchTopKTrainingSAE(lens.BatchTopKTrainingSAEConfig(**options))
            nested = lens.MatryoshkaBatchTopKTrainingSAE(
                lens.MatryoshkaBatchTopKTrainingSAEConfig(**options, matryoshka_widths=[2, 6, F])
            )
            for kind, trained in (("batchtopk", batch), ("matryoshka", nested)):
                randomise(trained)
                trained.topk_threshold.fill_(0.5)
                folder = MADE / "own" / f"{kind}_{'rescaled' if rescale else 'plain'}"
                trained.save_inference_model(folder)
                yield folder.name, None


class Sparsify:
    def load(self, folder):
        from sparsify import SparseCoder

        return SparseCoder.load_from_disk(folder)

    def compute(self, sae, x):
        top_acts, top_indices, _ = sae.encode(x)
        # With multi_topk its forward pass returns the reconstruction from 4 k latents.
        output = sae(x).sae_out if not sae.cfg.multi_topk else sae.decode(top_acts, top_indices)
        return torch.zeros(len(x), sae.num_latents).scatter(1, top_indices, top_acts), output

    def save(self, sae, folder):
        sae.save_to_disk(folder)

    def own(self):
        from sparsify import SparseCoder, SparseCoderConfig

        for transcode in (False, True):
            for skip in (False, True):
                name = f"{'transcoder' if transcode else 'autoencoder'}{'_skip' if skip else ''}"
                config = SparseCoderConfig(num_latents=F, k=K, transcode=transcode, skip_connection=skip)
                yield name, SparseCoder(D, config)
        yield "expanded_multi_topk", SparseCoder(D, SparseCoderConfig(expansion_factor=2, k=K, multi_topk=True))


class DictionaryLearning:
    def load(self, folder):
        from dictionary_learning.dictionary import AutoEncoder
        from dictionary_learning.utils import load_dictionary

        if json.loads((folder / "config.json").read_text())["trainer"]["dict_class"] == "AutoEncoder":
            return AutoEncoder.from_pretrained(folder / "ae.pt", normalize_decoder=False)
        return load_dictionary(str(folder), device="cpu")[0]

    def compute(self, sae, x):
        output, latents = sae(x, output_features=True)
        if type(sae).__name__ == "AutoEncoderNew":  # its features are in units of the decoder's rows
            latents = sae.encode(x)
        return latents, output

    def save(self, sae, folder):
        folder.mkdir(parents=True)
        torch.save({name: value.cpu() for name, value in sae.state_dict().items()}, folder / "ae.pt")
        trainer = {"dict_class": type(sae).__name__, "activation_dim": D, "dict_size": F, "layer": 3, "lm_name": "m"}
        if hasattr(sae, "k"):
            trainer["k"] = int(sae.k)
        (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 8}}))

    def own(self):
        from dictionary_learning import dictionary
        from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
        from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
        from dictionary_learning.trainers.top_k import AutoEncoderTopK

        yield "standard", dictionary.AutoEncoder(D, F)
        yield "standard_new", dictionary.AutoEncoderNew(D, F)
        yield "gated", dictionary.GatedAutoEncoder(D, F)
        yield "jumprelu", dictionary.JumpReluAutoEncoder(D, F)
        yield "topk", AutoEncoderTopK(D, F, K)
        for threshold in (-1.0, 0.6):
            name = "unset" if threshold < 0 else "set"
            batch, nested = BatchTopKSAE(D, F, K), MatryoshkaBatchTopKSAE(D, F, K, [4, 12])
            batch.threshold.fill_(threshold)
            nested.threshold.fill_(threshold)
            yield f"batch_topk_{name}", batch
            yield f"matryoshka_{name}", nested


library = {"saelens": SAELens, "sparsify": Sparsify, "dictionary_learning": DictionaryLearning}[LIBRARY]()
x_BD = load_file(GIVEN / "inputs.safetensors")["x"]
given, own = {}, {}
with torch.no_grad():
    for folder in sorted(path for path in GIVEN.iterdir() if path.is_dir()):
        sae = library.load(folder)
        given[f"{folder.name}.latents"], given[f"{folder.name}.output"] = library.compute(sae, x_BD)
        library.save(sae, MADE / "again" / folder.name)
    for name, sae in library.own():
        if sae is None:  # saved in the making: what it is after that is another class
            sae = library.load(MADE / "own" / name)
        else:
            library.save(randomise(sae), MADE / "own" / name)
        own[f"{name}.latents"], own[f"{name}.output"] = library.compute(sae, x_BD)
for name, tensors in (("given", given), ("own", own)):
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, MADE / f"{name}.safetensors")
