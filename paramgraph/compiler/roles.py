"""Which index spaces are nodes, and which are positions.

Channels, units, heads, inputs and outputs are nodes: the axes that parameters contract or produce, and everything that the group moves.
Pixels, tokens, taps and batch are positions, also where they are laid into channels (patch merging, flatten): parameters have an edge for each.
Positions that a parameter contracts alone are nodes (token mixing), but for relative ones: rows of a table whose products are shifted against
each other.
"""

from __future__ import annotations

from paramgraph.compiler.program import Op, Program
from paramgraph.compiler.typing import Typing
from paramgraph.symmetries.solution import GroupBuilder
from paramgraph.symmetries.spaces import Axis, Space


def node_like_spaces(program: Program, typing: Typing, group: GroupBuilder) -> set[Space]:
    """The units (atomic or parted spaces) that index nodes; `group` knows the spaces that move parameters."""
    system = typing.system
    offsets = {unit for shift in typing.shifts for axis in shift.offsets(system) for unit in system.units(axis)}
    features = [axis for op in program.ops for axis in _feature_axes(op)]
    cuts = _cuts(typing)
    positions = _positions(program, typing, cuts)
    out: set[Space] = set()
    for axis in features:
        units = [unit for unit in system.units(axis) if unit.size > 1 and unit not in offsets]
        kept = [unit for unit in units if not (unit.pinned and unit in positions)]
        out.update(kept or units)
    _spread(cuts, out)
    values = [*program.inputs, *program.tensors.values(), *(op.output for op in program.ops)]
    axes = {axis for value in values for axis in value.axes}
    everything = {unit for axis in axes for unit in system.units(axis) if unit.size > 1}
    moved = {space for space in group.known() if not space.pinned}
    needed = {other for space in moved for other in typing.dependencies.on.get(space, ())} | moved
    # Families that move parameters through their members.
    for (base_id, assign), member in system.members.items():
        if system.find(member) is not system.spaces[base_id] and not needed.isdisjoint(_atoms(typing, system.units((member,)))):
            needed |= {system.spaces[base_id], *(system.spaces[over_id] for over_id, _ in assign)}
    return out | {unit for unit in everything if unit in needed or not needed.isdisjoint(_atoms(typing, (unit,)))}


def _cuts(typing: Typing) -> list[set[Space]]:
    """Fixed spaces that are one numbering of the same elements and another: what was cut, and what it was cut into or laid out as."""
    system, dependencies = typing.system, typing.dependencies
    cuts = [{unit, *inside} for unit, inside in dependencies.joined.items() if inside]
    for whole, parts in system.plain_cuts:
        cuts.append({unit for axis in (whole, *parts) for unit in _large(system.units(axis))})
    names = dependencies.names
    return [{names.get(unit, unit) for unit in cut} for cut in cuts]


def _spread(cuts: list[set[Space]], out: set[Space]) -> None:
    """What a fixed space was cut into is what it is itself (nodes, or positions), and so is what it was cut from or laid into."""
    changed = True
    while changed:
        changed = False
        for cut in cuts:
            if not cut <= out and not out.isdisjoint(cut):
                out |= cut
                changed = True


def _large(units: Axis) -> set[Space]:
    return {unit for unit in units if unit.size > 1}


def _atoms(typing: Typing, axis: Axis) -> set[Space]:
    if all(unit.parts is None for unit in axis):
        return set(axis)
    return {space for block in typing.dependencies.blocks([axis]) for space in block.axes[0]}


def _positions(program: Program, typing: Typing, cuts: list[set[Space]]) -> set[Space]:
    """Spaces that operations run along in order, or that parameters are shared along and none produces; and what those are cut into."""
    units = typing.system.units
    ordered = {unit for op in program.ops for axis in _ordered_axes(op) for unit in units(axis)}
    shared = {unit for op in program.ops for axis in _shared_axes(op) for unit in units(axis)}
    out = ordered | (shared - {unit for op in program.ops for axis in _produced_axes(op) for unit in units(axis)})
    _spread(cuts, out)
    return out


def _ordered_axes(op: Op) -> list[Axis]:
    if op.kind == "convolve" and not op.attrs["pointwise"]:
        return [*op.inputs[0].axes[2:], *op.output.axes[2:]]
    if op.kind == "resample":
        dims = op.attrs["dims"]
        return [value.axes[d] for value in (op.inputs[0], op.output) for d in dims]
    if op.kind == "mix" and op.attrs["ordered"]:
        return [op.inputs[0].axes[d] for d in op.attrs["mixed"]]
    return []


def _shared_axes(op: Op) -> list[Axis]:
    """Axes that pass by a parameter: it does the same at each of their elements."""
    if op.kind == "convolve" and op.inputs[1].parametric:
        return list(op.output.axes[2:])
    if op.kind == "gather" and op.inputs[0].parametric:
        dim = op.attrs["dim"]
        return list(op.output.axes[dim : dim + op.inputs[1].ndim])
    if op.kind != "contract" or not any(value.parametric for value in op.inputs):
        return []
    held = {label for labels, value in zip(op.labels, op.inputs, strict=True) if value.parametric for label in labels}
    return [axis for label, axis in zip(op.out_labels, op.output.axes, strict=True) if label not in held]


def _produced_axes(op: Op) -> list[Axis]:
    """Axes of a result that a parameter alone gives it."""
    if op.kind == "convolve" and op.inputs[1].parametric:
        return [op.output.axes[1]]
    if op.kind != "contract" or all(value.parametric for value in op.inputs):
        return []
    seen = {label for labels, value in zip(op.labels, op.inputs, strict=True) if not value.parametric for label in labels}
    return [axis for label, axis in zip(op.out_labels, op.output.axes, strict=True) if label not in seen]


def _feature_axes(op: Op) -> list[Axis]:
    """Axes that a parameter contracts or produces."""
    if op.kind == "convolve" and op.inputs[1].parametric:
        return [op.inputs[0].axes[1], op.output.axes[1]]
    if op.kind == "gather" and op.inputs[0].parametric and not op.inputs[1].parametric:
        return list(op.inputs[0].axes)
    if op.kind != "contract":
        return []
    others = [labels for labels, value in zip(op.labels, op.inputs, strict=True) if not value.parametric]
    if not others:
        return []
    seen = {label for labels in others for label in labels}
    out = []
    for labels, value in zip(op.labels, op.inputs, strict=True):
        places = {label for factor in value.virtual for label, _, _ in factor.named(labels).digits}  # of an index: tokens and ranks
        for label, axis in zip(labels, value.axes, strict=True):
            contracted = label not in op.out_labels
            if value.parametric and (contracted or label not in seen) and label not in places:
                out.append(axis)
    return out
