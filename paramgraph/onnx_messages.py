"""Walks over ONNX messages, for what reads models and what writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any


def tensors_of(message: Any) -> Iterator[Any]:
    """All `TensorProto` of a model: initialisers and attributes, in subgraphs and functions too."""
    yield from _graph_tensors(message.graph)
    for function in message.functions:
        for node in function.node:
            yield from _node_tensors(node)


def _graph_tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("g"):
            yield from _graph_tensors(attribute.g)
        for graph in attribute.graphs:
            yield from _graph_tensors(graph)


def subgraphs_of(node: Any) -> Iterator[tuple[str, Any]]:
    """The subgraphs of a `NodeProto`, each with a name that tells it from all others of the model."""
    owner = next((name for name in node.output if name), node.name)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield f"{owner}.{attribute.name}", attribute.g
        for number, graph in enumerate(attribute.graphs):
            yield f"{owner}.{attribute.name}.{number}", graph


def held_tensors(message: Any) -> dict[str, tuple[Any, Any]]:
    """Every initialiser, and every `Constant` node that holds a tensor, of the graph and of its subgraphs: the graph that holds it, and it.

    The key is the tensor's name; of a subgraph's tensor whose name is given more than once in the model, with the subgraph's before it.
    """
    found: list[tuple[str, str, Any, Any]] = []
    given: Counter[str] = Counter()
    _hold(message.graph, "", found, given)
    return {unique_key(path, name, given): (graph, holder) for path, name, graph, holder in found}


def unique_key(path: str, name: str, given: Mapping[str, int]) -> str:
    """The key of a tensor of the subgraph `path`, or of the graph itself (""), by how often each name is given in the model."""
    return f"{path}.{name}" if path and given[name] > 1 else name


def _hold(graph: Any, path: str, found: list[tuple[str, str, Any, Any]], given: Counter[str]) -> None:
    own = {tensor.name for tensor in graph.initializer}
    given.update(own)
    given.update(value.name for value in graph.input if value.name not in own)
    found += [(path, tensor.name, graph, tensor) for tensor in graph.initializer]
    for node in graph.node:
        given.update(node.output)
        if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].HasField("t"):
            found.append((path, node.output[0], graph, node))
        for inner, subgraph in subgraphs_of(node):
            _hold(subgraph, inner, found, given)


def rename(graph: Any, old: str, new: str) -> None:
    """Let everything in a graph, and in its subgraphs, that reads `old` read `new`; what makes it keeps its name."""
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new
        for _, inner in subgraphs_of(node):
            if old not in {value.name for value in (*inner.input, *inner.initializer)} | {name for each in inner.node for name in each.output}:
                rename(inner, old, new)
    for value in graph.output:
        if value.name == old:
            value.name = new
