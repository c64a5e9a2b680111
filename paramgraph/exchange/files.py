"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from paramgraph.errors import FileFormatError


@contextlib.contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; move it onto `path` when the body is done, remove it when the body fails.

    An existing file keeps its content until the new one is complete and on disk.

    Raises:
        FileFormatError: the folder does not exist or cannot be written to, or the disk is full.
    """
    path = Path(path)
    if path.is_dir():
        raise FileFormatError(f"expected a file to write, but {path} is a folder. Name a file in it.")
    if not path.parent.is_dir():
        raise FileFormatError(f"cannot write {path.name}: there is no folder {path.parent}. Make it first, or choose another path.")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=f".tmp{path.suffix}")
    except OSError as error:
        raise _unwritable(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(_mode_of(path))
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> FileFormatError:
    reason = error.strerror or error
    return FileFormatError(f"cannot write {path}: {reason}. Check the folder's permissions and space, or choose another path.")


def _mode_of(path: Path) -> int:
    """Permissions of the file that is replaced, else those of an ordinary new file (temporary files are private)."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sync_folder(folder: Path) -> None:
    """Put the rename itself on disk; not every system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
