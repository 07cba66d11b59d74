"""The documentation is true: generated pages are current and complete, and links lead somewhere."""

import re
import runpy
from pathlib import Path
from typing import get_args

import pytest

from orchestrator.domain import WaitReason

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = runpy.run_path(str(ROOT / "scripts" / "reference.py"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("name", REFERENCE["pages"]())
def test_the_reference_page_is_current(name: str) -> None:
    written = (ROOT / "docs" / "reference" / name).read_text()
    assert written == REFERENCE["pages"]()[name], "run: python scripts/reference.py"


def test_nothing_in_the_reference_is_left_undescribed() -> None:
    for name, page in REFERENCE["pages"]().items():
        undescribed = [line for line in page.splitlines() if line.startswith("|") and line.endswith("|  |")]
        undescribed = [line for line in undescribed if not line.startswith("| `type`")]
        assert not undescribed, name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_every_reason_to_wait_is_explained() -> None:
    explained = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "scheduling.md").read_text(), re.MULTILINE)
    assert sorted(explained) == sorted({*get_args(WaitReason)})
