"""Program: a network as a list of a few tensor operations in static single assignment.

Front ends and users' rules lower a network onto these operations; everything behind them (typing, emission of the graph) knows only
these. An operation names its axes by labels: axes with the same label are aligned, as in an einsum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from paramgraph.compiler.lineage import Lineage, NoLineage
from paramgraph.compiler.virtual import Virtual
from paramgraph.symmetries.spaces import Axis

Labels = tuple[Any, ...]
# Operations that move elements without computing with them.
LAYOUT = frozenset(("reshape", "permute", "take", "concat", "expand"))


class Value:
    """One tensor of a program.

    Attributes:
        shape: its shape.
        kind: `"input"`, `"parameter"`, `"buffer"`, `"constant"`, `"state"` (fed back by a recurrence) or `"op"`.
        name: its name in the network, for people; state-dict name for parameters and buffers.
        read: for constants, a function that returns the value as a numpy array.
        parametric: computed from parameters, buffers and constants only.
        integer: its elements are integers or booleans.
        boolean: its elements are booleans.
        tied: of a state, that its elements may be equal, as far as is known.
        axes: its typed axes; set by typing.
        indexes: for index values, the axis whose elements it names; set by typing.
        virtual: for values gathered by an index, the spaces that the index names; set by typing.
    """

    __slots__ = ("axes", "boolean", "indexes", "integer", "kind", "name", "op", "parametric", "read", "shape", "tied", "virtual")

    def __init__(self, shape: Sequence[int], kind: str = "op", name: str = "", read: Callable[[], np.ndarray] | None = None) -> None:
        self.shape = tuple(map(int, shape))
        self.kind = kind
        self.name = name
        self.read = read
        self.op: Op | None = None
        self.parametric = kind in ("parameter", "buffer", "constant")
        self.integer = self.boolean = self.tied = False
        self.axes: tuple[Axis, ...] = ()
        self.indexes: Axis | None = None
        self.virtual: tuple[Virtual, ...] = ()

    @property
    def context(self) -> tuple[Axis, ...]:
        """The axes, and those that the value has virtually: all that its spaces may depend on."""
        return (*self.axes, *(factor.axis for factor in self.virtual)) if self.virtual else self.axes

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __repr__(self) -> str:
        return f"%{self.name or self.kind}{list(self.shape)}"


class Op:
    """One operation: its kind, operands with labelled axes, result, and attributes.

    Attributes:
        exact: it computes what its name says; if not, nothing is scaled through it.
    """

    __slots__ = ("attrs", "exact", "inputs", "kind", "labels", "name", "out_labels", "output", "where")

    def __init__(
        self,
        kind: str,
        inputs: Sequence[Value],
        output: Value,
        labels: Sequence[Labels] = (),
        out_labels: Labels = (),
        name: str = "",
        where: Any = None,
        attrs: dict[str, Any] | None = None,
    ) -> None:
        self.kind = kind
        self.inputs = tuple(inputs)
        self.output = output
        self.labels = tuple(labels)
        self.out_labels = tuple(out_labels)
        self.name = name
        self.where = where
        self.attrs = attrs or {}
        self.exact = True
        output.op = self
        output.parametric = all(value.parametric for value in self.inputs) and bool(self.inputs)

    def __repr__(self) -> str:
        operands = ", ".join(map(repr, self.inputs))
        return f"{self.output!r} = {self.kind}.{self.name}({operands})"


class Program:
    """Operations in order, with inputs, parameters, buffers and outputs.

    Attributes:
        name: the network's name.
        ops: operations in execution order.
        inputs: input values.
        tensors: parameters and persistent buffers by state-dict name, each storage once.
        outputs: pairs `(value, buffer)`: an output of the network, or the new value of a buffer.
        unknown: `(operation, place, reason)` of operations that are pinned for want of a rule that fits.
        fixed: names of buffers whose values belong to the function, as rules say.
        tables: names of tensors of integers that are read.
        complex: names of tensors of complex numbers.
        lowered: all operations as the front end made them, dead ones among them.
        lineage: the calls that the operations were lowered from.
        stacks: tensors that stand for several, by name: the names of those, in row-major order of the leading axes.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.ops: list[Op] = []
        self.inputs: list[Value] = []
        self.tensors: dict[str, Value] = {}
        self.outputs: list[tuple[Value, Value | None]] = []
        self.unknown: list[tuple[str, Any, str]] = []
        self.lowered: list[Op] = []
        self.lineage: Lineage = NoLineage()
        self.stacks: dict[str, tuple[str, ...]] = {}
        self.fixed: set[str] = set()
        self.tables: set[str] = set()
        self.complex: set[str] = set()

    def axis_name(self, name: str, dim: int) -> str:
        """An axis of a tensor, for people: those of a stack are named as its members' are."""
        count = len(self.stacks.get(name, ()))
        size, lead = 1, 0
        while size < count:
            size *= self.tensors[name].shape[lead]
            lead += 1
        return f"{name}[{dim - lead}]" if dim >= lead else f"branches of {name}"

    def readers(self) -> dict[Value, list[Op]]:
        """The operations that read each value, each once, in order."""
        out: dict[Value, list[Op]] = {}
        for op in self.ops:
            for value in dict.fromkeys(op.inputs):
                out.setdefault(value, []).append(op)
        return out

    def results(self) -> set[Value]:
        """The values that leave the program, and the buffers that some are the new values of."""
        return {value for pair in self.outputs for value in pair if value is not None}

    def drop_dead(self) -> None:
        """Remove operations that no output depends on, through recurrences too."""
        live = {value for value, _ in self.outputs}
        size = -1
        while len(live) != size:
            size = len(live)
            for op in reversed(self.ops):
                if op.output in live or (op.kind == "feedback" and op.inputs[0] in live):
                    live.update(op.inputs)
                    live.add(op.output)
        self.ops = [op for op in self.ops if op.output in live]

    def __str__(self) -> str:
        return "\n".join(map(repr, self.ops))
