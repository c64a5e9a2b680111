"""Whether a graph read from a file agrees with itself: names, sizes, and every index in range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from paramgraph.errors import FileFormatError
from paramgraph.graph import EXTENTS, Alias, EdgeSet, NodeSet, ParameterView, ParamGraph

if TYPE_CHECKING:
    from paramgraph.symmetries.group import SymmetryGroup


def check_graph(graph: ParamGraph) -> None:
    """Raise `FileFormatError` at the first contradiction. Values are not read, only their shapes."""
    shapes = {name: tuple(value.shape) for name, value in graph.values.items()}
    _check_names(graph, shapes)
    if graph.symmetry is not None:
        _check_group(graph.symmetry, shapes)
    for name, nodes in graph.node_sets.items():
        _require(nodes.name == name, f"node set {name!r}", "its own name", repr(nodes.name))
        _check_nodes(nodes, graph.symmetry)
    owned = dict.fromkeys(shapes, 0)
    for name, edges in graph.edge_sets.items():
        _require(edges.name == name, f"edge set {name!r}", "its own name", repr(edges.name))
        _check_edges(edges, graph.node_sets, shapes)
        if edges.parameter is not None and edges.parameter.use == 0:
            owned[edges.parameter.name] += edges.num_edges
    for name, count in owned.items():
        size = math.prod(shapes[name])
        _require(count <= size, f"parameter {name!r}", f"at most {size} edges that own its elements", count)


def _check_names(graph: ParamGraph, shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, alias in graph.aliases.items():
        _check_alias(name, alias, shapes)
    known = {*shapes, *graph.aliases}
    fits = set(graph.names) == known and len(graph.names) == len(known)
    _require(fits, "names", f"the {len(known)} saved tensors and aliases", graph.names)


def _check_alias(name: str, alias: Alias, shapes: Mapping[str, tuple[int, ...]]) -> None:
    place = f"alias {name!r}"
    _require(alias.base in shapes, place, "a saved tensor as its base", repr(alias.base))
    _require(len(alias.size) == len(alias.stride), place, "as many strides as sizes", (alias.size, alias.stride))
    _require(min((*alias.size, *alias.stride, alias.offset), default=0) >= 0, place, "sizes, strides and offset of at least 0", alias)
    reach = alias.offset + sum((s - 1) * t for s, t in zip(alias.size, alias.stride, strict=True))
    inside = 0 in alias.size or reach < math.prod(shapes[alias.base])
    _require(inside, place, f"a view within the {math.prod(shapes[alias.base])} elements of {alias.base!r}", f"one that reaches {reach}")


def _check_group(group: SymmetryGroup, shapes: Mapping[str, tuple[int, ...]]) -> None:
    spaces, factors = group.spaces, group.factors
    for i, space in enumerate(spaces):
        _require(space.size >= 0 and -1 <= space.factor < len(factors), f"space {i}", f"a factor below {len(factors)}", space)
    for i, factor in enumerate(factors):
        place = f"factor {i}"
        if factor.kind != "permutation":
            _numbers(factor.variables, len(group.scales.variables), place, "variables")
            size = sum(group.scales.variables[v].dimension for v in factor.variables)
            _require(factor.size == size, place, f"{size} by its variables", factor.size)
            continue
        _numbers((*factor.spaces, *factor.over), len(spaces), place, "spaces")
        size, copies = (math.prod(spaces[s].size for s in numbers) for numbers in (factor.spaces, factor.over))
        _require((size, copies) == (factor.size, factor.copies), place, f"S_{size}^{copies} by its spaces", factor)
        _require(all(spaces[s].factor == i for s in factor.spaces), place, "spaces that name it as their factor", factor.spaces)
    _check_stacks(group, shapes)
    _check_scales(group)
    for name, action in group.actions.items():
        place = f"action on {name!r}"
        for member in group.members(name):
            _require(shapes.get(member) == group.member_shape(name), place, f"shape {shapes.get(member)}", group.member_shape(name))
        for dims, blocks in action.components:
            _numbers(dims, len(action.shape), place, "dimensions")
            for block in blocks:
                _require(len(block.spaces) == len(block.index) == len(dims), place, f"blocks over {len(dims)} dimensions", block)
                for d, index, numbers in zip(dims, block.index, block.spaces, strict=True):
                    _numbers(numbers, len(spaces), place, "spaces")
                    _check_block(index, math.prod(spaces[s].size for s in numbers), action.shape[d], place)


def _check_scales(group: SymmetryGroup) -> None:
    scales = group.scales
    for name, blocks in scales.blocks.items():
        place = f"scales of {name!r}"
        _require(name in group.actions, place, "a tensor that is acted on", repr(name))
        shape = group.actions[name].shape
        for block in blocks:
            _require(len(block.index) == len(block.sizes) == len(shape), place, f"{len(shape)} dimensions", block)
            for index, sizes, n in zip(block.index, block.sizes, shape, strict=True):
                _check_block(index, math.prod(sizes), n, place)
                _require(index is not None or math.prod(sizes) == n, place, f"spaces of {n} elements together", sizes)
            for term in block.terms:
                _numbers(term.places, len(block.flat), place, "spaces")
                _numbers(term.variables, len(scales.variables), place, "variables")
                _require(all(bottom > 0 for _, bottom in term.exponents), place, "exponents with positive denominators", term.exponents)
                _require(len(term.exponents) == len(term.variables), place, "an exponent per variable", term.exponents)
                fits = all(tuple(block.flat[p] for p in term.places) == scales.variables[v].shape for v in term.variables)
                _require(fits, place, "variables of its spaces' sizes", term)
    for name, domain in scales.domains.items():
        _require({domain.magnitude, domain.sign} <= set(EXTENTS), f"domain of {name!r}", f"some of {', '.join(EXTENTS)}", domain)
    for i, variable in enumerate(scales.variables):
        place = f"scale variable {i}"
        _require(variable.kind in ("scale", "sign"), place, "a scale or a sign", variable.kind)
        blocks = scales.blocks.get(variable.tensor, ())
        _numbers((variable.block,), len(blocks), place, "blocks")
        _numbers(variable.places, len(blocks[variable.block].flat), place, "spaces")
        shape = tuple(blocks[variable.block].flat[p] for p in variable.places)
        _require(shape == variable.shape, place, f"shape {shape} by its spaces", variable.shape)


def _check_stacks(group: SymmetryGroup, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Every stack has an action whose leading axes count its members, and no tensor is in two of them."""
    seen: set[str] = set()
    for name, members in group.stacks.items():
        place = f"stack {name!r}"
        _require(name in group.actions and name not in shapes, place, "an action of its own, under a name of its own", name)
        _require(len(members) > 1 and len(set(members)) == len(members), place, "two different tensors or more", members)
        _require(not seen & set(members) and not set(members) & set(group.actions), place, "tensors that nothing else acts on", members)
        seen |= set(members)
        shape = group.actions[name].shape
        whole = sum(math.prod(shapes.get(member, ())) for member in members)
        leading = [math.prod(shape[:d]) for d in range(len(shape) + 1)]
        _require(whole == leading[-1] and len(members) in leading, place, f"an action on {whole} elements of {len(members)} tensors", shape)


def _check_nodes(nodes: NodeSet, group: SymmetryGroup | None) -> None:
    place = f"node set {nodes.name!r}"
    _require(nodes.size >= 0, place, "a size of at least 0", nodes.size)
    for index, numbers in nodes.blocks:
        _require(group is not None, place, "a group that its blocks refer to", None)
        assert group is not None
        _numbers(numbers, len(group.spaces), place, "spaces")
        _check_block(index, math.prod(group.spaces[s].size for s in numbers), nodes.size, place)
    if nodes.order is not None:
        _require(np.shape(nodes.order) == (nodes.size,), place, f"an order for each of {nodes.size} nodes", np.shape(nodes.order))


def _check_block(index: np.ndarray | None, count: int, size: int, place: str) -> None:
    """A block of `count` elements sits at `index` in an axis of `size`; without an index, at the axis's start."""
    if index is None:
        _require(count <= size, place, f"spaces of at most {size} elements together", count)
        return
    _require(index.shape == (count,), place, f"{count} positions", index.shape)
    _in_range(index, size, place)


def _check_edges(edges: EdgeSet, node_sets: Mapping[str, NodeSet], shapes: Mapping[str, tuple[int, ...]]) -> None:
    place = f"edge set {edges.name!r}"
    groups, m, k, positions = edges.shape
    _require(min(edges.shape) >= 0, place, "a shape of at least 0", edges.shape)
    for end, name, index, width in (
        ("source", edges.source, edges.source_index, k),
        ("target", edges.target, edges.target_index, m),
    ):
        _require(name in node_sets, place, f"a {end} among the node sets", repr(name))
        size = node_sets[name].size
        if index is None:
            _require(groups * width <= size, place, f"at most {size} {end} nodes", groups * width)
            continue
        _require(index.shape == (groups, width), place, f"{end} numbers of shape {(groups, width)}", index.shape)
        _in_range(index, size, place)
    if edges.positions is not None:
        fits = edges.positions.ndim == 2 and len(edges.positions) == positions and edges.positions.dtype.kind in "fiu"
        _require(fits, place, f"positions of shape ({positions}, r)", edges.positions.shape)
    if edges.parameter is not None:
        _check_view(edges.parameter, edges, shapes)


def _check_view(view: ParameterView, edges: EdgeSet, shapes: Mapping[str, tuple[int, ...]]) -> None:
    place = f"edge set {edges.name!r}"
    _require(view.name in shapes, place, "a saved tensor as its parameter", repr(view.name))
    size = math.prod(shapes[view.name])
    _require(view.use >= 0, place, "a use of at least 0", view.use)
    if view.index is not None:
        _require(view.index.size == edges.num_edges, place, f"{edges.num_edges} element numbers", view.index.size)
        _in_range(view.index, size, place)
        return
    _require(math.prod(view.split) == size, place, f"a split of {size} elements", view.split)
    _require(len(view.slices) == len(view.split), place, f"{len(view.split)} slices", len(view.slices))
    _require(sorted(view.order) == list(range(len(view.split))), place, f"an order of {len(view.split)} dimensions", view.order)
    _require(all(step > 0 for _, _, step in view.slices), place, "slices with positive steps", view.slices)
    count = math.prod(len(range(*slice(*s).indices(n))) for s, n in zip(view.slices, view.split, strict=True))
    _require(count == edges.num_edges, place, f"{edges.num_edges} elements in its view of {view.name!r}", count)


def _in_range(index: np.ndarray, size: int, place: str) -> None:
    _require(index.dtype.kind in "iu", place, "whole numbers as indices", index.dtype)
    if index.size:
        low, high = int(index.min()), int(index.max())
        _require(low >= 0 and high < size, place, f"indices from 0 to {size - 1}", f"{low} to {high}")


def _numbers(numbers: tuple[int, ...], limit: int, place: str, what: str) -> None:
    _require(all(0 <= n < limit for n in numbers), place, f"{what} numbered below {limit}", numbers)


def _require(holds: bool, place: str, expected: str, came: object) -> None:
    if not holds:
        shown = str(came)
        shown = shown if len(shown) <= 80 else f"{shown[:80]}…"
        raise FileFormatError(f"{place}: expected {expected}, got {shown}. The file is damaged; write it again with graph.save.")
