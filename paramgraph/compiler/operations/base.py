"""What the compiler knows of an operation kind: how it types axes and scales, and what it adds to the graph, in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from paramgraph.compiler.program import Op
from paramgraph.symmetries.spaces import SpaceSystem

if TYPE_CHECKING:
    from paramgraph.compiler.emission import Emitter
    from paramgraph.compiler.scales import ScaleSolver


class Operation:
    """Base of the operation kinds. Subclasses are stateless and register by `kind`."""

    kind: ClassVar[str] = ""
    keeps_indices: ClassVar[bool] = False
    _known: ClassVar[dict[str, Operation]] = {}

    def __init_subclass__(cls) -> None:
        if not cls.kind:
            return
        if cls.kind in Operation._known:
            raise TypeError(f"operation kind {cls.kind!r} is defined twice")
        Operation._known[cls.kind] = cls()

    def type(self, system: SpaceSystem, op: Op) -> None:
        """Set `op.output.axes`, unifying and cutting the operands' spaces as the operation demands.

        Raises:
            Misaligned: the operand types do not fit; the caller undoes every change and pins.
        """
        raise NotImplementedError

    def type_scales(self, system: SpaceSystem, op: Op) -> None:
        """As `type`, for the spaces of scale typing, along which multipliers vary and nothing is permuted."""
        self.type(system, op)

    def scale(self, solver: ScaleSolver, op: Op) -> None:
        """Set the character of `op.output` and constrain those of the operands. Without a rule, nothing that it reads can be scaled.

        Raises:
            Incompatible: the operands are cut differently; the caller takes the operation as one without a rule.
        """
        solver.unscalable(op)

    def emit(self, emitter: Emitter, op: Op) -> None:
        """Add the operation's nodes and edges to the graph."""
        raise NotImplementedError


def operation(kind: str) -> Operation:
    """The operation of a kind."""
    if not Operation._known:
        import paramgraph.compiler.operations  # noqa: F401  registers all kinds
    return Operation._known[kind]
