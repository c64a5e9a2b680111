"""The `.pgraph` file: one safetensors file with everything a graph holds.

Values and index arrays are its tensors; the structure is one JSON text in its metadata. Any safetensors reader can read the values. Reading
executes nothing: JSON is checked against the types of the dataclasses it stands for, then the graph against itself.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from paramgraph.errors import FileFormatError
from paramgraph.exchange.codec import decode, encode, field_types
from paramgraph.exchange.container import KEY, NEWEST, read_structure
from paramgraph.exchange.files import written_whole
from paramgraph.exchange.validate import check_graph
from paramgraph.graph import ParamGraph

# All that a graph holds beside its values, which are tensors, and the ONNX model that it came from, which stays where it is.
_PARTS = tuple(part.name for part in dataclasses.fields(ParamGraph) if part.name not in ("values", "source"))
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
# Types that safetensors has no name for are stored as a wider last axis of one that it has.
_STORED_AS = {torch.complex128: torch.float64, torch.complex64: torch.float32, torch.complex32: torch.float16}


def save(graph: ParamGraph, path: str | Path) -> None:
    """Write a graph to one file, whole or not at all.

    Values on the meta device are saved as shapes, and come back on the meta device.

    Args:
        graph: the graph.
        path: the file; an existing one is replaced once the new one is complete.

    Raises:
        FileFormatError: the path cannot be written, or a value has a type that the format does not hold.
    """
    arrays = _Arrays()
    structure: dict[str, Any] = {"version": NEWEST, **{part: encode(getattr(graph, part), arrays.put) for part in _PARTS}}
    structure["values"] = {name: _describe(name, value) for name, value in graph.values.items()}
    tensors = {f"index/{number}": tensor for number, tensor in enumerate(arrays.tensors)}
    seen: set[int] = set()
    for name, value in graph.values.items():
        if value.device.type != "meta":
            tensors[f"value/{name}"] = _storable(value, seen)
    with written_whole(path) as temporary:
        try:
            save_file(tensors, temporary, {KEY: json.dumps(structure)})
        except SafetensorError as error:
            raise OSError(str(error)) from error


def load(path: str | Path, *, device: Any = "cpu") -> ParamGraph:
    """Read a file written by `save`; see `paramgraph.load`."""
    path = Path(path)
    structure = read_structure(path)
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  the file is no mapping
    except (SafetensorError, OSError, RuntimeError) as error:
        raise FileFormatError(f"{path.name} cannot be read: {error}. The file is damaged; write it again with graph.save.") from error
    try:
        return _assemble(structure, stored)
    except FileFormatError as error:
        raise FileFormatError(f"{path.name}: {error}") from error


def _assemble(structure: dict[str, Any], stored: dict[str, torch.Tensor]) -> ParamGraph:
    if set(structure) != {*_PARTS, "values"}:
        raise FileFormatError(f"expected a structure with {', '.join(_PARTS)} and values. The file is damaged; write it again.")

    def get(number: int) -> np.ndarray:
        if f"index/{number}" not in stored:
            raise FileFormatError(f"index array {number} is missing. The file is damaged; write it again.")
        return stored[f"index/{number}"].cpu().numpy()

    hints = field_types_of_graph()
    parts = {part: decode(hints[part], structure[part], get, part) for part in _PARTS}
    descriptions = decode(dict[str, dict[str, str | tuple[int, ...]]], structure["values"], get, "values")
    values = {name: _restore(name, description, stored) for name, description in descriptions.items()}
    graph = ParamGraph(values=values, **parts)
    check_graph(graph)
    return graph


def field_types_of_graph() -> dict[str, Any]:
    """Types of the graph's parts. A graph made by hand may have no group."""
    hints = field_types(ParamGraph)
    return {**hints, "symmetry": hints["symmetry"] | None}


class _Arrays:
    """Index arrays of a graph, equal ones once."""

    def __init__(self) -> None:
        self.tensors: list[torch.Tensor] = []
        self._numbers: dict[tuple[str, tuple[int, ...], bytes], int] = {}

    def put(self, array: np.ndarray) -> int:
        plain = np.ascontiguousarray(array).reshape(array.shape)
        key = (plain.dtype.str, plain.shape, plain.tobytes())
        number = self._numbers.setdefault(key, len(self.tensors))
        if number == len(self.tensors):
            self.tensors.append(torch.from_numpy(plain.copy()))
        return number


def _describe(name: str, value: torch.Tensor) -> dict[str, Any]:
    if value.layout != torch.strided or value.is_quantized:
        raise FileFormatError(f"{name}: expected a dense tensor, got a {value.layout} one. Convert it before saving.")
    device = "meta" if value.device.type == "meta" else "file"
    return {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape), "device": device}


def _storable(value: torch.Tensor, seen: set[int]) -> torch.Tensor:
    """The value as safetensors takes it: contiguous, on the CPU, sharing no storage with another one, of a type that it names."""
    value = value.detach().resolve_conj().resolve_neg()
    if value.dtype in _STORED_AS:
        value = torch.view_as_real(value)
    value = value.cpu().contiguous()
    storage = value.untyped_storage().data_ptr()
    if value.numel() and storage in seen:
        return value.clone()
    seen.add(storage)
    return value


def _restore(name: str, description: dict[str, Any], stored: dict[str, torch.Tensor]) -> torch.Tensor:
    dtype, shape = _DTYPES.get(description.get("dtype", "")), description.get("shape")
    if set(description) != {"dtype", "shape", "device"} or dtype is None or not isinstance(shape, tuple) or min(shape, default=0) < 0:
        raise FileFormatError(f"value {name!r}: expected a dtype and a shape, got {description}. The file is damaged; write it again.")
    if description["device"] == "meta":
        return torch.empty(shape, dtype=dtype, device="meta")
    value = stored.get(f"value/{name}")
    if value is None:
        raise FileFormatError(f"value {name!r} is missing. The file is damaged; write it again.")
    if dtype in _STORED_AS and value.dtype == _STORED_AS[dtype] and value.shape[-1:] == (2,):
        value = torch.view_as_complex(value)
    if value.dtype != dtype or tuple(value.shape) != shape:
        raise FileFormatError(
            f"value {name!r}: expected {dtype} of shape {shape}, got {value.dtype} of shape {tuple(value.shape)}. "
            "The file is damaged; write it again."
        )
    return value
