"""Edge sets over stacked parameters as edge sets over the network's own: one for each branch, of one type."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from paramgraph.graph import EdgeSet, ParameterView


def unstacked(edge_sets: Mapping[str, EdgeSet], stacks: Mapping[str, tuple[str, ...]], sizes: Mapping[str, int]) -> dict[str, EdgeSet]:
    """The edge sets of a graph, those of stacked parameters taken apart.

    Args:
        edge_sets: by name.
        stacks: per stacked parameter, the names of its members, row-major.
        sizes: per stacked parameter, the number of elements of each member.
    """
    if not stacks:
        return dict(edge_sets)
    out: dict[str, EdgeSet] = {}
    for edges in edge_sets.values():
        view = edges.parameter
        if view is None or view.name not in stacks:
            out[edges.name] = edges
            continue
        for part in _parts(edges, view, stacks[view.name], sizes[view.name]):
            assert part.parameter is not None
            name = edges.name.replace(view.name, part.parameter.name)
            times = 0
            while (unique := f"{name}:{times}" if times else name) in out or unique in edge_sets:
                times += 1
            out[unique] = replace(part, name=unique)
    return out


def _parts(edges: EdgeSet, view: ParameterView, members: Sequence[str], size: int) -> Iterator[EdgeSet]:
    lead = _leading(view, len(members), size)
    places = None if lead is None else _places(view, edges.shape)
    if lead is None or places is None:
        yield from _listed(edges, view, members, size)
        return
    counts = view.split[:lead]
    for place in product(*(range(*own) for own in view.slices[:lead])):
        fixed = dict(enumerate(place))
        # Where the branch's own nodes stand in what the groups, rows and columns of the edge set run through.
        keep = [[fixed[d] - view.slices[d][0] if d < lead else slice(None) for d in own] for own in places]
        lengths = [[len(range(*view.slices[d])) for d in own] for own in places]
        shape = [math.prod(n for n, at in zip(own, kept, strict=True) if isinstance(at, slice)) for own, kept in zip(lengths, keep, strict=True)]
        groups, m, k, p = shape
        grids = [np.arange(math.prod(own)).reshape(own)[tuple(kept)].reshape(-1) for own, kept in zip(lengths, keep, strict=True)]
        source = edges.sources()[np.ix_(grids[0], grids[2])]
        target = edges.targets()[np.ix_(grids[0], grids[1])]
        order = tuple(d - lead for own in places for d in own if d >= lead)
        rest = tuple(d - lead for d in view.order if d >= lead and d - lead not in order)
        own_view = replace(view, name=members[int(np.ravel_multi_index(place, counts))], split=view.split[lead:], slices=view.slices[lead:],
                           order=(*order, *rest))
        yield replace(edges, shape=(groups, m, k, p), source_index=source, target_index=target, parameter=own_view,
                      positions=None if edges.positions is None else edges.positions[grids[3]])


def _leading(view: ParameterView, count: int, size: int) -> int | None:
    """How many dimensions of a view's split run over the members of a stack."""
    if view.index is not None:
        return None
    for lead in range(1, len(view.split)):
        if math.prod(view.split[:lead]) == count and math.prod(view.split[lead:]) == size:
            return lead
    return 1 if len(view.split) == 1 and view.split[0] == count and size == 1 else None


def _places(view: ParameterView, shape: tuple[int, int, int, int]) -> list[list[int]] | None:
    """Which dimensions of a view make up the groups, rows, columns and positions of its edge set, in order."""
    lengths = {d: len(range(*own)) for d, own in enumerate(view.slices)}
    todo = [d for d in view.order if lengths[d] > 1 or math.prod(lengths.values()) == 1]
    out: list[list[int]] = []
    for n in shape:
        own: list[int] = []
        while math.prod(lengths[d] for d in own) < n and todo:
            own.append(todo.pop(0))
        if math.prod(lengths[d] for d in own) != n:
            return None
        out.append(own)
    # Dimensions of which one element is taken stand anywhere; those over the branches must be found.
    out[0] = [d for d in view.order if lengths[d] == 1 and not any(d in own for own in out)] + out[0]
    return out if not todo else None


def _listed(edges: EdgeSet, view: ParameterView, members: Sequence[str], size: int) -> Iterator[EdgeSet]:
    """Edge by edge, where the elements of one branch are no slice of the view."""
    numbers = view.element_numbers(edges.shape)
    owner = numbers // size
    if edges.shape[3] > 1 and not (owner == owner[..., :1]).all():
        raise NotImplementedError(f"the positions of {edges.name} belong to several branches")
    source, target = (end.reshape(edges.shape) for end in edges.edge_index())
    for number in np.unique(owner).tolist():
        held = owner[..., 0] == number
        own = ParameterView(members[number], (), (), (), view.role, view.use, numbers[held] - number * size)
        ends = [end[..., 0][held][:, None] for end in (source, target)]
        shape = (int(held.sum()), 1, 1, edges.shape[3])
        yield replace(edges, shape=shape, source_index=ends[0], target_index=ends[1], explicit=True, parameter=own)
