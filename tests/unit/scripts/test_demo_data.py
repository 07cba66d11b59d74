"""Where the demo's text comes from, and what is left out of it."""

import json
from pathlib import Path

import pytest

from scripts import demo_data


def test_prose_comes_through_on_one_line() -> None:
    text = "The quick brown fox\n   jumps over the lazy dog, and then it does so once more."
    assert list(demo_data.passages(text)) == [
        "The quick brown fox jumps over the lazy dog, and then it does so once more."
    ]


@pytest.mark.parametrize(
    "code", [">>> print('hello')\nhello", "x = {'a': 1, 'b': [2, 3]}; y = f(x, **kwargs)", "=====  =====", "one two"]
)
def test_code_and_rules_stay_out(code: str) -> None:
    prose = "A sentence in plain words, long enough to be worth learning something from."
    assert list(demo_data.passages(f"{prose}\n\n{code}\n\n")) == [prose]


def test_markup_is_taken_off() -> None:
    text = "Use :meth:`~list.append` or the `manual <http://x>`_ and then ``sorted`` to get the wanted order."
    assert list(demo_data.passages(text)) == ["Use list.append or the manual and then sorted to get the wanted order."]


def test_long_texts_are_cut_between_paragraphs() -> None:
    paragraph = "These are some words of a long paragraph that goes on. " * 18
    pieces = list(demo_data.passages("\n\n".join([paragraph.strip()] * 5)))
    assert len(pieces) > 1
    assert all(len(piece) <= 2000 + 1 for piece in pieces)
    assert sum(piece.count("paragraph") for piece in pieces) == 5 * 18


def test_docstrings_of_everything_in_a_module_are_found(tmp_path: Path) -> None:
    module = tmp_path / "m.py"
    module.write_text('"""one"""\nclass A:\n    """two"""\n    async def f(self):\n        """three"""\n')
    assert list(demo_data.docstrings(module)) == ["one", "two", "three"]


@pytest.mark.parametrize("content", [b"def (", b"\xff\xfe\x00", b"x = '\n"])
def test_a_file_that_does_not_parse_gives_nothing(tmp_path: Path, content: bytes) -> None:
    module = tmp_path / "m.py"
    module.write_bytes(content)
    assert list(demo_data.docstrings(module)) == []
    assert list(demo_data.comments(module)) == []


def test_single_comments_are_left_out_and_blocks_joined(tmp_path: Path) -> None:
    module = tmp_path / "m.py"
    module.write_text("# alone\nx = 1\n# first\n# second\ny = 2  # trailing\n")
    assert list(demo_data.comments(module)) == ["first\nsecond"]


def test_the_corpus_is_the_same_every_time_without_repeats() -> None:
    first = demo_data.corpus(enough_characters=200_000)
    assert first == demo_data.corpus(enough_characters=200_000)
    assert len(set(first)) == len(first)
    assert sum(map(len, first)) >= 200_000


def test_a_corpus_that_is_there_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_data, "corpus", lambda: ["a passage", "ä nother"])
    file = demo_data.prepare_corpus(tmp_path)
    assert [json.loads(line)["text"] for line in file.read_text().splitlines()] == ["a passage", "ä nother"]
    written = file.stat().st_mtime_ns
    assert demo_data.prepare_corpus(tmp_path).stat().st_mtime_ns == written
    assert [path.name for path in file.parent.iterdir()] == [demo_data.CORPUS]


def test_a_model_that_is_there_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / demo_data.MODEL).mkdir(parents=True)
    monkeypatch.setattr(demo_data.subprocess, "run", lambda *_, **__: pytest.fail("nothing to download"))
    assert demo_data.prepare_model(tmp_path).is_dir()
