"""Ours beside the SAE libraries that are in use: files, losses, gradients."""
