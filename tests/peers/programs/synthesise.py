"""A small world of SAELens, and its scores of features drawn at random: ``synthesise.py FILE``."""

import sys
from types import ModuleType

import sae_lens
import torch
from safetensors.torch import save_file

# Its synthetic data brings plots along, which are not installed here.
for name in ("plotly", "plotly.graph_objects", "plotly.subplots", "plotly.express"):
    missing = ModuleType(name)
    missing.__getattr__ = lambda attribute: object
    sys.modules.setdefault(name, missing)

from sae_lens.synthetic import firing_magnitudes as magnitudes  # noqa: E402
from sae_lens.synthetic.evals import (  # noqa: E402
    compute_classification_metrics,
    feature_uniqueness,
    mean_correlation_coefficient,
)
from sae_lens.synthetic.firing_probabilities import ZipfianFiringProbabilityConfig  # noqa: E402
from sae_lens.synthetic.hierarchy import HierarchyConfig  # noqa: E402
from sae_lens.synthetic.synthetic_model import (  # noqa: E402
    LowRankCorrelationConfig,
    OrthogonalizationConfig,
    SyntheticModel,
    SyntheticModelConfig,
)

assert sae_lens.__version__
torch.set_num_threads(1)
config = SyntheticModelConfig(
    num_features=256,
    hidden_dim=32,
    firing_probability=ZipfianFiringProbabilityConfig(exponent=0.5, max_prob=0.4, min_prob=5e-4),
    hierarchy=HierarchyConfig(
        total_root_nodes=2,
        branching_factor=4,
        max_depth=3,
        mutually_exclusive_portion=1.0,
        compensate_probabilities=True,
        scale_children_by_parent=True,
    ),
    orthogonalization=OrthogonalizationConfig(num_steps=5, lr=3e-4),
    correlation=LowRankCorrelationConfig(rank=25, correlation_scale=0.1),
    mean_firing_magnitudes=magnitudes.LinearMagnitudeConfig(start=5.0, end=4.0),
    std_firing_magnitudes=magnitudes.FoldedNormalMagnitudeConfig(mean=0.5, std=0.5),
    bias=0.5,
    seed=42,
)
world = SyntheticModel(config)
generator = world.activation_generator
torch.manual_seed(0)
_, acts = world.sample_with_features(20_000)

learned = torch.randn(40, 32, generator=torch.Generator().manual_seed(1))
fires = torch.rand(500, 40, generator=torch.Generator().manual_seed(2)) < 0.3
truth = torch.rand(500, 256, generator=torch.Generator().manual_seed(3)) < 0.2
features = world.feature_dict.feature_vectors.detach()
scores = compute_classification_metrics(fires.float(), truth.float(), learned, features)
save_file(
    {
        "directions": features,
        "bias": world.feature_dict.bias.detach(),
        "firing": generator.firing_probabilities,
        "mean": generator.mean_firing_magnitudes,
        "std": generator.std_firing_magnitudes,
        "factor": world.correlation_matrix.correlation_factor,
        "rates": (acts > 0).double().mean(0),
        "strengths": acts.double().sum(0) / (acts > 0).double().sum(0).clamp_min(1),
        "learned": learned,
        "fires": fires,
        "truth": truth,
        "mcc": torch.tensor(mean_correlation_coefficient(learned, features)),
        "uniqueness": torch.tensor(feature_uniqueness(learned, features)),
        "f1": torch.tensor(scores.f1_score),
    },
    sys.argv[1],
)
