"""Operations along ordered positions: convolution, pooling, padding, interpolation."""

from __future__ import annotations

from paramgraph.compiler.operations.base import Operation
from paramgraph.compiler.program import Op
from paramgraph.symmetries.spaces import SpaceSystem


class Convolve(Operation):
    """A convolution: channels contract, positions and taps are fixed. A grouped one keeps its groups on both sides."""

    kind = "convolve"

    def type(self, system: SpaceSystem, op: Op) -> None:
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
            for axis in (*positions, *taps):
                system.pin(axis, f"positions of a {op.name}")
            new = tuple(system.axis(n, "position", f"positions of a {op.name}") for n in op.output.shape[2:])
        else:
            new = tuple(positions)
        system.record((batch, group, inner, out, *positions, *taps))
        op.output.axes = (batch, (*group, *out), *new)


class Resample(Operation):
    """Pooling, padding, interpolation, and other maps between ordered positions."""

    kind = "resample"

    def type(self, system: SpaceSystem, op: Op) -> None:
        (x,) = op.inputs
        dims, cause = op.attrs["dims"], f"positions of {op.name}"
        for d in dims:
            system.pin(x.axes[d], cause)
        rest = iter(axis for d, axis in enumerate(x.axes) if d not in dims)
        system.record(tuple(axis for d, axis in enumerate(x.axes) if d not in dims))
        op.output.axes = tuple(system.axis(n, "position", cause) if d in dims else next(rest) for d, n in enumerate(op.output.shape))
