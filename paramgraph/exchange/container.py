"""Whether a file is a `.pgraph` file of a version that this release reads, told from its first bytes and its length."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from paramgraph.errors import FileFormatError

NEWEST = 1
"""The version of the format that this release writes; it reads all up to it."""

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


def check_container(path: Path) -> None:
    """Raise `FileFormatError` unless `path` is a complete safetensors file with our metadata, of a known version."""
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
    _check_header(path.name, header, size)


def _check_header(name: str, header: bytes, size: int) -> None:
    try:
        entries = json.loads(header)
        metadata = entries.get("__metadata__") or {}
        ends = [entry["data_offsets"][1] for key, entry in entries.items() if key != "__metadata__"]
        total = 8 + len(header) + max(ends, default=0)
    except (ValueError, RecursionError, AttributeError, KeyError, IndexError, TypeError) as error:
        raise FileFormatError(f"{name}: expected a .pgraph file, got a file of another format. {_ADVICE}") from error
    if metadata.get("format") != "paramgraph":
        raise FileFormatError(f"{name}: expected a .pgraph file, got a safetensors file without a parameter graph in it. {_ADVICE}")
    version = str(metadata.get("version", ""))
    if not version.isdigit() or int(version) < 1 or "structure" not in metadata:
        raise FileFormatError(f"{name}: expected format version 1 to {NEWEST}, got {version!r}. The file is damaged; write it again.")
    if int(version) > NEWEST:
        raise FileFormatError(
            f"{name}: expected format version {NEWEST} or older, got {version}: a newer paramgraph wrote it. Upgrade paramgraph to read it."
        )
    if size != total:
        found = "cut off" if size < total else "followed by foreign bytes"
        raise FileFormatError(f"{name}: expected {total:,} bytes, got {size:,}: the file is {found}. Copy or write it again.")
