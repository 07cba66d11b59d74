"""``python -m worker_image.convert SOURCE TARGET --to LAYOUT``: an autoencoder from one library's files into another's.

What was written is read again and must compute the same from drawn activations, or nothing is left behind.

Exit codes: 0 done; 1 the files could not be written; 2 there is nothing to convert, or the layout cannot express it.
"""

import argparse
import shutil
import sys
from pathlib import Path

import torch

from worker_image.errors import UserError
from worker_image.run import EXIT_INTERNAL, EXIT_USER_ERROR
from worker_image.sae.formats.deployed import DeployedSae
from worker_image.sae.formats.library import LAYOUTS, Layout, layout_of

_CHECKED_TOKENS = 256
"""Drawn activations from which both must compute the same."""

_LARGEST_DIFFERENCE = 1e-2
"""Far more than rounding leaves, even where it moves a latent across its threshold; far less than a mistake does."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="saeforge convert")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--to", required=True)
    given = parser.parse_args(arguments)
    try:
        if given.to not in LAYOUTS:
            raise UserError("to", f"there is no format {given.to!r}", f"choose one of: {', '.join(LAYOUTS)}")
        told = convert(given.source, given.target, LAYOUTS[given.to])
    except UserError as error:
        sys.stderr.write(f"error: {error.message}\n" + (f"  → {error.suggestion}\n" if error.suggestion else ""))
        return EXIT_USER_ERROR
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_INTERNAL
    sys.stdout.write(told + "\n")
    return 0


def convert(source: Path, target: Path, layout: Layout) -> str:
    """Write what is in ``source`` into the new folder ``target``; return a line that says what it was.

    ``source`` may also be one of the files of the folder.

    Raises:
        UserError: there is no autoencoder, ``layout`` cannot express it, or ``target`` is there already.
    """
    if source.is_file():
        source = source.parent
    found = layout_of(source)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError("target", f"{target} is there already, and not an empty folder", "name a new one")
    sae, provenance = found.read(source)
    try:
        layout.write(sae, target, provenance)
        difference = difference_between(sae, layout.read(target)[0])
        if not difference <= _LARGEST_DIFFERENCE:
            raise UserError("source", f"read again, what was written differs by {difference:.1g}: it was removed")
    except (UserError, OSError):
        shutil.rmtree(target, ignore_errors=True)
        raise
    width = f"{sae.d_in}" if sae.d_in == sae.d_out else f"{sae.d_in} to {sae.d_out}"
    return (
        f"{found.name} to {layout.name}: {sae.family} {sae.wiring}, {width} wide, {sae.d_sae} latents; "
        f"read again it differs by {difference:.1g}"
    )


def difference_between(one: DeployedSae, other: DeployedSae) -> float:
    """Root mean square difference of what they reconstruct from drawn activations, relative to what it is."""
    generator = torch.Generator().manual_seed(0)
    x_BD = torch.randn(_CHECKED_TOKENS, one.d_in, generator=generator)
    first_BE, second_BE = (sae.decode(sae.encode(x_BD), x_BD) for sae in (one, other))
    return ((first_BE - second_BE).norm() / first_BE.norm().clamp_min(1e-30)).item()


if __name__ == "__main__":
    sys.exit(main())
