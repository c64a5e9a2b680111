"""Values of the input as polynomials: shares `x y`, `(1 − x) y`, … sum to one together, whatever x and y are.

Interpolation multiplies the corners of a cell by such shares, gates mix two branches by z and 1 − z. An addition that is the same for all of
what is mixed comes out as it was: written as polynomials in the values that they are made of, the shares' sum cancels to a number.
"""

from __future__ import annotations

from functools import cached_property

from paramgraph.compiler.coefficients import SIGNS, Known, laid_out
from paramgraph.compiler.increments import Increment, Node, Piece, Product, added, multiplied, renamed
from paramgraph.compiler.operations.scaling import arguments
from paramgraph.compiler.program import LAYOUT, Op, Value
from paramgraph.compiler.terms import Tangled

# Polynomials of more terms are values of their own.
MOST_TERMS = 64


class Shares:
    """Polynomials of a program's values.

    Args:
        known: facts of the program.
    """

    def __init__(self, known: Known) -> None:
        self.program, self.known, self.nodes = known.program, known, known.nodes
        self._found: dict[Value, Increment] = {}

    def of(self, value: Value) -> Increment | None:
        """A value as a polynomial; None where none of the values that it is made of is ever taken from a number: nothing will cancel."""
        if value.parametric or value.integer or not self._taken_from_numbers:
            return None
        found = self._polynomial(value)
        return found if any(not self._taken_from_numbers.isdisjoint(_unknown(product)) for product in found) else None

    @cached_property
    def _taken_from_numbers(self) -> set[Node]:
        """The values that a number is added to, or that are taken from one."""
        out: set[Node] = set()
        for op in self.program.ops:
            if _is_sum(op) and len(op.inputs) == 1 and not op.inputs[0].parametric and not op.output.integer:
                for product in self._polynomial(op.output):
                    out |= _unknown(product)
        return out

    def _polynomial(self, value: Value) -> Increment:
        if value not in self._found:
            try:
                made = self._made(value)
            except Tangled:
                made = None
            self._found[value] = self._itself(value) if made is None or len(made) > MOST_TERMS else made
        return self._found[value]

    def _itself(self, value: Value) -> Increment:
        wide = tuple(d for d, n in enumerate(value.shape) if n > 1)
        node = self.nodes.make("through", [value.shape[d] for d in wide], attrs=("value", id(value)), known=False)
        return {Product(Piece(self.nodes.one, ())).times(Piece(node, wide)): 1.0}

    def _made(self, value: Value) -> Increment | None:
        """A value by what it is made of; None where that is no polynomial."""
        if value.parametric:
            found = self.known.made(value)
            return None if found is None else {Product(Piece(self.nodes.one, ())).times(*product.pieces): number for product, number in found.items()}
        op = value.op
        if op is None or value.integer or not (op.exact or op.kind in LAYOUT):
            return None
        if op.kind in LAYOUT - {"concat"}:
            return laid_out(self.nodes, op, self._polynomial(op.inputs[0]))
        if op.kind != "elementwise" or any(operand.integer for operand in op.inputs):
            return None
        positional, keywords = arguments(op, len(op.inputs))
        numbers = [n for n in positional if isinstance(n, (int, float)) and not isinstance(n, bool)]
        if keywords or len(numbers) + len(op.inputs) != len(positional) or tuple(op.attrs.get("scale", (1, 1))) != (1, 1):
            return None
        out = list(op.out_labels)
        held = iter([renamed(self._polynomial(operand), {d: out.index(label) for d, label in enumerate(labels)})
                     for operand, labels in zip(op.inputs, op.labels, strict=True)])  # fmt: skip
        parts = [next(held) if isinstance(argument, str) else {Product(Piece(self.nodes.one, ())): float(argument)} for argument in positional]
        if op.name == "neg" and len(parts) == 1:
            return multiplied(parts[0], -1.0)
        if len(parts) != 2:
            return None
        if op.name in SIGNS:
            return added(*(multiplied(part, sign) for part, sign in zip(parts, SIGNS[op.name], strict=True)))
        if op.name == "mul":
            return product_of(*parts)
        if op.name in ("div", "true_divide") and not isinstance(positional[1], str) and positional[1]:
            return multiplied(parts[0], 1.0 / float(positional[1]))
        return None


def product_of(a: Increment, b: Increment) -> Increment:
    """The product of two sums; the cores are those of the first.

    Raises:
        Tangled: it has too many terms.
    """
    if len(a) * len(b) > MOST_TERMS:
        raise Tangled
    return added(*({one.times(*other.pieces): x * y} for one, x in a.items() for other, y in b.items()))


def _is_sum(op: Op) -> bool:
    return op.kind == "elementwise" and op.exact and op.name in SIGNS


def _unknown(product: Product) -> set[Node]:
    return {piece.node for piece in product.pieces if not piece.node.known}
