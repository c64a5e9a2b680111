"""Continuous symmetries counted: the null space of the outputs' Jacobian by the parameters, beside what the group declares.

At a generic point, a direction of the parameters in which no output changes to first order, whatever the input, is tangent to a continuous
symmetry if the function is analytic. Piecewise linear functions have more such directions: there the count is an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from paramgraph.errors import GroupError
from paramgraph.symmetries.element import GroupElement
from paramgraph.symmetries.matrices import MatrixFactor
from paramgraph.verification.report import Maximality

if TYPE_CHECKING:
    from paramgraph.graph import ParamGraph
    from paramgraph.symmetries.group import SymmetryGroup
    from paramgraph.verification.execute import Execution

State = Mapping[str, torch.Tensor]

# Jacobians of more columns are not computed.
MOST = 5000
# Rows of the Jacobian for each column, and random inputs that they are taken from.
ROWS, INPUTS = 1.5, 40
# Random inputs that are tried, where most outputs do not depend on the parameters.
MOST_INPUTS = 400
# Further rows for each column, which are in the span of the others if these are enough; how often more are added if not; how far from the
# span a row may be.
MORE, ROUNDS, BEYOND = 0.25, 8, 1e-6
# Singular values below this, relative to the largest, are zero.
ZERO = 1e-9


class NotFinite(GroupError):
    """There are no derivatives to count with."""


def maximality(
    graph: ParamGraph, execution: Execution, state: State, read: set[str], draw: Callable[[], Sequence[Any]], generator: torch.Generator,
) -> Maximality:  # fmt: skip
    """Count the directions in which no output changes, and those of them that the group declares.

    Args:
        graph: the network's graph.
        execution: its program.
        state: a generic state, float64, aliases included.
        read: names of the base tensors that the program reads.
        draw: gives random inputs.
        generator: of what else is random: which outputs are looked at.

    Raises:
        NotFinite: derivatives are infinite or NaN.
        GroupError: the network has too many parameters.
    """
    names = [name for name, value in graph.values.items() if name in read and (value.is_floating_point() or value.is_complex())]
    kept = _read_elements(graph, names)
    total = int(sum(mask.sum() for mask in kept.values()))
    if total > MOST:
        raise GroupError(f"maximality is counted for up to {MOST:,} parameters, {graph.name} has {total:,}: take a narrower network of its kind.")
    jacobian = _jacobian(graph, execution, state, names, kept, draw, generator, math.ceil(ROWS * total) + 16)
    for _ in range(ROUNDS):
        rank, gap, scale, right = _decomposed(graph, jacobian)
        if rank == total:
            break
        # Of parameters that few outputs depend on there may be too few rows: others tell.
        more = _jacobian(graph, execution, state, names, kept, draw, generator, math.ceil(MORE * total) + 16)
        scaled = more / scale
        beyond = torch.linalg.vector_norm(scaled @ right[rank:].T, dim=1) > BEYOND * torch.linalg.vector_norm(scaled, dim=1)
        if not bool(beyond.any()):
            break
        jacobian = torch.cat([jacobian, more])
    else:
        rank, gap, scale, right = _decomposed(graph, jacobian)
    size = torch.linalg.vector_norm(jacobian)
    null = torch.linalg.qr(right[rank:].T / scale[:, None])[0]
    tangents = [_flat(tangent, names, kept) for tangent in _tangents(graph.symmetry, state)]
    declared = torch.stack(tangents) if tangents else torch.zeros(0, total, dtype=torch.float64)
    declared = declared / torch.linalg.vector_norm(declared, dim=1, keepdim=True).clamp(min=1e-300)
    change = float((torch.linalg.vector_norm(declared @ jacobian.T, dim=1) / size).max()) if len(declared) else 0.0
    _, found, span = torch.linalg.svd(declared, full_matrices=False)
    spanned = int((found > ZERO * found[0]).sum()) if len(found) else 0
    missing: dict[str, float] = {}
    if spanned < null.shape[1]:
        basis = span[:spanned].T
        rest = null - basis @ (basis.T @ null)
        squares, turned = torch.linalg.eigh(rest.T @ rest)  # many are equal: a singular value decomposition may not converge
        large = squares > 1e-12
        missing = _shares(rest @ turned[:, large] / squares[large].sqrt(), names, kept)
    return Maximality(total, null.shape[1], spanned, gap, change, missing)


def _decomposed(graph: ParamGraph, jacobian: torch.Tensor) -> tuple[int, float, torch.Tensor, torch.Tensor]:
    """The rank of a Jacobian, the gap between its singular values there, what its columns were divided by, and its right singular vectors."""
    if not bool(jacobian.isfinite().all()):
        raise NotFinite(f"{graph.name} has derivatives that are no finite numbers at a random point: continuous symmetries cannot be counted.")
    columns = torch.linalg.vector_norm(jacobian, dim=0)
    # Columns of one size, so that parameters of little influence do not hide.
    scale = torch.where(columns > 1e-12 * columns.max(), columns, torch.ones_like(columns))
    _, values, right = torch.linalg.svd(jacobian / scale, full_matrices=True)
    rank = int((values > ZERO * values[0]).sum()) if len(values) else 0
    gap = float(values[rank - 1] / values[rank].clamp(min=1e-300)) if 0 < rank < len(values) else math.inf
    return rank, gap, scale, right


def _read_elements(graph: ParamGraph, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Per tensor, which of its elements some operation reads; of complex numbers, both parts."""
    group, out = graph.symmetry, {name: np.ones(graph.values[name].shape, dtype=bool) for name in names}
    for name, action in group.actions.items():
        if action.unread is None:
            continue
        mask = np.ones(action.shape, dtype=bool)
        mask.reshape(-1)[action.unread] = False
        for member, part in zip(group.members(name), mask.reshape(-1, *group.member_shape(name)), strict=True):
            if member in out:
                out[member] = part
    return {name: np.stack([mask, mask], -1) if graph.values[name].is_complex() else mask for name, mask in out.items()}


def _jacobian(graph: ParamGraph, execution: Execution, state: State, names: Sequence[str], kept: Mapping[str, np.ndarray],
              draw: Callable[[], Sequence[Any]], generator: torch.Generator, wanted: int) -> torch.Tensor:
    """Derivatives of outputs by parameters at random inputs, shape `(rows, parameters)`; outputs that are inputs passed on count no rows."""
    rows: list[torch.Tensor] = []
    quota = -(-wanted // INPUTS)
    for _ in range(MOST_INPUTS):
        if len(rows) >= wanted:
            break
        found_here = 0
        leaves = {name: _real(state[name].detach()).clone().requires_grad_() for name in names}
        full = {**state, **{name: torch.view_as_complex(leaf) if state[name].is_complex() else leaf for name, leaf in leaves.items()}}
        full.update({name: alias.read(full) for name, alias in graph.aliases.items() if name in state})
        outputs = execution.run(full, draw(), grad=True)
        values = [v for v in outputs.values if isinstance(v, torch.Tensor) and v.requires_grad]
        if not values:
            raise GroupError(f"{graph.name} has no outputs that depend on its parameters: there is nothing to count.")
        flat = torch.cat([_real(v).reshape(-1) for v in values])
        for number in torch.randperm(len(flat), generator=generator)[: 4 * quota].tolist():
            if found_here >= quota or len(rows) >= wanted:
                break
            found = torch.autograd.grad(flat[number], list(leaves.values()), retain_graph=True, allow_unused=True)
            grads = {name: torch.zeros_like(leaves[name]) if g is None else g for name, g in zip(names, found, strict=True)}
            row = _flat(grads, names, kept)
            if bool(row.any()):
                rows.append(row)
                found_here += 1
    return torch.stack(rows) if rows else row.unsqueeze(0)


def _flat(tensors: Mapping[str, torch.Tensor], names: Sequence[str], kept: Mapping[str, np.ndarray]) -> torch.Tensor:
    """One vector of all elements that are read; tensors left out are zero."""
    parts = [_real(tensors[n])[torch.from_numpy(kept[n])] if n in tensors else torch.zeros(int(kept[n].sum()), dtype=torch.float64) for n in names]
    return torch.cat([part.reshape(-1) for part in parts])


def _real(tensor: torch.Tensor) -> torch.Tensor:
    """Complex numbers as two real ones each, along a last axis."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _tangents(group: SymmetryGroup, state: State) -> Iterator[dict[str, torch.Tensor]]:
    """The directions that the group declares: of each free scale, and of each entry of each matrix."""
    wide = {
        name: torch.stack([state[member] for member in group.members(name)]).reshape(action.shape)
        for name, action in group.actions.items() if all(member in state for member in group.members(name))
    }  # fmt: skip
    for number, variable in enumerate(group.scales.variables):
        if variable.kind != "scale":
            continue
        ones = {name: torch.ones_like(wide[name], dtype=torch.float64) for name in group.scales.tensors.get(number, ()) if name in wide}
        for place in np.ndindex(*(n - 1 for n in variable.shape)):
            table = np.zeros(variable.shape)
            table[tuple(i + 1 for i in place)] = 1.0
            acted = GroupElement.of_tables(group, {number: table}).act_on(ones)
            yield _members(group, {name: acted[name].log() * wide[name] for name in acted})
    for factor in group.moves:
        shape = (factor.copies, factor.size, factor.size) if isinstance(factor, MatrixFactor) else factor.shape
        for place in np.ndindex(*shape):
            direction = torch.zeros(shape, dtype=torch.float64)
            direction[place] = 1.0
            yield _members(group, factor.tangent(direction, wide))


def _members(group: SymmetryGroup, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    out: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        out.update(zip(group.members(name), tensor.reshape(-1, *group.member_shape(name)), strict=True))
    return out


def _shares(directions: torch.Tensor, names: Sequence[str], kept: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Each tensor's share in some orthonormal directions, the largest first."""
    found, start = {}, 0
    for name in names:
        count = int(kept[name].sum())
        found[name] = float(directions[start : start + count].square().sum()) / max(directions.shape[1], 1)
        start += count
    return {name: share for name, share in sorted(found.items(), key=lambda item: -item[1]) if share > 1e-3}
