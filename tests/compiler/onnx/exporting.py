"""Networks as torch's exporter writes them, and what graphs from both front ends are compared by."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import torch
from torch import nn

import paramgraph as pg


def exported(model: nn.Module, inputs: tuple[Any, ...], optimize: bool = False) -> Any:
    """The network as torch's exporter writes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, inputs, dynamo=True, optimize=optimize, verbose=False)
    assert program is not None
    return program.model_proto


def types(graph: pg.ParamGraph) -> tuple[Counter[Any], Counter[Any]]:
    """Node sets and edge sets by all that is typed, with counts; batch counters that no operation reads are not exported."""
    nodes = Counter((s.type, s.size, s.activation, s.depth) for s in graph.node_sets.values() if not s.type.startswith("unused"))
    edges = Counter((s.type, s.shape, s.depth, s.parameter and (s.parameter.name, s.parameter.use)) for s in graph.edge_sets.values()
                    if not s.type.startswith("unused"))
    return nodes, edges


def moved_together(graph: pg.ParamGraph) -> dict[str, list[list[tuple[str, ...]]]]:
    """Per parameter, the factors that move it, by the parameters that they move."""
    moved = [tuple(sorted(graph.symmetry.moved_by(number))) for number in range(len(graph.symmetry.factors))]
    return {name: sorted([m for m in moved if name in m]) for name in graph.values if any(name in m for m in moved)}  # type: ignore[misc]


def permuted_together(graph: pg.ParamGraph, other: pg.ParamGraph) -> Counter[tuple[str, ...]]:
    """Per factor of permutations, which it moves of the parameters that another graph has under the same name and of the same shape."""
    common = [name for name, value in graph.values.items() if name in other.values and other.values[name].shape == value.shape]
    moved = [graph.symmetry.moved_by(number) for number, factor in enumerate(graph.symmetry.factors) if factor.kind == "permutation"]
    return Counter(tuple(name for name in sorted(common) if name in own) for own in moved)
