"""``saeforge convert`` as a person runs it, with no orchestrator."""

import subprocess
import sys
from pathlib import Path

from tests.unit.worker_image.sae.formats.saes import some_sae
from worker_image.sae.formats.library import LAYOUTS, layout_of
from worker_image.sae.formats.provenance import Provenance


def convert(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.cli", "convert", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_autoencoder_is_converted_on_the_command_line(tmp_path: Path) -> None:
    LAYOUTS["dictionary_learning"].write(some_sae("jumprelu"), tmp_path / "trainer_0", Provenance())
    ended = convert(tmp_path / "trainer_0", tmp_path / "made", "--to", "saelens")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert layout_of(tmp_path / "made").name == "saelens"


def test_what_cannot_be_converted_is_said_in_two_lines(tmp_path: Path) -> None:
    ended = convert(tmp_path, tmp_path / "made", "--to", "saelens")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 2
