"""What a model's message must be before anything is made of it: each check says what is wrong, and reads nothing but the message."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from paramgraph.errors import FileFormatError, TraceError, first_line
from paramgraph.onnx_messages import tensors_of

# Operators of older sets say what they do in ways that this front end does not read.
OLDEST_OPSET = 7
DEFAULT_DOMAINS = ("", "ai.onnx")
# Nodes that a model may have once its functions are written out: each function may call another twice, and that one another.
MOST_NODES = 100_000
# Elements of a sparse tensor that is written out.
MOST_SPARSE = 1 << 26
_EXTERNAL = 1
_DATA = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


def check_opsets(message: Any, what: str) -> None:
    """There is a graph, and its operators are of sets that are known.

    Raises:
        FileFormatError: it is no model.
        TraceError: its operator sets are unknown.
    """
    import onnx

    if not message.HasField("graph") or not message.opset_import:
        raise FileFormatError(f"{what} holds no ONNX model: it has no graph or imports no operator set.")
    versions = {entry.domain: entry.version for entry in message.opset_import}
    newest = onnx.defs.onnx_opset_version()
    for domain, version in versions.items():
        if not isinstance(domain, str) or not 0 < version < 1 << 31:
            raise FileFormatError(f"{what} is no valid ONNX model: it imports {domain!r} in version {version}. Export or copy it again.")
    for domain in DEFAULT_DOMAINS:
        version = versions.get(domain)
        if version is not None and not OLDEST_OPSET <= version <= newest:
            raise TraceError(
                f"{what} uses version {version} of ONNX's operators; known are {OLDEST_OPSET} to {newest}. "
                "Convert it with onnx.version_converter, or install a newer onnx."
            )
    known = {*versions, *(f.domain for f in message.functions)}
    known |= set(DEFAULT_DOMAINS) if known & set(DEFAULT_DOMAINS) else set()
    for node in message.graph.node:
        if not isinstance(node.op_type, str) or not isinstance(node.domain, str):
            raise FileFormatError(f"{what} is no valid ONNX model: the operator of a node is {node.op_type!r}. Export or copy it again.")
        if node.domain not in known:
            raise TraceError(
                f"{what}: the node {node.name or node.op_type!r} is of domain {node.domain!r}, which the model does not import "
                f"(it imports {sorted(versions)}). Export it again, or add the import."
            )


def check_names(message: Any, what: str) -> None:
    """No two inputs, and no two initialisers, have one name; what nodes make is looked after by `onnx_ir`."""
    for kind, held in (("inputs", message.graph.input), ("initialisers", message.graph.initializer)):
        names = [item.name for item in held]
        if len(set(names)) < len(names):
            twice = next(name for name, count in Counter(names).items() if count > 1)
            raise FileFormatError(f"{what} is no valid ONNX model: two of its {kind} are called {twice!r}. Export it again.")


def check_calls(message: Any, what: str) -> None:
    """Functions do not call themselves, and written out they are not more than anyone can read."""
    if not message.functions:
        return
    bodies = {(f.domain, f.name, f.overload): f.node for f in message.functions}
    sizes: dict[tuple[str, str, str], int] = {}

    def size(nodes: Any, inside: tuple[Any, ...]) -> int:
        total = len(nodes)
        for node in nodes:
            for attribute in node.attribute:
                for graph in ([attribute.g] if attribute.HasField("g") else attribute.graphs):
                    total += size(graph.node, inside)
            key = (node.domain, node.op_type, node.overload)
            if key not in bodies:
                continue
            if key in inside:
                raise FileFormatError(f"{what} is no valid ONNX model: its function {node.op_type!r} calls itself. Export it again.")
            if key not in sizes:
                sizes[key] = size(bodies[key], (*inside, key))
            total += sizes[key]
        return total

    try:
        count = size(message.graph.node, ())
    except RecursionError:
        raise TraceError(f"{what}: its functions call each other through too many levels. Export it without functions.") from None
    if count > MOST_NODES:
        raise TraceError(f"{what} has {count} nodes once its functions are written out; at most {MOST_NODES} are read. Export it without functions.")


def check_tensors(message: Any, folder: Path | None, what: str) -> bool:
    """Shapes are sizes, and data are there: in the message, or where the format allows it, in files of the model's own folder.

    Returns:
        Whether there are data in files of their own.
    """
    found = False
    for tensor in tensors_of(message):
        if any(n < 0 for n in tensor.dims):
            raise FileFormatError(f"{what} is no valid ONNX model: {tensor.name!r} has the shape {list(tensor.dims)}. Export or copy it again.")
        if tensor.data_location == _EXTERNAL:
            found = True
            _check_place(tensor, folder, what)
        elif not tensor.HasField("raw_data") and math.prod(tensor.dims) and not any(len(getattr(tensor, field)) for field in _DATA):
            raise FileFormatError(f"{what}: the data of {tensor.name!r} do not fill its shape {list(tensor.dims)}: there are none. "
                                  "Export or copy it again.")
    return found


def _check_place(tensor: Any, folder: Path | None, what: str) -> None:
    place = {entry.key: entry.value for entry in tensor.external_data}
    if len(place) < len(tensor.external_data):
        raise FileFormatError(f"{what}: the place of the data of {tensor.name!r} is given twice. Export or copy it again.")
    location = place.get("location", "")
    if folder is None:
        raise FileFormatError(
            f"{what}: the data of {tensor.name!r} lie in {location!r}, and a message has no folder. "
            "Pass the path of the file, or load the data first (onnx.load with external data)."
        )
    root = os.path.realpath(folder)
    target = os.path.realpath(os.path.join(root, location.partition("\0")[0]))
    if not location or "\0" in location or os.path.isabs(location) or os.path.commonpath([root, target]) != root:
        raise FileFormatError(
            f"{what}: the data of {tensor.name!r} are said to lie in {location!r}, outside the model's folder. "
            "Nothing was read from there; data must lie beside the model."
        )
    if not os.path.isfile(target):
        raise FileFormatError(f"{what}: the data of {tensor.name!r} are missing: there is no file {location!r} beside the model. Copy it there.")
    try:
        start, length = (int(place.get(key) or 0) for key in ("offset", "length"))
    except ValueError as error:
        raise FileFormatError(f"{what}: the place of the data of {tensor.name!r} is no number ({error}). Copy it again.") from error
    if start < 0 or length < 0:
        raise FileFormatError(f"{what}: the data of {tensor.name!r} start at byte {start} and are {length} long. Copy it again.")
    end = start + length
    if end > os.path.getsize(target):
        raise FileFormatError(
            f"{what}: the data of {tensor.name!r} end at byte {end} of {location!r}, which has {os.path.getsize(target)}. Copy it again."
        )


def check_branches(node: Any, what: str) -> None:
    """A node with subgraphs has all that its operator must have.

    Args:
        node: an `onnx_ir` node.
        what: the model, for errors.
    """
    for name in {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",), "SequenceMap": ("body",)}.get(node.op_type, ()):
        if name not in node.attributes:
            raise TraceError(f"{what}: the {node.op_type} {node.name or node.outputs[0].name!r} has no {name}. Export it again.")


def written_out(message: Any, what: str) -> Any:
    """The message with its sparse initialisers as dense ones, behind those that it has, and how many it had: `onnx_ir` knows no sparse ones.

    Raises:
        FileFormatError: one is not what the format says, or too large to be written out.
    """
    import onnx

    out = type(message)()
    out.CopyFrom(message)
    for sparse in message.graph.sparse_initializer:
        name, shape = sparse.values.name, tuple(sparse.dims)
        if any(n < 0 for n in shape) or math.prod(shape) > MOST_SPARSE:
            raise FileFormatError(f"{what}: the sparse tensor {name!r} of shape {list(shape)} is too large to be written out. Store it densely.")
        try:
            values, places = (onnx.numpy_helper.to_array(tensor) for tensor in (sparse.values, sparse.indices))
            flat = places if places.ndim == 1 else np.ravel_multi_index(tuple(places.T), shape)
            dense = np.zeros(math.prod(shape), values.dtype)
            dense[flat] = values
        except Exception as error:  # whatever is not there, or does not fit
            raise FileFormatError(f"{what}: the sparse tensor {name!r} is no valid one ({first_line(error)}). Export it again.") from error
        out.graph.initializer.append(onnx.numpy_helper.from_array(dense.reshape(shape), name))
    del out.graph.sparse_initializer[:]
    return out
