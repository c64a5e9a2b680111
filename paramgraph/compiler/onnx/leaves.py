"""Which tensors of an ONNX file are parameters, which are constants, and their values as torch tensors.

A file does not say it, unless torch's exporter wrote it: that one notes for every initialiser what it was. Elsewhere

- floating-point initialisers, and `Constant` nodes that hold floating-point tensors, are parameters, if they have an axis;
- numbers (tensors without axes) are constants, and so are tensors of one element that only elementwise operators read;
- what a shape, a scale of a resize, a bound, or another argument is computed from is a constant, as its values are part of the structure;
- tensors of functions are constants: a file has them once, for all calls;
- integer tensors that are dequantised, or multiplied as integers, are parameters; other integers are constants.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from paramgraph.compiler.onnx.keys import KEY, has_subgraphs, subgraphs
from paramgraph.errors import FileFormatError, first_line

# Operands whose values say what an operator does: by operator, their places.
ARGUMENTS: dict[str, tuple[int, ...]] = {
    "Reshape": (1,), "Slice": (1, 2, 3, 4), "Resize": (1, 2, 3), "Upsample": (1,), "Pad": (1, 2, 3), "Tile": (1,), "Expand": (1,),
    "Range": (0, 1, 2), "ConstantOfShape": (0,), "TopK": (1,), "Clip": (1, 2), "OneHot": (1, 2), "Unsqueeze": (1,), "Squeeze": (1,),
    "Split": (1,), "CumSum": (1,), "Dropout": (1, 2), "Trilu": (1,), "SplitToSequence": (1,), "SequenceAt": (1,), "CenterCropPad": (1,),
    "ReduceSum": (1,), "ReduceMean": (1,), "ReduceMax": (1,), "ReduceMin": (1,), "ReduceProd": (1,), "ReduceL1": (1,), "ReduceL2": (1,),
    "ReduceLogSum": (1,), "ReduceLogSumExp": (1,), "ReduceSumSquare": (1,), "Compress": (1,), "If": (0,), "Loop": (0, 1),
    "NonMaxSuppression": (2, 3, 4), "RandomNormalLike": (0,), "Multinomial": (0,), "DFT": (1, 2), "STFT": (1, 3),
}  # fmt: skip
# Integer operands that are weights: by operator, their places.
INTEGER_WEIGHTS: dict[str, tuple[int, ...]] = {
    "DequantizeLinear": (0, 2), "QLinearConv": (3, 5, 8), "QLinearMatMul": (3, 5), "MatMulInteger": (1, 3), "ConvInteger": (1, 3),
    "DynamicQuantizeLSTM": (1, 2, 9, 11),
}  # fmt: skip
# Operators that give a value on, so that what reads their result reads the value.
PASSING = frozenset(["Identity", "Cast", "CastLike", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Flatten"])
ELEMENTWISE = frozenset("""Add Sub Mul Div Pow Max Min Sum Mean Mod Greater GreaterOrEqual Less LessOrEqual Equal Where Clip PRelu Sqrt Exp Neg
Reciprocal Log Abs Expand""".split())
# Element types that torch tensors hold as they are, by ONNX's number.
DTYPES = {1: torch.float32, 2: torch.uint8, 3: torch.int8, 4: torch.uint16, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
          10: torch.float16, 11: torch.float64, 12: torch.uint32, 13: torch.uint64, 16: torch.bfloat16}  # fmt: skip
FLOATING = frozenset([1, 10, 11, 16])
BOOL = 9
NARROW_INTEGERS = frozenset([2, 3, 4, 5, 6])
# Where torch's exporter notes what an initialiser was.
_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"
_PERSISTENT = "pkg.torch.export.graph_signature.InputSpec.persistent"
WITH_SUBGRAPHS = frozenset(["If", "Loop", "Scan", "SequenceMap"])
# Tensors with more elements are taken as not all alike, unread.
_MOST_READ = 1 << 20


def state_of(graph: Any) -> dict[str, Any]:
    """Tensors of a file that are parameters or buffers: `onnx_ir` values by key, in the file's order, subgraphs' after their graph's."""
    out: dict[str, Any] = {}
    _add_state(graph, {*_arguments(graph), *shared_fills(graph)}, out)
    return out


def _add_state(graph: Any, constants: set[Any], out: dict[str, Any]) -> None:
    inner = []
    for value in graph.initializers.values():
        if _holds_state(value, value.const_value, constants):
            out[value.meta[KEY]] = value
    for node in graph:
        attributes = node.attributes
        if attributes and node.op_type == "Constant" and "value" in attributes:
            value = node.outputs[0]
            if _holds_state(value, attributes["value"].value, constants):
                out[value.meta[KEY]] = value
        elif attributes and has_subgraphs(node):
            inner += [subgraph for _, subgraph in subgraphs(node)]
    for subgraph in inner:
        _add_state(subgraph, constants, out)


def shared_fills(graph: Any) -> list[Any]:
    """Tensors that are one number throughout, that several nodes read, and that nobody trained.

    Zeros that the layers of a stack start from are one `Constant` node. The optimiser of torch's exporter makes one initialiser of all that are
    equal, and says which were in the module: the ones that a decomposed normalisation multiplies by were not. Taken as a parameter, such a
    tensor would have to move for all its readers alike.
    """
    nodes = [node.outputs[0] for node in graph if node.op_type == "Constant" and "value" in node.attributes and len(node.outputs[0].uses()) > 1]
    values = list(graph.initializers.values())
    if any(_KIND in value.metadata_props for value in values):
        nodes += [value for value in values if _KIND not in value.metadata_props and len(value.uses()) > 1]
    return [value for value in nodes if _is_fill(tensor_of(value))]


def _is_fill(tensor: Any) -> bool:
    if tensor is None or int(tensor.dtype) not in FLOATING or not 1 < math.prod(tensor.shape) <= _MOST_READ:
        return False
    values = np.asarray(values_of(tensor)).reshape(-1)
    return bool((values == values[0]).all())


def _holds_state(value: Any, tensor: Any, constants: set[Any]) -> bool:
    if tensor is None or KEY not in value.meta or value in constants or int(tensor.dtype) not in DTYPES or 0 in tuple(tensor.shape):
        return False
    kind = value.metadata_props.get(_KIND)
    if kind is not None:
        return kind == "PARAMETER" or (kind == "BUFFER" and value.metadata_props.get(_PERSISTENT) == "True")
    size = math.prod(tensor.shape)
    if int(tensor.dtype) in FLOATING:
        return len(tensor.shape) > 0 and (size > 1 or not _only_elementwise(value))
    return int(tensor.dtype) in NARROW_INTEGERS and len(tensor.shape) > 0 and any(
        place in INTEGER_WEIGHTS.get(node.op_type, ()) for node, place in _readers(value))


def _readers(value: Any) -> Iterator[tuple[Any, int]]:
    """Nodes that read a value, through those that pass it on, and at which place."""
    for node, place in value.uses():
        if node.op_type in PASSING and place == 0:
            yield from _readers(node.outputs[0])
        else:
            yield node, place


def _only_elementwise(value: Any) -> bool:
    return all(node.op_type in ELEMENTWISE for node, _ in _readers(value))


def _arguments(graph: Any) -> Iterator[Any]:
    """Leaves that arguments of operators are computed from, where they are computed from leaves and shapes alone."""
    yield from _arguments_in(graph, {})


def _arguments_in(graph: Any, leaves: dict[Any, frozenset[Any]]) -> Iterator[Any]:
    leaves.update((value, frozenset([value])) for value in graph.initializers.values())
    nothing: frozenset[Any] = frozenset()
    for node in graph:
        name, inputs = node.op_type, node.inputs
        for place in ARGUMENTS.get(name, ()):
            if place < len(inputs):
                yield from leaves.get(inputs[place], ())
        if name == "Constant":
            leaves[node.outputs[0]] = frozenset(node.outputs)
            continue
        if name in WITH_SUBGRAPHS:
            for _, subgraph in subgraphs(node):
                yield from _arguments_in(subgraph, leaves)
            continue
        found = nothing
        # Shapes are read of no values; of a cast to the type of another value, that value says nothing but its type.
        for value in () if name in ("Shape", "Size") else inputs[:1] if name == "CastLike" else inputs:
            if value is not None:
                own = leaves.get(value)
                if own is None:
                    break
                found = found | own if found else own
        else:
            for output in node.outputs:
                leaves[output] = found


def tensor_of(value: Any) -> Any:
    """The `onnx_ir` tensor of a leaf."""
    node = value.producer()
    return value.const_value if node is None else node.attributes["value"].value


def values_of(tensor: Any) -> Any:
    """The values of a tensor as an array, by reference where its bytes lie in one piece.

    Raises:
        FileFormatError: it has not as many values as its shape says.
    """
    try:
        return tensor.numpy()
    except ValueError as error:
        shape = list(tensor.shape)
        raise FileFormatError(f"the data of {tensor.name!r} do not fill its shape {shape} ({first_line(error)}). Export or copy it again.") from error


def to_torch(tensor: Any) -> torch.Tensor:
    """The values of a tensor, by reference where its bytes lie in one piece: data in files are mapped, and read when they are used."""
    dtype = DTYPES[int(tensor.dtype)]
    array = np.asarray(values_of(tensor))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about memory that may not be written: nothing writes it
        if dtype == torch.bfloat16:
            return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16).reshape(tuple(tensor.shape))
        return torch.from_numpy(array).reshape(tuple(tensor.shape))
