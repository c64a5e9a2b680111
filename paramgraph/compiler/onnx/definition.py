"""Operators that ONNX itself defines by simpler ones: their definitions, with attributes filled in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paramgraph.compiler.onnx.shapes import Type
from paramgraph.compiler.onnx.source import require


@dataclass
class Definition:
    """The nodes that an operator stands for, with the values that are its operands and results: None for results that the node leaves out."""

    inputs: Sequence[Any]
    outputs: Sequence[Any]
    nodes: Sequence[Any]


def definition_of(schema: Any, node: Any, types: Sequence[Type | None], opsets: dict[str, int]) -> Definition:
    """The definition of a node's operator, which has one.

    Args:
        schema: the operator's schema.
        node: an `onnx_ir` node.
        types: types of its operands.
        opsets: version of each operator set by domain.
    """
    onnx, ir = require()
    message = ir.serde.serialize_node(node)
    if schema.has_context_dependent_function:
        given = [
            (onnx.TypeProto() if t is None else onnx.helper.make_tensor_type_proto(*t)).SerializeToString() for t in types
        ]
        text = schema.get_context_dependent_function(message.SerializeToString(), given)
        function = onnx.FunctionProto.FromString(text)
    else:
        function = schema.function_body
    made = {name for inner in function.node for name in inner.output}
    graph = onnx.helper.make_graph(
        [_filled(onnx, inner, message) for inner in function.node],
        "definition",
        [onnx.helper.make_empty_tensor_value_info(name) for name in function.input],
        [onnx.helper.make_empty_tensor_value_info(name) for name in function.output if name in made],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()])
    body = ir.serde.deserialize_model(model).graph
    results = {value.name: value for value in body.outputs}
    return Definition(list(body.inputs), [results.get(name) for name in function.output], list(body))


def _filled(onnx: Any, inner: Any, outer: Any) -> Any:
    """A node of a definition whose attributes that refer to the operator's have their values, or are left out with them."""
    out = onnx.NodeProto()
    out.CopyFrom(inner)
    del out.attribute[:]
    values = {attribute.name: attribute for attribute in outer.attribute}
    for attribute in inner.attribute:
        if not attribute.ref_attr_name:
            out.attribute.append(attribute)
        elif attribute.ref_attr_name in values:
            copy = out.attribute.add()
            copy.CopyFrom(values[attribute.ref_attr_name])
            copy.name = attribute.name
    return out
