"""The named statements of ``queries/`` and the migrations beside it."""

import re
from functools import cache
from importlib import resources


@cache
def statements() -> dict[str, str]:
    """Name -> SQL, of all files in ``queries/``."""
    found: dict[str, str] = {}
    for text in _scripts("queries"):
        parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
        named = dict(zip(parts[1::2], (sql.strip() for sql in parts[2::2]), strict=True))
        assert found.keys().isdisjoint(named), f"named twice: {found.keys() & named.keys()}"
        found |= named
    return found


@cache
def migrations() -> tuple[str, ...]:
    """The migration scripts in order; the n-th brings the schema to version n."""
    return tuple(_scripts("migrations"))


def _scripts(folder: str) -> list[str]:
    """The texts of the SQL files in a folder of this package, by file name."""
    files = (resources.files(__package__) / folder).iterdir()
    return [file.read_text() for file in sorted(files, key=lambda file: file.name) if file.name.endswith(".sql")]
