"""The frame of a `.pgraph` file: whether a file is one, complete and of a version that this release reads, and its structure as JSON."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from paramgraph.errors import FileFormatError

NEWEST = 1
"""The version of the format that this release writes; it reads all up to it."""

KEY = "paramgraph"
"""The one entry of the safetensors metadata: one, since safetensors writes several in no particular order."""

# What a file is when it is not ours, by its first bytes.
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive, such as torch.save or torch.export.save write"),
    (b"\x80", "a Python pickle"),
    (b"\x89PNG", "a PNG picture"),
    (b"\x89HDF", "an HDF5 file"),
    (b"<?xml", "an XML file"),
    (b"<graphml", "a GraphML file"),
)
_ADVICE = "Pass a file written by graph.save or `paramgraph compile -o`."


def read_structure(path: Path) -> dict[str, Any]:
    """The JSON structure of a file.

    Raises:
        FileFormatError: the file is missing, is not a complete safetensors file with our metadata, or is of an unknown version.
    """
    if not path.exists():
        raise FileFormatError(f"no file {path}. {_ADVICE}")
    if path.is_dir():
        raise FileFormatError(f"expected a .pgraph file, but {path} is a folder. {_ADVICE}")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            header = file.read(length) if 0 < length <= size - 8 else b""
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror or error}. Check its permissions.") from error
    for magic, kind in _FOREIGN:
        if start.startswith(magic[:8]) and not header.startswith(b"{"):
            raise FileFormatError(f"{path.name}: expected a .pgraph file, got {kind}. {_ADVICE}")
    if not header:
        what = "an empty file" if not size else f"a file of {size:,} bytes that is cut off or of another format"
        raise FileFormatError(f"{path.name}: expected a .pgraph file, got {what}. {_ADVICE}")
    return _parse_header(path.name, header, size)


def _parse_header(name: str, header: bytes, size: int) -> dict[str, Any]:
    try:
        entries = json.loads(header)
        metadata = entries.get("__metadata__") or {}
        ends = [entry["data_offsets"][1] for key, entry in entries.items() if key != "__metadata__"]
        total = 8 + len(header) + max(ends, default=0)
        text = metadata.get(KEY)
    except (ValueError, RecursionError, AttributeError, KeyError, IndexError, TypeError) as error:
        raise FileFormatError(f"{name}: expected a .pgraph file, got a file of another format. {_ADVICE}") from error
    if text is None:
        raise FileFormatError(f"{name}: expected a .pgraph file, got a safetensors file without a parameter graph in it. {_ADVICE}")
    try:
        structure = json.loads(text)
        version = structure.pop("version")
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise FileFormatError(f"{name}: expected a structure in JSON, got none ({error!r}). Write the file again.") from error
    if type(version) is not int or version < 1:
        raise FileFormatError(f"{name}: expected format version 1 to {NEWEST}, got {version!r}. The file is damaged; write it again.")
    if version > NEWEST:
        raise FileFormatError(
            f"{name}: expected format version {NEWEST} or older, got {version}: a newer paramgraph wrote it. Upgrade paramgraph to read it."
        )
    if size != total:
        found = "cut off" if size < total else "followed by foreign bytes"
        raise FileFormatError(f"{name}: expected {total:,} bytes, got {size:,}: the file is {found}. Copy or write it again.")
    return dict(structure)
