"""Operations on aligned axes: contraction, elementwise functions, reduction, mixing, normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paramgraph.compiler.operations import scaling
from paramgraph.compiler.operations.base import Operation
from paramgraph.compiler.parameters import Place
from paramgraph.compiler.program import Op
from paramgraph.compiler.scale_operands import Operands
from paramgraph.compiler.virtual import Virtual, useful
from paramgraph.symmetries.spaces import Axis, SpaceSystem

if TYPE_CHECKING:
    from paramgraph.compiler.components import Component
    from paramgraph.compiler.emission import Emitter
    from paramgraph.compiler.scales import ScaleSolver

# Products of more elements have one multiplier for all of them.
MOST_FACTORS = 64
# Functions of several operands whose order does not matter.
COMMUTATIVE = frozenset("add mul maximum minimum eq ne logical_and logical_or logaddexp".split())


def align(system: SpaceSystem, op: Op) -> dict[Any, Axis]:
    """Unify all axes that carry the same label, register the hidden tensor of all labels, and type the result."""
    table: dict[Any, Axis] = {}
    for labels, value in zip(op.labels, op.inputs, strict=True):
        for label, axis, n in zip(labels, value.axes, value.shape, strict=True):
            if n == 1:
                table.setdefault(label, ())
            elif table.get(label):
                system.unify(table[label], axis)
            else:
                table[label] = axis
    op.output.axes = tuple(table[label] for label in op.out_labels)
    factors = joint_factors(op)
    if factors:
        place = {label: d for d, label in enumerate(op.out_labels)}
        kept = [moved for factor in factors if (moved := factor.moved(place.get)) is not None]
        op.output.virtual = tuple(factor for factor in kept if useful(system, op.output.axes, factor))
    if len(table) != len(op.out_labels) or len(factors) != len(op.output.virtual):
        # Activations that meet by themselves are nodes: those of pairs of elements of one space would need to say which is which.
        acts = [labels for labels, value in zip(op.labels, op.inputs, strict=True) if not value.parametric]
        alone = len(acts) > 1 and len(acts) == len(op.inputs)
        system.record((*table.values(), *(factor.axis for factor in factors)), paired=not alone)
        if len(acts) > 1 and not alone:
            met = dict.fromkeys(label for labels in acts for label in labels)
            system.record(tuple(table[label] for label in met), paired=False)
    return table


def joint_factors(op: Op) -> list[Virtual]:
    """The virtual factors of the hidden tensor of all labels, each once."""
    return list(dict.fromkeys(factor.named(labels) for labels, value in zip(op.labels, op.inputs, strict=True) for factor in value.virtual))


def emit_product(emitter: Emitter, op: Op, labels: Sequence[Sequence[Any]], out_labels: Sequence[Any]) -> None:
    """Nodes and edges of a sum of products.

    Activations meet first, element by element, in nodes for their products where something is summed over; parameters are the edges
    from what they contract to what they produce.
    """
    acts = [(slot, value) for slot, value in enumerate(op.inputs) if not value.parametric]
    params = [(slot, value) for slot, value in enumerate(op.inputs) if value.parametric and value.kind != "constant"]
    if not acts:
        return
    wanted = emitter.places(op.output, out_labels)
    operands = [emitter.labelled(value, labels[slot]) for slot, value in acts]
    if len(acts) == 1:
        met = operands[0]
    else:
        types = [f"{op.name}.{slot}" for slot, _ in acts]
        summed = params or any(place not in wanted for components in operands for c in components for place in c.places)
        met = emitter.join(operands, types, f"{op.name}.product" if summed else op.name, "product" if summed else op.name)
    if params:
        held = {place for slot, value in params for place in emitter.places(value, labels[slot])}
        known = {place for c in met for place in c.places}
        made = [place for place in wanted if place in held]
        past = [place for place in wanted if place in known and place not in held]
        # What passes by the parameters stays with what moves apart for each of its elements, or for whose elements it does.
        beside: list[Place] = []
        while near := [place for place in past if made and place not in beside and emitter.related([place], [*made, *beside])]:
            beside += near
        over = [place for place in made if place in known and beside and emitter.related([place], beside)]
        passing = emitter.keep(met, [place for place in past if place not in beside], f"{op.name}.factor")
        if made or not passing:
            targets = [emitter.new_component([p for p in wanted if p in made or p in beside], op.name, emitter.depth(met) + 1)]
            for component in emitter.keep(met, [*beside, *over], f"{op.name}.factor") if beside else ():
                emitter.structural(f"{op.name}.factor", component, targets[0])
            out = [*targets, *passing]
        else:  # parameters that only contract: what they leave over holds the sums
            out = targets = [emitter.new_component(list(c.places), op.name, emitter.depth([c]) + 1) for c in passing]
            for component, target in zip(passing, targets, strict=True):
                emitter.structural(f"{op.name}.factor", component, target)
        for slot, value in params:
            role = f"{op.name}.weight" if len(params) == 1 else f"{op.name}.weight{slot}"
            emitter.parameter(value, labels[slot], role, targets, met)
    else:
        out = _summed(emitter, op, met, wanted)
    emitter.finish(op, out, out_labels)


def _summed(emitter: Emitter, op: Op, met: list[Component], wanted: list[Place]) -> list[Component]:
    """The result's nodes where products of activations are summed over places of the nodes that hold them."""
    out = []
    for component in met:
        kept = [place for place in component.places if place in wanted]
        if len(kept) == len(component.places):
            out.append(component)
            continue
        made = emitter.new_component(kept, op.name, emitter.depth([component]) + 1)
        emitter.structural("sum", component, made)
        out.append(made)
    return out


def emit_function(emitter: Emitter, op: Op, roles: Sequence[str], function: str | None, normalized: str | None = None) -> None:
    """Nodes and edges of a function of aligned elements: written on the operand's nodes where nobody else reads them."""
    acts = [(slot, value) for slot, value in enumerate(op.inputs) if not value.parametric]
    params = [(slot, value) for slot, value in enumerate(op.inputs) if value.parametric and value.kind != "constant"]
    if not acts:
        return
    own = [emitter.places(value, op.labels[slot]) for slot, value in params]
    operands = [emitter.labelled(value, op.labels[slot]) for slot, value in acts]
    if len(acts) > 1:
        alike = op.exact and op.name in COMMUTATIVE
        types = [op.name if alike else f"{op.name}.{slot}" for slot, _ in acts]
        out = emitter.join(operands, types, op.name, op.name)
    else:
        touched = {place for places in own for place in places}
        out = [_applied(emitter, op, acts[0][1], c, touched, function, normalized) for c in operands[0]]
    if params:
        held = {place for c in out for place in c.places}
        new = [place for place in emitter.places(op.output, op.out_labels) if place not in held and any(place in places for places in own)]
        if new:
            out = emitter.extended(out, new, op.name)
    for slot, value in params:
        emitter.parameter(value, op.labels[slot], f"{normalized or op.name}.{roles[slot]}", out)
    emitter.finish(op, out, op.out_labels)


def _applied(
    emitter: Emitter, op: Op, value: Any, component: Component, touched: set[Place], function: str | None, normalized: str | None
) -> Component:
    """The nodes of one component after a function or a parameter was applied: the same where they are open, else new ones."""
    involved = bool(touched & set(component.places)) or normalized is not None or not touched
    if not involved or (function is None and normalized is None and not touched):
        return component
    record = emitter.nodes[component.ref.name]
    if emitter.is_open(value, component) and (normalized is None or record.normalized is None):
        record.activation = function or record.activation
        record.normalized = normalized or record.normalized
        return component
    made = emitter.new_component(list(component.places), normalized or function or op.name, emitter.depth([component]) + 1)
    emitter.structural(normalized or function or op.name, component, made)
    return made


class Contract(Operation):
    """Products of operands summed over labels: linear, matmul, einsum, bilinear."""

    kind = "contract"

    def type(self, system: SpaceSystem, op: Op) -> None:
        align(system, op)

    def scale(self, solver: ScaleSolver, op: Op) -> None:
        """Multipliers of a product are products; what is summed over must have one all along."""
        if not op.attrs.get("product"):
            solver.unscalable(op)
            return
        operands = Operands(solver, op.inputs, op.labels)
        summed = {label for label in operands.order if label not in op.out_labels}
        solver.finish(op, operands.order, operands.product(summed))

    def emit(self, emitter: Emitter, op: Op) -> None:
        emit_product(emitter, op, op.labels, op.out_labels)


class Elementwise(Operation):
    """A function of aligned elements."""

    kind = "elementwise"

    def type(self, system: SpaceSystem, op: Op) -> None:
        align(system, op)

    def scale(self, solver: ScaleSolver, op: Op) -> None:
        operands = Operands(solver, op.inputs, op.labels)
        out = scaling.elementwise(solver, op, operands)
        if out is None:
            solver.unscalable(op)
        else:
            solver.finish(op, operands.order, out)

    def emit(self, emitter: Emitter, op: Op) -> None:
        role = op.attrs.get("role") or ("bias" if op.name in ("add", "sub", "rsub") else "scale" if op.name in ("mul", "div") else "operand")
        plain = op.name in ("add", "sub", "mul", "div", "rsub") and sum(not v.parametric for v in op.inputs) == 1
        emit_function(emitter, op, [role] * len(op.inputs), None if plain else op.name)


class Reduce(Operation):
    """A symmetric reduction over some axes."""

    kind = "reduce"

    def type(self, system: SpaceSystem, op: Op) -> None:
        align(system, op)

    def type_scales(self, system: SpaceSystem, op: Op) -> None:
        """What is multiplied together may have multipliers of its own each, if it is not much."""
        (x,) = op.inputs
        for d, label in enumerate(op.labels[0]):
            if op.name == "prod" and label not in op.out_labels and x.shape[d] <= MOST_FACTORS:
                for i in range(x.shape[d]):
                    system.take(x.axes, d, range(i, i + 1), False)
        self.type(system, op)

    def scale(self, solver: ScaleSolver, op: Op) -> None:
        order, (x,) = solver.aligned(op)
        gone = [d for d, label in enumerate(order) if label not in op.out_labels]
        out = scaling.reduction(solver, op, x, gone)
        if out is None:
            solver.unscalable(op)
        else:
            solver.finish(op, [label for label in order if label in op.out_labels], out)

    def emit(self, emitter: Emitter, op: Op) -> None:
        (x,) = op.inputs
        if x.parametric:
            return
        wanted = emitter.places(op.output, op.out_labels)
        out = []
        for component in emitter.labelled(x, op.labels[0]):
            kept = [place for place in component.places if place in wanted]
            made = emitter.new_component(kept, op.name, emitter.depth([component]) + 1)
            emitter.structural(op.name, component, made)
            out.append(made)
        emitter.finish(op, out, op.out_labels)


class Mix(Operation):
    """An operation that mixes elements along axes and returns the same axes: typed through its hidden contraction."""

    kind = "mix"

    def type(self, system: SpaceSystem, op: Op) -> None:
        table = align(system, op)
        mixed = set(op.attrs["mixed"])
        if mixed:
            # Without the virtual factors, too: which element of theirs a place belongs to may be mixed along with it.
            system.record(tuple(axis for label, axis in table.items() if label not in mixed), paired=op.output.parametric)
        if op.attrs["ordered"]:
            for label in mixed:
                system.pin(table[label], f"{op.name} depends on the order along it")

    def scale(self, solver: ScaleSolver, op: Op) -> None:
        """Linear maps along an axis pass a multiplier that is the same all along it; nothing else is known to pass any."""
        if not op.attrs.get("linear"):
            solver.unscalable(op)
            return
        order, (x,) = solver.aligned(op)
        mixed = [order.index(label) for label in op.attrs["mixed"]]
        short = solver.system.constant(x, mixed)
        solver.finish(op, order, solver.system.lift(short, x.layouts, [d for d in range(len(order)) if d not in mixed]))

    def emit(self, emitter: Emitter, op: Op) -> None:
        emit_function(emitter, op, ["operand"], op.name)


class Normalize(Mix):
    """A normalisation with its gain, offset and statistics."""

    kind = "normalize"

    def scale(self, solver: ScaleSolver, op: Op) -> None:
        slots = {role: slot for slot, role in enumerate(op.attrs["roles"], 1)}
        if "running_var" in slots and not scaling.is_made_up_for(solver, op, slots):
            solver.of(op.inputs[slots["running_var"]], square=True)
        operands = Operands(solver, op.inputs, op.labels)
        over = [operands.order.index(label) for label in op.attrs["mixed"]]
        out = scaling.normalize(solver, op, operands, over, slots)
        if out is None:
            solver.unscalable(op)
        else:
            solver.finish(op, operands.order, out)

    def emit(self, emitter: Emitter, op: Op) -> None:
        emit_function(emitter, op, ["", *op.attrs["roles"]], None, normalized=op.name)
