"""What latents react to: told as the file has it."""

from worker_image.contract.feature_file import Feature, FeatureList

__all__ = ["Feature", "FeatureList"]
