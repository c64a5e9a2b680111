"""Edited values back into the ONNX model they came from: everything that was not changed stays as it was, byte for byte where it can.

A tensor whose values did not change keeps the very form that it has in the file. Data that lie in files of their own are copied, and the
changed elements are written over the copy, at the same places.
"""

from __future__ import annotations

import math
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paramgraph.errors import FileFormatError, StateDictError
from paramgraph.exchange.files import written_whole
from paramgraph.onnx_messages import held_tensors, tensors_of

if TYPE_CHECKING:
    import torch

    from paramgraph.graph import ParamGraph

_EXTERNAL = 1
# What is added to a file of data starts at a multiple of this many bytes, as mapping it wants.
_ALIGNED = 4096


def to_onnx(graph: ParamGraph, path: str | Path) -> Path:
    """Write a graph's values into a copy of the ONNX model that it was compiled from.

    Args:
        graph: a graph compiled from an ONNX model, perhaps with other values.
        path: the file to write. Data that lay in files of their own go into files beside it, named after it.

    Returns:
        The path written.

    Raises:
        FileFormatError: the graph comes from no ONNX model, the model has changed since, or the path cannot be written.
        StateDictError: a tensor's dtype is not the model's.
    """
    path = Path(path)
    if graph.source is None:
        raise FileFormatError(
            f"{graph.name} was not compiled from an ONNX model, or was loaded from a file that does not hold it. "
            "Compile the model (paramgraph.compile of the .onnx file), and give that graph the values: graph.with_values(…).to_onnx(…)."
        )
    source = graph.source
    given = source.read()
    message = type(given)()
    message.CopyFrom(given)
    tensors = _parameters(message, graph)
    locations = sorted({_entry(tensor, "location") for tensor in tensors_of(message) if _is_external(tensor)})
    names = {location: path.name + (".data" if len(locations) == 1 else f".{number}.data") for number, location in enumerate(locations)}
    with ExitStack() as stack:
        copies = {}
        for location in locations:
            target = path.with_name(names[location])
            copies[location] = stack.enter_context(written_whole(target))
            shutil.copyfile(source.folder / location, copies[location])
        shared = _overlapping(message)
        for name, tensor in tensors.items():
            if _is_external(tensor):
                _write_external(tensor, graph.values[name], copies[_entry(tensor, "location")], name, _place(tensor) in shared)
            else:
                _write_inside(tensor, graph.values[name])
        for tensor in tensors_of(message):
            if _is_external(tensor):
                _set_location(tensor, names)
        with written_whole(path) as temporary:
            temporary.write_bytes(message.SerializeToString())
    return path


def _parameters(message: Any, graph: ParamGraph) -> dict[str, Any]:
    """The model's tensors that hold the graph's values, by name."""
    held = held_tensors(message)
    found = {name: held[name][1] for name in graph.values if name in held}
    found = {name: holder.attribute[0].t if hasattr(holder, "op_type") else holder for name, holder in found.items()}
    for name, value in graph.values.items():
        tensor = found.get(name)
        if tensor is None or tuple(tensor.dims) != tuple(value.shape):
            raise FileFormatError(
                f"the ONNX model of {graph.name} has changed since it was compiled: it has no {name!r} of shape {list(value.shape)}. "
                "Compile it again."
            )
    return found


def _bytes(value: torch.Tensor) -> bytes:
    """Elements in row-major order, little-endian, as the format has them."""
    import torch

    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _check_dtype(name: str, tensor: Any, value: torch.Tensor) -> None:
    import onnx

    expected = "bfloat16" if tensor.data_type == onnx.TensorProto.BFLOAT16 else str(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    given = str(value.dtype).removeprefix("torch.")
    if value.device.type == "meta" or given != expected:
        raise StateDictError(
            f"{name}: the model holds {expected} values, got {given} on {value.device.type}. Convert it: tensor.to('cpu', torch.{expected})."
        )


def _write_inside(tensor: Any, value: torch.Tensor) -> None:
    import onnx

    _check_dtype(tensor.name, tensor, value)
    data = _bytes(value)
    if tensor.HasField("raw_data"):
        if tensor.raw_data != data:
            tensor.raw_data = data
        return
    if np.ascontiguousarray(onnx.numpy_helper.to_array(tensor)).tobytes() != data:
        for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(field)
        tensor.raw_data = data


def _write_external(tensor: Any, value: torch.Tensor, file: Path, name: str, shared: bool) -> None:
    """Values over the old ones; at the end of the file where other tensors read the same bytes, and the values differ from those."""
    _check_dtype(name, tensor, value)
    data = _bytes(value)
    offset = int(_entry(tensor, "offset") or 0)
    if offset + len(data) > os.path.getsize(file):
        raise FileFormatError(f"the data of {name!r} are shorter than the tensor. Copy the model's data again.")
    with file.open("rb+") as handle:
        handle.seek(offset)
        if shared:
            if handle.read(len(data)) == data:
                return
            offset = -(-handle.seek(0, os.SEEK_END) // _ALIGNED) * _ALIGNED
            handle.seek(offset)
            _set_place(tensor, offset, len(data))
        handle.write(data)


def _overlapping(message: Any) -> set[tuple[str, int, int]]:
    """Places of external data that are several tensors', or of which a part is another's as well."""
    held = sorted(_place(tensor) for tensor in tensors_of(message) if _is_external(tensor))
    out: set[tuple[str, int, int]] = set()
    furthest = ("", 0, 0)
    for place in held:
        if place[0] != furthest[0]:
            furthest = place
            continue
        if place[1] < furthest[2]:
            out |= {furthest, place}
        furthest = max(furthest, place, key=lambda each: each[2])
    return out


def _place(tensor: Any) -> tuple[str, int, int]:
    """The file, the first byte and the end of a tensor's data."""
    start = int(_entry(tensor, "offset") or 0)
    return _entry(tensor, "location"), start, start + int(_entry(tensor, "length") or _size(tensor))


def _size(tensor: Any) -> int:
    import onnx

    return math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _set_place(tensor: Any, offset: int, length: int) -> None:
    kept = [(entry.key, entry.value) for entry in tensor.external_data if entry.key not in ("offset", "length")]
    _set_entries(tensor, [*kept, ("offset", str(offset)), ("length", str(length))])


def _set_entries(tensor: Any, entries: list[tuple[str, str]]) -> None:
    del tensor.external_data[:]
    for key, value in entries:
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def _set_location(tensor: Any, names: dict[str, str]) -> None:
    kept = [entry for entry in tensor.external_data if entry.key != "checksum"]  # a checksum of the old data
    entries = [(entry.key, names[entry.value] if entry.key == "location" else entry.value) for entry in kept]
    _set_entries(tensor, entries)


def _is_external(tensor: Any) -> bool:
    return bool(tensor.data_location == _EXTERNAL and tensor.external_data)


def _entry(tensor: Any, key: str) -> str:
    return next((str(entry.value) for entry in tensor.external_data if entry.key == key), "")
