"""``features.db``: what ``sae_features`` found, one row a latent, read one latent at a time.

It is an SQLite file. What a page of a list needs stands in columns with an index each; the rest of a latent is one
compressed JSON, parsed when somebody looks at it. Tokens are ids, and their texts stand once.
"""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

NAME = "features.db"
VERSION = 1
_MOST_BYTES = 16 * 2**20
"""Of one latent, unpacked: many times what the parameters allow."""

FeatureSort = Literal["latent", "-density", "density", "-max", "-mean"]
_ORDERS: dict[str, str] = {
    "latent": "latent",
    "density": "density, latent",
    "-density": "density DESC, latent",
    "-max": "max DESC, latent",
    "-mean": "mean DESC, latent",
}
_SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tokens (id INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE features (
    latent INTEGER PRIMARY KEY, density REAL NOT NULL, mean REAL NOT NULL, max REAL NOT NULL, peak TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX by_density ON features (density, latent);
CREATE INDEX by_density_down ON features (density DESC, latent);
CREATE INDEX by_max ON features (max DESC, latent);
CREATE INDEX by_mean ON features (mean DESC, latent);
"""


class FeatureFileDamaged(Exception):
    """The file cannot be read."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Example(_Part):
    """Some tokens in a row, and how much each of them activates the latent."""

    tokens: list[int]
    acts: list[float]
    peak: int
    """Index of the token that activates it most."""
    sequence: int
    """Which of the sequences that were looked at it is in, and whose others are not shown."""


class Group(_Part):
    """Examples of like activation."""

    name: str
    """"top", or "quantile 1" (the weakest) and so on."""
    examples: list[Example]


class Effect(_Part):
    """What a latent adds to the logit of a token when it is active at 1."""

    token: int
    logit: float


class Neighbour(_Part):
    """Another latent whose decoder row points in a like direction."""

    latent: int
    cosine: float


class Histogram(_Part):
    """How often activations above 0 are how large: bins of one width from 0 on."""

    width: float
    counts: list[int]


class FeatureBody(_Part):
    """All of a latent that a list does not show."""

    firings: int
    """Tokens that activate it."""
    histogram: Histogram
    groups: list[Group]
    promoted: list[Effect] = []
    suppressed: list[Effect] = []
    neighbours: list[Neighbour] = []


class FeatureSummary(_Part):
    """A latent in a list."""

    latent: int
    density: float
    """Share of tokens that activate it."""
    mean: float
    """Mean activation where it is active; 0 where it never is."""
    max: float
    peak: str
    """Text of the token that activates it most."""


class Feature(FeatureSummary):
    """A latent with everything that was found."""

    body: FeatureBody
    texts: dict[int, str]
    """Text of every token that occurs."""


class FeatureList(_Part):
    """A page of latents."""

    items: list[FeatureSummary]
    total: int
    about: dict[str, str]
    """What was looked at."""


_body: TypeAdapter[FeatureBody] = TypeAdapter(FeatureBody)


def write(
    path: Path,
    features: Iterable[tuple[FeatureSummary, FeatureBody]],
    texts: Mapping[int, str],
    about: Mapping[str, object],
) -> None:
    """A new file with these. ``path`` is not there yet."""
    with closing(sqlite3.connect(path)) as database, database:
        # One writer, and a file that is thrown away when it is not finished.
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        database.executescript(_SCHEMA)
        told = {"version": VERSION, **about}
        database.executemany("INSERT INTO about VALUES (?, ?)", [(name, str(value)) for name, value in told.items()])
        database.executemany("INSERT INTO tokens VALUES (?, ?)", texts.items())
        rows = (
            (one.latent, one.density, one.mean, one.max, one.peak, zlib.compress(_body.dump_json(body), 6))
            for one, body in features
        )
        database.executemany("INSERT INTO features VALUES (?, ?, ?, ?, ?, ?)", rows)


class FeatureFile:
    """A file that is there, open for reading. Blocking."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            FeatureFileDamaged: it is not one, or of another version.
        """
        try:
            self._database = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
            # A job wrote it: whatever stands in it is looked at and never carried out.
            self._database.execute("PRAGMA trusted_schema = OFF")
            self._database.execute("PRAGMA cell_size_check = ON")
            self.about = {str(name): str(value) for name, value in self._database.execute("SELECT * FROM about")}
        except sqlite3.Error as error:
            raise FeatureFileDamaged(str(error)) from error
        if self.about.get("version") != str(VERSION):
            raise FeatureFileDamaged(f"it is of version {self.about.get('version')}, this reads {VERSION}")

    def __enter__(self) -> "FeatureFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def page(self, *, offset: int, limit: int, sort: FeatureSort) -> FeatureList:
        """Some latents in an order.

        Raises:
            FeatureFileDamaged: the file is.
        """
        try:
            [(total,)] = self._database.execute("SELECT count(*) FROM features")
            found = self._database.execute(
                f"SELECT latent, density, mean, max, peak FROM features ORDER BY {_ORDERS[sort]} LIMIT ? OFFSET ?",
                (limit, offset),
            ).fetchall()
            return FeatureList(items=[_summary(row) for row in found], total=total, about=self.about)
        except (sqlite3.Error, ValueError) as error:
            raise FeatureFileDamaged(str(error)) from error

    def feature(self, latent: int) -> Feature | None:
        """One latent; none when it is not in the file.

        Raises:
            FeatureFileDamaged: the file is.
        """
        try:
            row = self._database.execute(
                "SELECT latent, density, mean, max, peak, body FROM features WHERE latent = ?", (latent,)
            ).fetchone()
            if row is None:
                return None
            unpacking = zlib.decompressobj()
            body = _body.validate_json(unpacking.decompress(row[5], _MOST_BYTES))
            return Feature(**dict(_summary(row)), body=body, texts=self._texts(_tokens_of(body)))
        except (sqlite3.Error, zlib.error, ValueError, TypeError) as error:
            raise FeatureFileDamaged(str(error)) from error

    def _texts(self, ids: set[int]) -> dict[int, str]:
        asked = "SELECT id, text FROM tokens WHERE id IN (SELECT value FROM json_each(?))"
        return dict(self._database.execute(asked, (json.dumps(sorted(ids)),)))


def _summary(row: tuple[int, float, float, float, str]) -> FeatureSummary:
    return FeatureSummary(latent=row[0], density=row[1], mean=row[2], max=row[3], peak=row[4])


def _tokens_of(body: FeatureBody) -> set[int]:
    shown = {token for group in body.groups for example in group.examples for token in example.tokens}
    return shown | {effect.token for effect in (*body.promoted, *body.suppressed)}
