"""Files of a population: in a folder by a pattern, or by a published split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paramgraph.errors import FileFormatError, UnknownNameError
from paramgraph.zoos.tables import Table, read_json

SUFFIXES = (".pt", ".pth", ".safetensors")

# Files of a split that are looked for, until one shows where all of them lie: some may be missing.
_TRIED = 50


def folder_of(folder: str | Path) -> Path:
    """The folder.

    Raises:
        FileFormatError: there is none.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileFormatError(f"expected a folder with networks, but there is none at {folder}. Unpack the data set, and give its folder.")
    return folder


def listed(folder: Path, pattern: str | Sequence[str] | None) -> list[Path]:
    """Files of a folder by glob patterns, in natural order: net2 before net10.

    Args:
        folder: where to look.
        pattern: relative to it, e.g. `**/*.pth`; None takes all that end like checkpoints, at any depth.

    Raises:
        FileFormatError: there are none.
    """
    patterns = ["**/*"] if pattern is None else [pattern] if isinstance(pattern, str) else list(pattern)
    found = {path for glob in patterns for path in folder.glob(glob) if pattern is not None or path.suffix in SUFFIXES}
    files = sorted((path for path in found if path.is_file()), key=_natural)
    if not files:
        wanted = ", ".join(patterns if pattern is not None else SUFFIXES)
        raise FileFormatError(f"expected files {wanted} in {folder}, found none. Give the folder that has them, or another pattern.")
    return files


def _natural(path: Path) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", path.as_posix())]


def number_in(path: str) -> int | None:
    """The last number in a path, which is the image's in all published populations of implicit networks."""
    found = re.findall(r"[0-9]+", str(Path(path).with_suffix("")))
    return int(found[-1]) if found else None


def split_files(folder: Path, splits: str | Path | None, split: str | None, pattern: str | Sequence[str] | None) -> tuple[list[Path], Table]:
    """Files, and what a file of splits says of them.

    Args:
        folder: of the population.
        splits: a JSON file, itself or its name in the folder: per split a list of paths, or `{"path": […], "label": […], …}`.
        split: which one; None takes all, with a column `split`.
        pattern: of files, where there are no splits.

    Raises:
        FileFormatError: the file of splits is none, or the files that it names are not in the folder.
        UnknownNameError: there is no such split.
    """
    if splits is None:
        if split is not None:
            raise UnknownNameError(f"split {split!r}: expected a file of splits too, as `splits=…`.")
        files = listed(folder, pattern)
        return files, {"path": relative(files, folder)}
    source = next((path for path in (Path(splits), folder / splits) if path.is_file()), folder / splits)
    content = read_json(source)
    if not isinstance(content, dict) or not content:
        raise FileFormatError(f"{source}: expected paths by the name of a split, got {type(content).__name__}.")
    if split is not None and split not in content:
        raise UnknownNameError(f"expected a split among {', '.join(content)}, got {split!r}.")
    names = list(content) if split is None else [split]
    parts = [_columns(content[name], name, source) for name in names]
    common = [name for name in parts[0] if all(name in part for part in parts)]
    table = {name: np.concatenate([part[name] for part in parts]) for name in common}
    if not len(table["path"]):
        raise FileFormatError(f"{source}: expected paths in {', '.join(names)}, found none.")
    files = _found(folder, source, [str(path) for path in table["path"]])
    table["path"] = relative(files, folder)
    return files, table


def _columns(content: Any, split: str, source: Path) -> Table:
    found = {"path": content} if isinstance(content, list) else content
    if not isinstance(found, dict) or "path" not in found or not all(isinstance(items, list) for items in found.values()):
        raise FileFormatError(f"{source}: expected a list of paths in {split!r}, or lists under 'path' and other names.")
    lengths = {name: len(items) for name, items in found.items()}
    if len(set(lengths.values())) != 1:
        raise FileFormatError(f"{source}: expected lists of one length in {split!r}, got {lengths}.")
    table = {name: np.array(items, dtype=object if items and isinstance(items[0], str) else None) for name, items in found.items()}
    return {**table, "split": np.full(len(table["path"]), split, object)}


def _found(folder: Path, source: Path, paths: Sequence[str]) -> list[Path]:
    """Where the files lie: paths of splits start at some other folder, on the machine where they were written too."""
    for path in paths[:_TRIED]:
        parts = Path(path).parts
        for root in (folder, source.parent):
            for start in range(len(parts)):
                if (root / Path(*parts[start:])).is_file():
                    return [root / Path(*Path(path).parts[start:]) for path in paths]
    raise FileFormatError(f"{source}: names {paths[0]!r}, which is not in {folder}. Unpack the data set there, or give its folder.")


def relative(files: Sequence[Path], folder: Path) -> np.ndarray[Any, Any]:
    """Paths as text, from the folder where they are in it."""
    names = [(path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix() for path in files]
    column = np.empty(len(names), object)
    column[:] = names
    return column
