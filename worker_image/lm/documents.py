"""Documents of a text dataset, streamed from a file and addressable, so that reading can go on where it stood."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from worker_image.errors import UserError

_CHECKED_BYTES = 256 * 2**20
"""What ``check`` reads; a few seconds' worth."""


@dataclass(frozen=True)
class Mark:
    """The start of a document in its file."""

    document: int = 0
    """How many documents come before."""
    byte: int = 0
    line: int = 1
    """Line number, from 1, for messages."""


FIRST = Mark()
"""The start of the file."""


@dataclass(frozen=True)
class Document:
    """One text."""

    start: Mark
    end: Mark
    """Where the next document starts."""
    text: str


class DocumentFile:
    """A ``.jsonl`` file, an object a line with the text under ``text_field``; or a ``.txt`` file, split at blank lines.

    Blank lines and empty texts are no documents. Every method raises ``UserError`` naming ``dataset`` (or
    ``text_field``) and the line when the content cannot be used.
    """

    def __init__(self, path: Path, text_field: str) -> None:
        self.path = path
        self._text_field = text_field
        if path.suffix not in (".jsonl", ".txt"):
            raise UserError("dataset", f"{path} is neither a .jsonl nor a .txt file", "convert it to one of the two")
        try:
            with path.open("rb") as file:
                self.size_bytes = file.seek(0, 2)
        except FileNotFoundError:
            raise UserError("dataset", f"{path} does not exist", "put the file there or name another") from None
        except OSError as error:
            raise UserError("dataset", f"{path} cannot be read: {error.strerror}", "make it a readable file") from None
        if self.size_bytes == 0:
            raise UserError("dataset", f"{path} is empty", "name a file that holds text")

    def check(self) -> None:
        """Parse the first 256 MiB, so that a broken line is known at once and not after an hour of training."""
        for document in self.read():
            if document.end.byte > _CHECKED_BYTES:
                return

    def read(self, start: Mark = FIRST) -> Iterator[Document]:
        """Documents from ``start`` to the end of the file."""
        return self._read_jsonl(start) if self.path.suffix == ".jsonl" else self._read_text(start)

    def _read_jsonl(self, start: Mark) -> Iterator[Document]:
        index, byte, number = start.document, start.byte, start.line
        with self.path.open("rb") as file:
            file.seek(byte)
            for line in file:
                here = Mark(index, byte, number)
                byte += len(line)
                number += 1
                if line.strip() and (text := self._text_of(line, here.line)).strip():
                    index += 1
                    yield Document(here, Mark(index, byte, number), text)

    def _text_of(self, line: bytes, number: int) -> str:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reasons = {UnicodeDecodeError: "not UTF-8", RecursionError: "nested too deeply"}
            reason = error.msg if isinstance(error, json.JSONDecodeError) else reasons.get(type(error), str(error))
            raise UserError(
                "dataset",
                f"line {number} of {self.path} is not valid JSON: {reason}",
                "every line has to be one JSON object; mend or remove that line",
            ) from None
        if not isinstance(record, dict):
            raise UserError(
                "dataset",
                f"line {number} of {self.path} is {_kind_of(record)}, not a JSON object",
                f'write it as {{"{self._text_field}": "..."}}',
            )
        if self._text_field not in record:
            keys = ", ".join(sorted(record)[:10]) or "none"
            raise UserError(
                "text_field",
                f"line {number} of {self.path} has no key {self._text_field!r}; its keys: {keys}",
                "name the key that holds the text",
            )
        text = record[self._text_field]
        if not isinstance(text, str):
            raise UserError(
                "text_field",
                f"{self._text_field!r} in line {number} of {self.path} is {_kind_of(text)}, not a string",
                "name a key that holds text",
            )
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(
                "dataset",
                f"line {number} of {self.path} holds half of a surrogate pair, which is no character",
                "mend or remove that line",
            ) from None
        return text

    def _read_text(self, start: Mark) -> Iterator[Document]:
        index, byte, number = start.document, start.byte, start.line
        here, paragraph = Mark(index, byte, number), b""
        with self.path.open("rb") as file:
            file.seek(byte)
            for line in file:
                byte += len(line)
                number += 1
                if line.strip():
                    paragraph += line
                    continue
                if paragraph:
                    index += 1
                    yield Document(here, Mark(index, byte, number), self._decode(paragraph, here.line))
                    paragraph = b""
                here = Mark(index, byte, number)
        if paragraph:
            yield Document(here, Mark(index + 1, byte, number), self._decode(paragraph, here.line))

    def _decode(self, paragraph: bytes, number: int) -> str:
        try:
            return paragraph.decode().strip()
        except UnicodeDecodeError:
            raise UserError(
                "dataset",
                f"the paragraph at line {number} of {self.path} is not UTF-8",
                "convert the file to UTF-8",
            ) from None


def _kind_of(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
