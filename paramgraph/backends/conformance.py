"""What every backend must satisfy, for the tests of backends here and elsewhere.

A third party's test file needs a few lines:

    import pytest
    from paramgraph.backends.conformance import CASES, DTYPES, check_mixture, check_primitives

    @pytest.mark.parametrize("case", CASES, ids=str)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_conformance(case, dtype):
        check_primitives(MyBackend(), case, dtype)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_mixtures(dtype):
        check_mixture(MyBackend(), dtype)

The truth is a loop over edges, one by one, from `EdgeSet.edge_index`, in the same dtype's float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch

from paramgraph.backends.protocol import Backend, Block
from paramgraph.graph import EdgeSet

DTYPES = (torch.float32, torch.float64)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
WIDTH = 3


@dataclass(frozen=True)
class Case:
    """An edge set to try, with the sizes of its node sets and the number of graphs stacked."""

    name: str
    edges: EdgeSet
    num_sources: int
    num_targets: int
    batch: int = 2

    def __str__(self) -> str:
        return self.name


def _case(name: str, shape: tuple[int, int, int, int], sizes: tuple[int, int], batch: int = 2, **index: Any) -> Case:
    arrays = {key: np.asarray(value, dtype=np.int64) for key, value in index.items() if key != "explicit"}
    source, target = arrays.get("source_index"), arrays.get("target_index")
    edges = EdgeSet(name, "type", "source", "target", shape, source, target, explicit=bool(index.get("explicit", False)))
    return Case(name, edges, *sizes, batch=batch)


CASES: tuple[Case, ...] = (
    _case("dense", (1, 4, 3, 1), (3, 4)),
    _case("dense, one graph", (1, 4, 3, 1), (3, 4), batch=1),
    _case("dense with positions", (1, 2, 3, 5), (3, 2)),
    _case("diagonal", (5, 1, 1, 1), (5, 5)),
    _case("grouped", (3, 2, 4, 1), (12, 6)),
    _case("grouped with positions", (2, 3, 1, 4), (2, 6)),
    _case("single nodes", (1, 1, 1, 1), (1, 1)),
    _case("broadcast from one node", (4, 1, 1, 1), (1, 4), source_index=[[0]] * 4),
    _case("collected in one node", (4, 1, 1, 2), (4, 1), target_index=[[0]] * 4),
    _case("part of the nodes", (1, 2, 3, 1), (6, 5), source_index=[[5, 0, 2]], target_index=[[4, 1]]),
    _case("blocks that share nodes", (2, 2, 2, 2), (3, 3), source_index=[[0, 1], [1, 2]], target_index=[[2, 0], [2, 1]]),
    _case("explicit", (5, 1, 1, 1), (3, 4), source_index=[[0], [2], [2], [1], [0]], target_index=[[3], [3], [0], [1], [3]], explicit=True),
    _case("no edges", (0, 1, 1, 1), (3, 2), source_index=np.zeros((0, 1)), target_index=np.zeros((0, 1)), explicit=True),
    _case("two graphs in one list of edges", (6, 1, 1, 1), (7, 7), batch=1, source_index=[[0], [1], [0], [3], [5], [5]],
          target_index=[[2], [2], [1], [4], [4], [6]], explicit=True),
    _case("no sources", (1, 2, 0, 1), (0, 2)),
    _case("no targets", (1, 0, 2, 1), (2, 0)),
)


def check_primitives(backend: Backend, case: Case, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
    """Raise `AssertionError` unless all primitives agree with the truth in values and gradients.

    Args:
        backend: the engine under test.
        case: one of `CASES`, or an edge set of your own.
        dtype: one of `DTYPES`; agreement is to 1e-5 in float32 and 1e-10 in float64.
        device: where to run.
    """
    backend.check_device(torch.device(device))
    block = _whole(case, device)
    for number, (given, op) in enumerate(product(product((True, False), repeat=3), ("add", "mul"))):
        if any(given):
            _check_one(backend, case, block, dtype, device, given, op, number)


def check_mixture(backend: Backend, dtype: torch.dtype, device: torch.device | str = "cpu", cases: Sequence[Case] = CASES) -> None:
    """Raise `AssertionError` unless blocks of many shapes and batch sizes, worked on in turn, are kept apart.

    Batches of different architectures bring blocks that share a shape but not their indices or their number of graphs, and their gradients
    are computed after all of them have been seen. One loss runs through all cases, each once as it is and once with another batch size.

    Args:
        backend: the engine under test.
        dtype: one of `DTYPES`.
        device: where to run.
        cases: edge sets to mix.
    """
    mixed = [*cases, *(replace(case, batch=case.batch + 1) for case in cases)]
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(case.batch, case.num_sources, WIDTH, generator=generator, dtype=torch.float64) for case in mixed]
    edges = [torch.randn(case.batch, *case.edges.shape, WIDTH, generator=generator, dtype=torch.float64) for case in mixed]
    moved = [edge.to(device=device, dtype=dtype) for edge in edges]
    blocks = [_whole(case, device) for case in mixed]

    def loss(states: Sequence[torch.Tensor], collected: Callable[[int, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        total = states[0].new_zeros(())
        for number, state in enumerate(states):
            found = collected(number, state)
            # No two nodes count alike.
            weights = torch.linspace(1, 2, found.numel(), dtype=found.dtype, device=found.device)
            total = total + (torch.sin(found) * weights.reshape(found.shape)).sum()
        return total

    true_leaves = [state.clone().requires_grad_() for state in states]
    leaves = [state.to(device=device, dtype=dtype).requires_grad_() for state in states]
    truth = loss(true_leaves, lambda n, s: true_to_nodes(mixed[n], true_combine(mixed[n], s, None, edges[n], "mul"), "target"))
    got_total = loss(leaves, lambda n, s: backend.to_nodes(blocks[n], backend.combine(blocks[n], source=s, edge=moved[n], op="mul"), "target"))
    assert _deviation(got_total.detach(), truth.detach()) <= TOLERANCE[dtype], f"{backend.name}: a mixture's values deviate"
    expected = torch.autograd.grad(truth, true_leaves, allow_unused=True)
    got = torch.autograd.grad(got_total, leaves, allow_unused=True)
    for case, leaf, true, gradient in zip(mixed, true_leaves, expected, got, strict=True):
        zero = torch.zeros_like(leaf)
        error = _deviation(zero if gradient is None else gradient, zero if true is None else true)
        assert error <= TOLERANCE[dtype], f"{backend.name}: in a mixture, the gradient of {case} (batch {case.batch}) deviates by {error:.1e}"


def _check_one(
    backend: Backend, case: Case, block: Block, dtype: torch.dtype, device: torch.device | str, given: tuple[bool, ...], op: Any, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((case.num_sources,), (case.num_targets,), case.edges.shape)
    terms = [
        torch.randn(case.batch, *shape, WIDTH, generator=generator, dtype=torch.float64) if wanted else None
        for shape, wanted in zip(shapes, given, strict=True)
    ]
    truth = _results(terms, lambda s, t, e: true_combine(case, s, t, e, op), lambda z, end: true_to_nodes(case, z, end))
    moved = [None if term is None else term.to(device=device, dtype=dtype) for term in terms]
    found = _results(moved, lambda s, t, e: backend.combine(block, s, t, e, op), lambda z, end: backend.to_nodes(block, z, end))
    summed = backend.to_graph(block, backend.combine(block, moved[0], moved[1], moved[2], op))
    what = f"{backend.name}: {case}, {op} of " + ", ".join(n for n, g in zip(("source", "target", "edge"), given, strict=True) if g)
    for (name, expected), (_, got) in zip(truth, found, strict=True):
        assert got.shape == expected.shape, f"{what}: {name}: expected shape {tuple(expected.shape)}, got {tuple(got.shape)}"
        assert got.dtype == dtype, f"{what}: {name}: expected {dtype}, got {got.dtype}"
        error = _deviation(got, expected)
        assert error <= TOLERANCE[dtype], f"{what}: {name} deviates by {error:.1e}"
    total = truth[0][1].sum((1, 2, 3, 4))
    assert summed.shape == total.shape, f"{what}: to_graph: expected shape {tuple(total.shape)}, got {tuple(summed.shape)}"
    assert _deviation(summed, total) <= TOLERANCE[dtype], f"{what}: to_graph deviates by {_deviation(summed, total):.1e}"


def _results(
    terms: list[torch.Tensor | None],
    combine: Callable[[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None], torch.Tensor],
    to_nodes: Callable[[torch.Tensor, Any], torch.Tensor],
) -> list[tuple[str, torch.Tensor]]:
    """Values of the primitives, and gradients of a nonlinear function of them, each with its name."""
    leaves = [None if term is None else term.clone().requires_grad_() for term in terms]
    edge = combine(*leaves)
    curved = torch.sin(edge)
    at_targets, at_sources = to_nodes(curved, "target"), to_nodes(curved, "source")
    loss = torch.cos(at_targets).sum() + (at_sources**2).sum() + (curved**3).sum()
    wanted = {name: leaf for name, leaf in zip(("source", "target", "edge"), leaves, strict=True) if leaf is not None}
    gradients = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True) if loss.requires_grad else [None] * len(wanted)
    named = [("combine", edge), ("to_nodes at targets", at_targets), ("to_nodes at sources", at_sources)]
    for (name, leaf), gradient in zip(wanted.items(), gradients, strict=True):
        named.append((f"gradient of {name}", torch.zeros_like(leaf) if gradient is None else gradient))
    return [(name, tensor.detach()) for name, tensor in named]


def true_combine(case: Case, source: torch.Tensor | None, target: torch.Tensor | None, edge: torch.Tensor | None, op: str) -> torch.Tensor:
    """`Backend.combine`, edge by edge."""
    batch, dtype, edge_sizes = case.batch, torch.float64, case.edges.shape
    rows = []
    for number, (j, i) in enumerate(_pairs(case.edges)):
        terms = [] if source is None else [source[:, j]]
        terms += [] if target is None else [target[:, i]]
        terms += [] if edge is None else [edge.reshape(batch, -1, WIDTH)[:, number]]
        rows.append(torch.stack(terms).sum(0) if op == "add" else torch.stack(terms).prod(0))
    full = (batch, *edge_sizes, WIDTH)
    return torch.stack(rows, dim=1).reshape(full) if rows else torch.zeros(full, dtype=dtype)


def true_to_nodes(case: Case, edge: torch.Tensor, end: str) -> torch.Tensor:
    """`Backend.to_nodes`, edge by edge."""
    size = case.num_targets if end == "target" else case.num_sources
    sums = [torch.zeros(case.batch, WIDTH, dtype=edge.dtype) for _ in range(size)]
    rows = edge.reshape(case.batch, case.edges.num_edges, WIDTH)
    for number, (j, i) in enumerate(_pairs(case.edges)):
        node = i if end == "target" else j
        sums[node] = sums[node] + rows[:, number]
    return torch.stack(sums, dim=1) if sums else torch.zeros(case.batch, 0, WIDTH, dtype=edge.dtype)


def _pairs(edges: EdgeSet) -> Iterator[tuple[int, int]]:
    """`(source, target)` of every edge."""
    source, target = edges.edge_index()
    return zip(source.tolist(), target.tolist(), strict=True)


def _whole(case: Case, device: torch.device | str) -> Block:
    index = [None if i is None else torch.as_tensor(i, device=device) for i in (case.edges.source_index, case.edges.target_index)]
    return Block(case.edges.shape, case.num_sources, case.num_targets, *index)


def _deviation(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute deviation, relative to the largest expected number where that is above one."""
    if expected.numel() == 0:
        return 0.0
    return float((got.cpu().double() - expected).abs().max() / expected.abs().max().clamp(min=1))
