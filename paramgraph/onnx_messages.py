"""Walks over ONNX messages, for what reads models and what writes them."""

from __future__ import annotations

from collections.abc import Iterator
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
