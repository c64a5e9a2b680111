"""Shapes and element types of results: operator by operator, from ONNX's own inference, with the values of constant arguments known.

Everything is concrete: each operator is inferred by itself once its operands are known, so nothing is guessed, and no weight is read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from paramgraph.compiler.onnx.direct_shapes import DIRECT, direct_shape
from paramgraph.compiler.onnx.elementwise import COMPARISONS, TESTS, UNARY
from paramgraph.compiler.onnx.source import require
from paramgraph.errors import TraceError

# Element type and shape of a tensor; the shape is None where it depends on data.
Type = tuple[int, tuple[int, ...] | None]

SAME = frozenset([*UNARY, "Identity", "Shrink", "Softmax", "LogSoftmax", "Hardmax", "LayerNormalization", "InstanceNormalization", "Clip", "CumSum",
                  "GroupNormalization"])  # fmt: skip
BROADCAST = frozenset(["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "Mod"])
COMPARES = frozenset([*COMPARISONS, "Equal"])
TABULAR = frozenset(["Scaler", "Normalizer", "Binarizer", "Imputer"])
# Operators that move a window over positions: there is at least one place for it.
WINDOWED = frozenset(["Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "MaxPool", "AveragePool", "LpPool"])
RECURRENT = frozenset(["LSTM", "GRU", "RNN"])
_FLOAT, _BOOL = 1, 9


class Shapes:
    """Inference for one model.

    Args:
        opsets: version of each operator set by domain.
        ir_version: the file's version.
    """

    def __init__(self, opsets: dict[str, int], ir_version: int) -> None:
        self.opsets = opsets
        self.ir_version = ir_version
        self.onnx, self.ir = require()
        self._schemas: dict[tuple[str, str], Any] = {}

    @cached_property
    def _imports(self) -> list[Any]:
        return [self.onnx.helper.make_opsetid(domain, version) for domain, version in self.opsets.items()]

    def schema(self, domain: str, name: str) -> Any:
        """The operator's schema; None if it is not one of ONNX's own."""
        key = (domain, name)
        if key not in self._schemas:
            try:
                self._schemas[key] = self.onnx.defs.get_schema(name, self.opsets.get(domain, 1), domain)
            except self.onnx.defs.SchemaError:
                self._schemas[key] = None
        return self._schemas[key]

    def infer(self, node: Any, operands: Sequence[Type | None], data: dict[int, np.ndarray], attributes: dict[str, Any]) -> list[Type | None]:
        """Types of a node's results; None for those that cannot be inferred.

        Args:
            node: an `onnx_ir` node.
            operands: types of its operands.
            data: values of small constant operands, by place.
            attributes: the node's.

        Raises:
            TraceError: the operands do not fit the operator.
        """
        quick = self._quick(node, operands, data, attributes)
        found: list[Type | None] = self._asked(node, operands, data, attributes) if quick is None else [quick]
        why = _misfit(node, operands, data, attributes, [t[1] for t in found if t is not None and t[1] is not None])
        if why:
            raise self.misfit(node, operands, why)
        return found

    def _asked(self, node: Any, operands: Sequence[Type | None], data: dict[int, np.ndarray], attributes: dict[str, Any]) -> list[Type | None]:
        """What ONNX's own inference says."""
        schema = self.schema(node.domain, node.op_type)
        if any(value is not None and operand is None for value, operand in zip(node.inputs, operands, strict=True)):
            return [None] * len(node.outputs)  # of what an unknown operator gave, not even the element type is known
        if schema is None or any(attribute.type.name in ("GRAPH", "GRAPHS") for attribute in node.attributes.values()):
            return [None] * len(node.outputs)
        try:
            if node.op_type == "Split" and attributes.get("num_outputs", len(node.outputs)) != len(node.outputs):  # ONNX's inference ends the process
                raise ValueError(f"it has {len(node.outputs)} results, and says {attributes['num_outputs']}")
            message = self.ir.serde.serialize_node(node)
            types, values = {}, {}
            for place, (value, operand) in enumerate(zip(node.inputs, operands, strict=True)):
                if value is None or operand is None:
                    continue
                types[value.name] = self.onnx.helper.make_tensor_type_proto(*operand)
                if place in data:
                    values[value.name] = self.onnx.numpy_helper.from_array(data[place], value.name)
            found = self.onnx.shape_inference.infer_node_outputs(schema, message, types, values, None, self._imports, self.ir_version)
        except Exception as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            if said.startswith("Unrecognized attribute"):
                version = self.opsets.get(node.domain, 1)
                raise TraceError(f"the operator {node.op_type} ({node.name or node.outputs[0].name!r}) of operator set {version} is given what only "
                                 f"other sets have: {said}. Export it again, or convert it with onnx.version_converter.") from error
            raise self.misfit(node, operands, f"{said}.") from error
        return [self._type(found.get(output.name)) for output in node.outputs]

    @staticmethod
    def misfit(node: Any, operands: Sequence[Type | None], why: str) -> TraceError:
        """The error for a node whose operands do not fit."""
        shown = ", ".join("none" if o is None else str(list(o[1])) if o[1] is not None else "[?]" for o in operands)
        return TraceError(f"the operator {node.op_type} ({node.name or node.outputs[0].name!r}) does not fit its operands ({shown}): {why} "
                          "Give sizes that run through the model: example inputs, or `dimensions=` by name.")

    def _quick(self, node: Any, operands: Sequence[Type | None], data: dict[int, np.ndarray], attributes: dict[str, Any]) -> Type | None:
        """Operators whose result has their operand's type, or that of its broadcasting, or is easily told, without asking."""
        if len(node.outputs) != 1 or not operands or operands[0] is None or operands[0][1] is None:
            return None
        if node.domain == "ai.onnx.ml" and node.op_type in TABULAR:
            return operands[0] if node.op_type in ("Binarizer", "Imputer") else (_FLOAT, operands[0][1])
        if node.domain == "ai.onnx.ml" and node.op_type == "ArrayFeatureExtractor" and operands[1] is not None and operands[1][1] is not None:
            return operands[0][0], (*(operands[0][1][:-1] or (1,)), math.prod(operands[1][1]))
        if node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type in SAME:
            return operands[0]
        if node.op_type in DIRECT:
            if any(operand is not None and operand[1] is None for operand in operands):
                return None
            found = direct_shape(node.op_type, [None if operand is None else operand[1] for operand in operands], data, attributes)
            like = operands[1] if node.op_type == "Where" and found is not None else operands[0]
            return None if found is None or like is None else (like[0], found)
        if node.op_type == "Cast" and "to" in attributes:
            return attributes["to"], operands[0][1]
        if node.op_type in TESTS:
            return _BOOL, operands[0][1]
        if node.op_type in BROADCAST or node.op_type in COMPARES:
            shapes = [operand[1] for operand in operands if operand is not None]
            if None in shapes:
                return None
            try:
                shape = np.broadcast_shapes(*shapes)  # type: ignore[arg-type]
            except ValueError:
                return None  # the inference proper says what is wrong
            return (_BOOL if node.op_type in COMPARES else operands[0][0]), tuple(int(n) for n in shape)
        return None

    @staticmethod
    def _type(message: Any) -> Type | None:
        if message is None or not message.HasField("tensor_type"):
            return None
        tensor = message.tensor_type
        if not tensor.HasField("shape"):
            return tensor.elem_type, None
        sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
        return tensor.elem_type, None if None in sizes else tuple(int(n) for n in sizes if n is not None)


def _misfit(node: Any, operands: Sequence[Type | None], data: dict[int, np.ndarray], attributes: dict[str, Any],
            results: Sequence[tuple[int, ...]]) -> str:
    """What ONNX's inference lets pass, and no runtime: windows that are larger than what they move over, and other sizes that do not fit."""
    shapes = [None if operand is None else operand[1] for operand in operands]
    least = 1 if node.op_type in WINDOWED and all(0 not in (shape or ()) for shape in shapes) else 0
    for shape in results:
        if min(shape, default=1) < least:
            return f"its result would be of shape {list(shape)}."
    if node.op_type == "Pad" and attributes.get("mode") == "reflect" and shapes[0] is not None and 1 in data:
        axes, sizes = data[3].reshape(-1).tolist() if 3 in data else list(range(len(shapes[0]))), data[1].reshape(-1).tolist()
        pairs = zip(axes, sizes, sizes[len(axes) :], strict=False)
        if any(max(before, after, 0) >= max(shapes[0][d], 1) for d, before, after in pairs):
            return "it reflects more elements than there are."
    if node.op_type in RECURRENT and shapes[0] is not None and len(shapes[0]) == 3:
        batch = 0 if attributes.get("layout") else 1
        if any(shape is not None and len(shape) == 3 and shape[batch] != shapes[0][batch] for shape in shapes[5:7]):
            return "its states are of another batch than its input."
    return ""
