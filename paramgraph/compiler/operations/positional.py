"""Operations along ordered positions: convolution, pooling, padding, interpolation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paramgraph.compiler.operations.aligned import emit_product
from paramgraph.compiler.operations.base import Operation
from paramgraph.compiler.parameters import Split
from paramgraph.compiler.program import Op
from paramgraph.compiler.scale_operands import Operands
from paramgraph.symmetries.spaces import SpaceSystem

if TYPE_CHECKING:
    from paramgraph.compiler.emission import Emitter
    from paramgraph.compiler.scales import ScaleSolver

# Parity and degree of resampling operations in their input; others are taken to have none.
RESAMPLED: dict[str, tuple[str, int | None]] = {
    "avg_pool": ("odd", 1), "upsample": ("odd", 1), "max_pool": ("none", 1), "max_pool_indices": ("none", 0),
}  # fmt: skip


class Convolve(Operation):
    """A convolution: channels contract, positions and taps are fixed. A grouped one keeps its groups on both sides."""

    kind = "convolve"

    def type(self, system: SpaceSystem, op: Op) -> None:
        self._type(system, op, pin_taps=True)

    def type_scales(self, system: SpaceSystem, op: Op) -> None:
        """What is normalised tap by tap can be multiplied so, too: the constraints say that kernels themselves cannot."""
        made = op.inputs[1].op
        self._type(system, op, pin_taps=made is None or made.kind != "elementwise")

    def _type(self, system: SpaceSystem, op: Op, pin_taps: bool) -> None:
        x, weight = op.inputs
        groups, pointwise = op.attrs["groups"], op.attrs["pointwise"]
        batch, channels, *positions = x.axes
        n_in = x.shape[1] // groups
        n_out = op.output.shape[1] // groups
        first, second, *taps = weight.axes
        group, inner = system.reshape([channels], [groups, n_in])
        outer = [groups, n_in if op.attrs["transposed"] else n_out]
        weight_group, weight_inner = system.reshape([first], outer)
        system.unify(group, weight_group)
        if op.attrs["transposed"]:
            system.unify(inner, weight_inner)
            out = second
        else:
            system.unify(inner, second)
            out = weight_inner
        if not pointwise:
            for axis in (*positions, *taps) if pin_taps else positions:
                system.pin(axis, f"positions of a {op.name}")
            new = tuple(system.axis(n, "position", f"positions of a {op.name}") for n in op.output.shape[2:])
        else:
            new = tuple(positions)
        system.record((batch, group, inner, out, *positions, *taps), paired=weight.parametric)
        op.output.axes = (batch, (*group, *out), *new)

    def scale(self, solver: ScaleSolver, op: Op) -> None:
        """A product over channels, group by group; one multiplier for all positions and taps."""
        if op.attrs["groups"] in (1, op.inputs[0].shape[1]) and (op.attrs["groups"] == 1 or op.attrs["groups"] == op.output.shape[1]):
            self._scale_whole(solver, op)
            return
        x, weight = op.inputs
        groups, transposed = op.attrs["groups"], op.attrs["transposed"]
        n_in, n_out = x.shape[1] // groups, op.output.shape[1] // groups
        system, spaces = solver.system, solver.spaces
        batch, channels, *positions = x.axes
        first, second, *taps = weight.axes
        split = spaces.reshape([channels], [groups, n_in])
        outer = spaces.reshape([first], [groups, n_in if transposed else n_out])
        left = system.reshape(solver.of(x), solver.layouts_of([batch, *split, *positions]))
        right = system.reshape(solver.of(weight), solver.layouts_of([*outer, second, *taps]))
        if not op.attrs["pointwise"]:
            left = system.constant(left, range(3, len(left.layouts)))
        right = system.constant(right, range(3, len(right.layouts)))
        inner, out = (1, 2) if transposed else (2, 1)
        joint = [left.layouts[0], left.layouts[1], right.layouts[out], left.layouts[2], *left.layouts[3:]]  # batch, group, out, in, …
        labels = {0: 1, inner: 3, out: 2}
        product = system.product(
            system.lift(left, joint, [0, 1, 3, *range(4, len(joint))]), system.lift(right, joint, [labels[d] for d in range(3)])
        )
        short = system.constant(product, [3])
        new = op.output.axes
        wide = solver.layouts_of([batch, *spaces.reshape([new[1]], [groups, n_out]), *new[2:]])
        lifted = system.lift(short, wide, range(len(short.layouts)))
        solver.set(op.output, system.reshape(lifted, solver.layouts_of(new)))

    def _scale_whole(self, solver: ScaleSolver, op: Op) -> None:
        """Without groups, or with one for each channel, it is a contraction, of positions and taps too; those of the result are new ones."""
        rank = op.output.ndim - 2
        spatial, taps = tuple(f"x{i}" for i in range(rank)), tuple(f"k{i}" for i in range(rank))
        weight = ("i", "o", *taps) if op.attrs["transposed"] else ("o", "i", *taps)
        if op.attrs["groups"] > 1:
            weight = ("o", "one", *taps)
        kept = ("b", "o", *spatial) if op.attrs["pointwise"] else ("b", "o")
        operands = Operands(solver, op.inputs, [("b", "o" if op.attrs["groups"] > 1 else "i", *spatial), weight])
        gone = [label for label in operands.order if label not in kept]
        short = solver.system.constant(operands.product(gone), [operands.order.index(label) for label in gone])
        held = [label for label in operands.order if label in kept]
        solver.set(op.output, solver.system.lift(short, solver.layouts_of(op.output.axes), [kept.index(label) for label in held]))

    def emit(self, emitter: Emitter, op: Op) -> None:
        """A product over channels, group by group; positions of the taps are edge positions."""
        groups, rank = op.attrs["groups"], op.output.ndim - 2
        spatial = tuple(f"x{i}" for i in range(rank))
        taps = tuple(f"k{i}" for i in range(rank))
        into, out_of = ("i", "o") if not op.attrs["transposed"] else ("o", "i")
        x = ("b", Split(groups, "g", "i"), *spatial)
        weight = (Split(groups, "g", out_of), into, *taps)
        moved = tuple(f"y{i}" for i in range(rank)) if not op.attrs["pointwise"] else spatial
        emit_product(emitter, op, [x, weight], ("b", Split(groups, "g", "o"), *moved))



class Resample(Operation):
    """Pooling, padding, interpolation, and other maps between ordered positions."""

    kind = "resample"

    def type(self, system: SpaceSystem, op: Op) -> None:
        (x,) = op.inputs
        dims, cause = op.attrs["dims"], f"positions of {op.name}"
        for d in dims:
            system.pin(x.axes[d], cause)
        rest = iter(axis for d, axis in enumerate(x.axes) if d not in dims)
        system.record(tuple(axis for d, axis in enumerate(x.axes) if d not in dims), paired=x.parametric)
        op.output.axes = tuple(system.axis(n, "position", cause) if d in dims else next(rest) for d, n in enumerate(op.output.shape))

    def type_scales(self, system: SpaceSystem, op: Op) -> None:
        """Elsewhere multipliers may differ along the positions, signs that a square takes away before, say: only what comes in is constant."""
        (x,) = op.inputs
        dims, cause = op.attrs["dims"], f"positions of {op.name}"
        fixed = [all(unit.pinned for unit in system.units(axis)) for axis in x.axes]
        op.output.axes = tuple(
            system.axis(n, "position", cause if fixed[d] else None) if d in dims else axis
            for d, (n, axis) in enumerate(zip(op.output.shape, x.axes, strict=True))
        )

    def scale(self, solver: ScaleSolver, op: Op) -> None:
        """Weighted means and copies of positions pass any multiplier that is the same all along; a maximum, positive ones."""
        (x,) = op.inputs
        dims = op.attrs["dims"]
        parity, degree = RESAMPLED.get(op.name, ("odd", 1) if op.name.endswith(" padding") else ("none", None))
        short = solver.system.power(solver.system.constant(solver.of(x), dims), degree, parity)
        kept = [d for d in range(x.ndim) if d not in dims]
        solver.set(op.output, solver.system.lift(short, solver.layouts_of(op.output.axes), kept))

    def emit(self, emitter: Emitter, op: Op) -> None:
        (x,) = op.inputs
        if x.parametric:
            return
        dims = op.attrs["dims"]
        out = []
        for component in emitter.of(x):
            kept = [place for place in component.places if place[0] not in dims]
            made = emitter.new_component(kept, op.name, emitter.depth([component]) + 1)
            emitter.structural(op.name, component, made)
            out.append(made)
        emitter.finish(op, out, range(op.output.ndim))
