"""Where in a model operations come from, for diagnostics, and for those who compare operations by what they were lowered from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any


class Place:
    """A node of a model, as diagnostics read it.

    Args:
        node: an `onnx_ir` node.
    """

    def __init__(self, node: Any) -> None:
        self.node = node
        name = node.name or f"{node.op_type} {node.outputs[0].name}" if node.outputs else node.op_type
        self.meta = {"nn_module_stack": {"": (name, None)}}

    @cached_property
    def form(self) -> Any:
        """The operator with its attributes, operands as marks; of nodes with subgraphs, comparable with itself alone."""
        node = self.node
        attributes = []
        for name, attribute in sorted(node.attributes.items()):
            if attribute.type.name in ("GRAPH", "GRAPHS", "SPARSE_TENSOR", "SPARSE_TENSORS", "TYPE_PROTO", "TYPE_PROTOS", "TENSORS"):
                return id(self)
            value = attribute.value
            attributes.append((name, (str(value.dtype), tuple(value.shape), value.tobytes()) if attribute.type.name == "TENSOR" else value))
        marks = ["none" if value is None else "operand" for value in node.inputs]
        return repr((node.domain, node.op_type, getattr(node, "overload", ""), attributes, marks, len(node.outputs)))


class Nodes:
    """The lineage of operations that nodes were lowered to (`paramgraph.compiler.lineage.Lineage`); `onnx_ir` values are the keys.

    Args:
        results: what each value was lowered to.
    """

    def __init__(self, results: Mapping[Any, Any]) -> None:
        self._results = results
        self.places: dict[Any, Place] = {}

    def at(self, node: Any) -> Place:
        """The place of a node, one for all that is lowered from it."""
        return self.places.setdefault(node, Place(node))

    def result(self, key: Any) -> Any:
        return self._results.get(key)

    def operands(self, call: Any) -> Sequence[Any]:
        return list(dict.fromkeys(value for value in call.node.inputs if value is not None)) if isinstance(call, Place) else ()

    def maker(self, key: Any) -> Place | None:
        node = key.producer()
        return None if node is None or node.op_type == "Constant" else self.places.get(node)

    def form(self, call: Any) -> Any:
        return call.form if isinstance(call, Place) else id(call)
