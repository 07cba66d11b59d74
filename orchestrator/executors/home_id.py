"""The identity of a saeforge home: what its containers are labelled with."""

import os
from pathlib import Path
from uuid import uuid4


def home_id(home: Path) -> str:
    """The id in ``<home>/id``, made at first use.

    A random id and not the path: inside a container every home has the same path, and two orchestrators on one
    engine must never take each other's attempts for their own.
    """
    file = home / "id"
    if not file.exists():
        home.mkdir(parents=True, exist_ok=True)
        draft = home / f"id.{os.getpid()}.{uuid4().hex}"
        draft.write_text(f"{uuid4()}\n")
        try:
            os.link(draft, file)  # fails if another process was first, whose id then counts
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return file.read_text().strip()
