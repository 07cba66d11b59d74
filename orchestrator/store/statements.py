"""The named statements of ``queries.sql`` and the migrations beside it."""

import re
from functools import cache
from importlib import resources


@cache
def statements() -> dict[str, str]:
    """Name -> SQL, as written in ``queries.sql``."""
    text = (resources.files(__package__) / "queries.sql").read_text()
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    return {name: sql.strip() for name, sql in zip(parts[1::2], parts[2::2], strict=True)}


@cache
def migrations() -> tuple[str, ...]:
    """The migration scripts in order; the n-th brings the schema to version n."""
    folder = resources.files(__package__) / "migrations"
    scripts = sorted((item for item in folder.iterdir() if item.name.endswith(".sql")), key=lambda item: item.name)
    return tuple(script.read_text() for script in scripts)
