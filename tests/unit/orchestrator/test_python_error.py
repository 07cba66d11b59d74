"""Exceptions as real Pythons print them, found in the end of a log."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.python_error import LINES_AFTER, last_error

PROGRAM = """\
import json
def inner(text):
    return json.loads(text)
def outer():
    try:
        inner("{")
    except ValueError as error:
        raise RuntimeError("cannot read it") from error
"""


def printed(tmp_path: Path, call: str, program: str = PROGRAM) -> str:
    path = tmp_path / "train.py"
    path.write_text(f"{program}{call}\n")
    run = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=20, check=False)
    assert run.returncode != 0
    return run.stderr


def test_the_frame_that_is_told_is_the_users_own_and_not_the_librarys(tmp_path: Path) -> None:
    error = last_error(printed(tmp_path, "inner('{')"))
    assert error is not None
    assert error.type == "JSONDecodeError"
    assert str(error.frame) == "train.py line 3, in inner"
    assert str(error).endswith("(train.py line 3, in inner)")


def test_of_a_chain_the_last_exception_is_told(tmp_path: Path) -> None:
    error = last_error(printed(tmp_path, "outer()"))
    assert error is not None
    assert str(error) == "RuntimeError: cannot read it (train.py line 8, in outer)"


def test_in_the_module_itself_only_the_line_is_told(tmp_path: Path) -> None:
    assert str(last_error(printed(tmp_path, "1 / 0", ""))) == "ZeroDivisionError: division by zero (train.py line 1)"


def test_a_syntax_error_is_one(tmp_path: Path) -> None:
    error = last_error(printed(tmp_path, "x = = 1", ""))
    assert error is not None
    assert (error.type, str(error.frame)) == ("SyntaxError", "train.py line 1")


def test_a_missing_module_is_told_by_its_name(tmp_path: Path) -> None:
    error = last_error(printed(tmp_path, "import no_such_thing", ""))
    assert str(error).startswith("ModuleNotFoundError: No module named 'no_such_thing'")


def test_an_exception_without_a_message_is_its_type(tmp_path: Path) -> None:
    assert str(last_error(printed(tmp_path, "raise KeyboardInterrupt", ""))).startswith("KeyboardInterrupt (")


def test_the_exceptions_of_ones_own_are_told_without_their_module() -> None:
    error = last_error('Traceback (most recent call last):\n  File "a.py", line 1, in f\n    g()\nmy.errors.Bad: no\n')
    assert error is not None
    assert (error.type, error.message) == ("Bad", "no")


@pytest.mark.parametrize("prefix", ["[rank0]: ", "[rank12]:", "  | "])
def test_what_launchers_put_before_every_line_is_no_part_of_it(tmp_path: Path, prefix: str) -> None:
    log = "".join(f"{prefix}{line}\n" for line in printed(tmp_path, "outer()").splitlines())
    error = last_error(log)
    assert error is not None
    assert error.type == "RuntimeError"


def test_colours_are_no_part_of_it(tmp_path: Path) -> None:
    log = printed(tmp_path, "outer()").replace("RuntimeError", "\x1b[1;31mRuntimeError\x1b[0m")
    error = last_error(log)
    assert error is not None
    assert error.type == "RuntimeError"


def test_what_was_only_logged_on_the_way_is_not_what_ended_it(tmp_path: Path) -> None:
    log = printed(tmp_path, "outer()") + "going on\n" * (LINES_AFTER + 1)
    assert last_error(log) is None


def test_a_few_words_afterwards_are_kept(tmp_path: Path) -> None:
    error = last_error(printed(tmp_path, "outer()") + "cleaning up\n")
    assert error is not None
    assert error.afterwards == "cleaning up"


@pytest.mark.parametrize(
    "log", ["", "all is well\n", '  File "x.py", line 3, in f\n', 'see File "a", line 1\nINFO: x\n']
)
def test_a_log_without_one_has_none(log: str) -> None:
    assert last_error(log) is None


@given(st.text(max_size=400))
def test_no_log_is_too_strange(log: str) -> None:
    last_error(log)
    last_error(f'Traceback (most recent call last):\n  File "a.py", line 1, in f\n{log}')
