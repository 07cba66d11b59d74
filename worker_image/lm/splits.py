"""Splits: which files of a dataset's repository are for training, by what its card says or by their names.

The card (README.md) may list configurations, each with the files of each split. Where it lists none, names tell, by the
hub's own words: first those of the files, as in ``data/train-00000-of-00002.parquet``, and where none tells anything
those of their directories, as in ``train/0.parquet``. A word counts only as a whole: ``training_notes`` is of training,
``constraints`` is not. Whatever could mean several things is asked for, never guessed.
"""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import cast

import yaml

from worker_image.errors import UserError

_TRAINING = "train"
_WORDS = {
    **dict.fromkeys(("train", "training"), _TRAINING),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_CARD = re.compile(r"^\s*---[ \t]*\r?\n(.*?)\r?\n---", re.DOTALL)


def training_files(repository: str, card: Path, names: Sequence[str]) -> list[str]:
    """Those of ``names``, relative to the repository, that are for training; all where nothing tells.

    Raises:
        UserError: naming ``dataset``: several configurations are there, no split for training, or a broken card.
    """
    listed = _configurations(repository, card)
    if listed:
        return _of_configuration(repository, listed, names)
    return _by_names(repository, names)


def files_inside(repository: str, names: Sequence[str], inside: str) -> list[str]:
    """Those of ``names`` that a path or pattern inside the repository means: one file, what matches, or a directory's
    files for training, or all of it where they are of one split.

    Raises:
        UserError: naming ``dataset``: there is none, or it could mean several things.
    """
    if matches := [name for name in names if fnmatchcase(name, inside)]:
        return matches
    folder = inside.rstrip("/") + "/"
    below = [name.removeprefix(folder) for name in names if name.startswith(folder)]
    if not below:
        raise UserError(
            "dataset",
            f"{repository} holds no .parquet or .jsonl files at {inside}",
            f"look at the files of {repository} on the hub for how they are called",
        )
    lone = len(set(_splits_of(below).values())) == 1
    return [folder + name for name in (below if lone else _by_names(f"{repository}/{inside}", below))]


def _by_names(repository: str, names: Sequence[str]) -> list[str]:
    splits = _splits_of(names)
    if not any(splits.values()):
        return list(names)
    found = [name for name in names if splits[name] == _TRAINING]
    if not found:
        example = next(name for name in names if splits[name])
        raise _no_training(repository, sorted({split for split in splits.values() if split}), example)
    folders = sorted({_configuration_of(name) for name in found})
    if len(folders) > 1:
        shown = ", ".join(folder or "its top" for folder in folders)
        raise _ambiguous(repository, f"files for training in several directories: {shown}", folders[-1])
    return found


def _splits_of(names: Sequence[str]) -> dict[str, str | None]:
    """Of each the split it tells, all of them in the same manner."""
    splits = {name: _split_of(PurePosixPath(name).stem) for name in names}
    return splits if any(splits.values()) else {name: _split_of_folders(name) for name in names}


def _of_configuration(
    repository: str, listed: Mapping[str, Mapping[str, list[str]]], names: Sequence[str]
) -> list[str]:
    if len(listed) > 1 and "default" not in listed:
        pattern = next(iter(next(iter(listed.values())).values()))[0]
        raise _ambiguous(repository, f"the configurations {', '.join(listed)}", pattern)
    splits = listed["default"] if "default" in listed else next(iter(listed.values()))
    if _TRAINING not in splits:
        raise _no_training(repository, list(splits), next(iter(splits.values()))[0])
    patterns = splits[_TRAINING]
    found = [name for name in names if any(_matches(name, pattern) for pattern in patterns)]
    if not found:
        raise UserError(
            "dataset",
            f"{repository} keeps what is for training in {', '.join(patterns)}, and none of that is .parquet or .jsonl",
            "fetch and convert it yourself",
        )
    return found


def _matches(name: str, pattern: str) -> bool:
    """As the hub reads patterns: ``*`` ends at a slash, ``**`` does not."""
    parts = re.split(r"(\*\*/?|\*|\?)", pattern.removeprefix("./"))
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.fullmatch("".join(meaning.get(part, re.escape(part)) for part in parts), name) is not None


def _configurations(repository: str, card: Path) -> dict[str, dict[str, list[str]]]:
    """Name -> split -> patterns of files; one that is marked as default is called that."""
    text = card.read_text(errors="replace") if card.is_file() else ""
    if (head := _CARD.match(text)) is None:
        return {}
    try:
        content = yaml.safe_load(head[1])
        configs = content.get("configs", []) if isinstance(content, dict) else []
        with_files = [config for config in configs if "data_files" in config]
        return {
            "default" if config.get("default") else str(config["config_name"]): _splits(config["data_files"])
            for config in with_files
        }
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            "dataset",
            f"the card of {repository} lists its configurations in no way that is known: {error!r}",
            f"name the files, such as {repository}/data/train-*.parquet",
        ) from error


def _splits(data_files: object) -> dict[str, list[str]]:
    """Of what the card says: one pattern, several, or a list of splits with theirs. Raises KeyError, TypeError."""
    if isinstance(data_files, str):
        return {_TRAINING: [data_files]}
    if not isinstance(data_files, list):
        raise TypeError(f"data_files is {data_files!r}")
    entries = cast(list[object], data_files)
    if all(isinstance(entry, str) for entry in entries):
        return {_TRAINING: [str(entry) for entry in entries]}
    splits: dict[str, list[str]] = {}
    for entry in cast(list[dict[str, object]], entries):
        path = entry["path"]
        splits[str(entry["split"])] = (
            [path] if isinstance(path, str) else [str(one) for one in cast(list[object], path)]
        )
    return splits


def _split_of(name: str) -> str | None:
    """The split a name tells; the last of several words, as in ``train-eval``."""
    told = [_WORDS[word] for word in re.split(r"[-._ 0-9]+", name.lower()) if word in _WORDS]
    return told[-1] if told else None


def _split_of_folders(name: str) -> str | None:
    """The split that the innermost directory tells of those that tell one."""
    for folder in PurePosixPath(name).parents:
        if split := _split_of(folder.name):
            return split
    return None


def _configuration_of(name: str) -> str:
    """The directory that a configuration has to itself, or nothing where all lie together."""
    folder = PurePosixPath(name).parent
    for parent in (folder, *folder.parents):
        if _split_of(parent.name):
            folder = parent.parent
    return "" if folder.as_posix() in (".", "data") else folder.as_posix()


def _ambiguous(repository: str, what: str, example: str) -> UserError:
    return UserError(
        "dataset", f"{repository} holds {what}", f"name what you want of it, such as {repository}/{example or '*'}"
    )


def _no_training(repository: str, splits: list[str], example: str) -> UserError:
    return UserError(
        "dataset",
        f"{repository} holds the splits {', '.join(splits)} and none for training",
        f"name what you want of it, such as {repository}/{example}",
    )
