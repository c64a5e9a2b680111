"""Keys of a model's tensors, its subgraphs' among them: what they are called in a graph, and found by in the file when values go back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from paramgraph.onnx_messages import unique_key

# Where an `onnx_ir` value notes its key; clones have it too.
KEY = "paramgraph.key"
# Kinds of attributes that hold subgraphs, by the format's numbers.
_GRAPH, _GRAPHS = 5, 10


def mark(graph: Any) -> None:
    """Note on every tensor of a graph and of its subgraphs by what key its values go back into the file.

    Tensors of functions, which inlining adds, have none: the file has them once, however often the function is called.
    """
    found: list[tuple[str, Any]] = []
    given: Counter[str] = Counter()
    _find(graph, "", found, given)
    for path, value in found:
        value.meta[KEY] = unique_key(path, value.name, given)


def _find(graph: Any, path: str, found: list[tuple[str, Any]], given: Counter[str]) -> None:
    names = list(graph.initializers)
    names += [value.name for value in graph.inputs if value.name not in graph.initializers]
    found += [(path, value) for value in graph.initializers.values()]
    inside = []
    for node in graph:
        names += [value.name or "" for value in node.outputs]
        attributes = node.attributes
        if not attributes:
            continue
        if node.op_type == "Constant":
            if "value" in attributes:
                found.append((path, node.outputs[0]))
        elif has_subgraphs(node):
            inside.append(node)
    given.update(names)
    for node in inside:
        for inner, subgraph in subgraphs(node):
            _find(subgraph, inner, found, given)


def has_subgraphs(node: Any) -> bool:
    """Whether an `onnx_ir` node has subgraphs."""
    return any([attribute.type in (_GRAPH, _GRAPHS) for attribute in node.attributes.values()])  # noqa: C419  asked of every node, and quicker


def subgraphs(node: Any) -> Iterator[tuple[str, Any]]:
    """The subgraphs of an `onnx_ir` node, each with a name that tells it from all others of the model."""
    for name, attribute in node.attributes.items():
        kind = attribute.type
        if kind in (_GRAPH, _GRAPHS):
            owner = next((value.name for value in node.outputs if value.name), node.name)
            if kind == _GRAPH:
                yield f"{owner}.{name}", attribute.value
            else:
                yield from ((f"{owner}.{name}.{number}", graph) for number, graph in enumerate(attribute.value))
