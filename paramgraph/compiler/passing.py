"""What each operation makes of an addition to its operands: it takes it away, passes it on in a known way, or it is not known in which.

Linear operations pass an addition on; what it becomes is known if they multiply by parameters, by weights that sum to one where it is the same, or
if they sum what a normalisation has made. A softmax, and the mean that a normalisation subtracts, take away what is the same all along their axes.
Any other function forbids the addition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from paramgraph.compiler.coefficients import SIGNS, Known, gone_of, label_numbers, laid_out
from paramgraph.compiler.increments import Increment, Node, Piece, Product, added, multiplied, renamed, varying
from paramgraph.compiler.operations.functions import SUMS, kind_of
from paramgraph.compiler.operations.positional import RESAMPLED
from paramgraph.compiler.operations.scaling import CENTRED, arguments
from paramgraph.compiler.program import LAYOUT, Op, Value
from paramgraph.compiler.shares import MOST_TERMS, Shares, product_of
from paramgraph.compiler.terms import Tangled

# Functions that take away what is the same along their axes.
SOFTMAX = frozenset("softmax log_softmax safe_softmax".split())
# Reductions, and resamplings, of which what is the same everywhere comes out again.
EXTREMA = frozenset("amax amin max min logsumexp".split())
# Reductions that look at differences from the mean.
DEVIATIONS = frozenset("var std".split())
KEEPING = frozenset("max_pool upsample".split())
Held = Mapping[int, Increment]


class Passing:
    """The rules, by kinds of operations.

    Args:
        known: facts of the program.
        shares: its values as polynomials.

    Attributes:
        gains: nodes of one axis that multiplied what was the same along it: what is added could be divided by them.
    """

    def __init__(self, known: Known, shares: Shares) -> None:
        self.known = known
        self.shares = shares
        self.nodes = known.nodes
        self.gains: dict[Node, None] = {}

    def through(self, op: Op, held: Held) -> Increment:
        """What an operation adds to its result.

        Args:
            held: what is added to its operands, by slot.

        Raises:
            Tangled: it depends on what was added in another way.
        """
        rule = _RULES.get(op.kind)
        if rule is None or not (op.exact or op.kind in LAYOUT):
            raise Tangled
        return rule(self, op, held)

    # -- sums of products ------------------------------------------------------------------------------------------------------------

    def _contract(self, op: Op, held: Held) -> Increment:
        if len(held) != 1 or not op.attrs.get("product"):
            raise Tangled
        return self._multiply(op, next(iter(held)), held, [1] * len(op.inputs))

    def _multiply(self, op: Op, slot: int, held: Held, powers: Sequence[int]) -> Increment:
        if any(len(set(labels)) < len(labels) for labels in (*op.labels, op.out_labels)):
            raise Tangled
        places = label_numbers(op.labels, op.out_labels)
        increment = renamed(held[slot], {d: places[label] for d, label in enumerate(op.labels[slot])})
        others = [(value, [places[label] for label in labels], power)
                  for n, (value, labels, power) in enumerate(zip(op.inputs, op.labels, powers, strict=True)) if n != slot]  # fmt: skip
        return self._summed(op, slot, increment, others, gone_of(op.labels, op.out_labels, op.inputs, places))

    def _summed(
        self, op: Op, slot: int, increment: Increment, others: Sequence[tuple[Value, Sequence[int], int]], gone: Mapping[int, int]
    ) -> Increment:
        """An increment times other operands, summed over some labels.

        Args:
            increment: along labels: numbers of dimensions of the result, or of `gone`.
            others: the other operands, the label of each dimension, and to which power they come.
            gone: sizes of the labels that are summed over.
        """
        pieces, number, unknown, shares = [], 1.0, [], None
        for value, labels, power in others:
            found = self.known.piece(value)
            if found is None or power < 0 and not found[1]:
                unknown.append((value, labels))
                shares = self.shares.of(value) if power == 1 and not gone else None
                continue
            number *= found[1] ** power
            if found[0] is not None:
                pieces.append(Piece(found[0].node, tuple(labels[d] for d in found[0].dims), found[0].power * power))
        left, along = dict(gone), varying(increment)
        for piece in pieces:
            if len(piece.dims) == 1 and piece.dims[0] not in along and piece.dims[0] not in gone:
                self.gains.setdefault(piece.node)
        if len(unknown) == 1 and self._is_known(*unknown[0], along, pieces, left):
            unknown = []
        elif len(unknown) == 1:
            centred = self._centred(*unknown[0], increment, pieces, left)
            if centred is not None:
                increment, unknown = centred, []
        if len(unknown) == 1 and shares is not None and len(increment) * len(shares) <= MOST_TERMS:
            along_labels = [term.at(dict(enumerate(unknown[0][1]))).times(*pieces) for term in shares]
            made = {term: own * number for term, own in zip(along_labels, shares.values(), strict=True)}
            return product_of(increment, made)
        if not unknown:
            found_all = [multiplied(self.nodes.contracted(product, pieces, left), own * number) for product, own in increment.items()]
            return added(*found_all)
        spread = {d for value, labels, _ in others for d, n in zip(labels, value.shape, strict=True) if n > 1 and d >= 0}
        return self.veiled(op, slot, increment, spread, gone)

    def _is_known(self, value: Value, labels: Sequence[int], along: set[int], pieces: Sequence[Piece], left: dict[int, int]) -> bool:
        """Whether a value is weights that sum to one over a label along which the rest is the same: that label is done with."""
        summed = [(d, label) for d, label in enumerate(labels) if label in left and value.shape[d] > 1]
        if len(summed) != 1:
            return False
        ((d, label),) = summed
        if d not in self.known.whole.get(value, ()) or label in along or any(label in piece.dims for piece in pieces):
            return False
        del left[label]
        return True

    def _centred(
        self, value: Value, labels: Sequence[int | None], increment: Increment, pieces: Sequence[Piece], left: dict[int, int],
        even: bool = True,
    ) -> Increment | None:  # fmt: skip
        """What is summed over a label along which a value has mean zero, but for gain and offset; None where that is not known.

        Args:
            labels: of the value's dimensions; None for one that is none.
            left: sizes of the labels that are summed over; the one that is done with is removed.
            even: whether all elements of the result are sums of as many.
        """
        fact = self.known.centred.get(value)
        if fact is None or labels[fact.dim] not in left:
            return None
        label = labels[fact.dim]
        if label is None or any(label in piece.dims for piece in pieces) or fact.total is not None and not even:
            return None
        divided = None if fact.gain is None else Piece(fact.gain, (label,), -1)
        out: list[Increment] = []
        for product, number in increment.items():
            if divided is not None and divided not in product.factors:
                if label not in product.dims:
                    self.gains.setdefault(divided.node)
                return None
            rest = Product(product.core, tuple(piece for piece in product.factors if piece != divided))
            if label in rest.dims:
                return None
            if fact.total is not None:
                out.append({rest.times(Piece(fact.total, ())): number * fact.number})
        del left[label]
        return added(*out)

    def veiled(self, op: Op, slot: int, increment: Increment, spread: set[int], gone: Mapping[int, int]) -> Increment:
        """What is not known, but along which dimensions it varies: those that are kept, and those of the other operands."""
        out: list[Increment] = []
        for product, number in increment.items():
            inner = [product.core, *(piece for piece in product.factors if not set(piece.dims).isdisjoint(gone))]
            core = product.core
            dims = tuple(sorted(d for d in {d for piece in inner for d in piece.dims if d not in gone} | spread if op.output.shape[d] > 1))
            masks = Product(core).times(*(piece for piece in inner if piece is not core)).where
            where = [masks.get(d) for d in dims]
            form = (self.known.numbers[op], slot, dims, tuple((piece.dims, piece.power) for piece in inner))
            alone = {d: core.node.split[axis] for axis, d in enumerate(core.dims) if d not in spread and len(inner) == 1}
            split = {axis: found for axis, d in enumerate(dims) if (found := alone.get(d)) is not None}
            node = self.nodes.make("through", [op.output.shape[d] for d in dims], [piece.node for piece in inner], form, False, where, split)
            out.append({Product(Piece(node, dims)).times(*(piece for piece in product.factors if piece not in inner)): number})
        return added(*out)

    def _convolve(self, op: Op, held: Held) -> Increment:
        if len(held) != 1:
            raise Tangled
        ((slot, increment),) = held.items()
        x, weight = op.inputs
        groups, transposed, rank = op.attrs["groups"], op.attrs["transposed"], op.output.ndim - 2
        even = op.attrs["pointwise"] or op.attrs.get("inside", False)
        positions = set(range(2, 2 + rank))
        taps, i = [-3 - d for d in range(rank)], -1
        gone = {i: x.shape[1] // groups, **dict(zip(taps, weight.shape[2:], strict=True))}
        if slot == 1:
            if groups > 1:
                return self.veiled(op, 1, renamed(increment, {0: -2, 1: -1, **{2 + d: taps[d] for d in range(rank)}}),
                                   {0, 1} | positions, {-2: 1, **gone})  # fmt: skip
            first, second = (i, 1) if transposed else (1, i)
            moved = renamed(increment, {0: first, 1: second, **{2 + d: taps[d] for d in range(rank)}})
            return self._summed_filter(op, moved, x, gone, even)
        if transposed or not even or not op.attrs["pointwise"] and not positions.isdisjoint(varying(increment)) or self.known.piece(weight) is None:
            return self.veiled(op, 0, renamed(increment, {0: 0, 1: -1, **{2 + d: -10 - d for d in range(rank)}}), {1} | positions,
                               {-1: 1, **{-10 - d: 1 for d in range(rank)}})  # fmt: skip
        # Channels by groups: (batch, group, channel, *positions) and (group, filter, channel, *taps).
        apart = self.nodes.reshaped(increment, x.shape, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
        moved = renamed(apart, {0: 0, 1: 1, 2: i, **{3 + d: 3 + d for d in range(rank)}})
        found = self.known.piece(weight)
        assert found is not None
        filters = op.output.shape[1] // groups
        if found[0] is None:
            raise Tangled
        of_weight = self.nodes.reshaped({Product(Piece(found[0].node, found[0].dims)): found[1]}, weight.shape, (groups, filters, *weight.shape[1:]))
        ((product, number),) = of_weight.items()
        piece = product.core.at({0: 1, 1: 2, 2: i, **{3 + d: taps[d] for d in range(rank)}})
        summed = added(*(multiplied(self.nodes.contracted(own, [piece], gone), factor * number) for own, factor in moved.items()))
        return self.nodes.reshaped(summed, (op.output.shape[0], groups, filters, *op.output.shape[2:]), op.output.shape)

    def _summed_filter(self, op: Op, increment: Increment, x: Value, gone: Mapping[int, int], even: bool) -> Increment:
        """Filters that something is added to: what they read may have mean zero over the channels."""
        left = dict(gone)
        found = self._centred(x, [0, -1, *[None] * (x.ndim - 2)], increment, (), left, even)
        if found is None:
            return self.veiled(op, 1, increment, {0, *range(2, op.output.ndim)}, gone)
        return added(*(multiplied(self.nodes.contracted(product, (), left), number) for product, number in found.items()))

    # -- functions of elements ---------------------------------------------------------------------------------------------------------

    def _elementwise(self, op: Op, held: Held) -> Increment:
        positional, keywords = arguments(op, len(op.inputs))
        numbers = [n for n in positional if isinstance(n, (int, float)) and not isinstance(n, bool)]
        aligned = {slot: self._aligned(op, slot, increment) for slot, increment in held.items()}
        if op.name == "masked_fill" and set(held) == {0} and positional[:2] == ["x", "x"] and positional[2:] in ([math.inf], [-math.inf]):
            return aligned[0]  # an infinity is itself plus anything
        divides = op.name in ("div", "true_divide")
        if keywords or len(numbers) + len(op.inputs) != len(positional):
            raise Tangled
        if op.name in SUMS and len(positional) == 2:
            signs = self.signs(op, positional)
            return added(*(multiplied(part, signs[slot]) for slot, part in aligned.items()))
        if len(op.inputs) == 2 and len(held) == 1 and not numbers and (op.name == "mul" or divides and 0 in held):
            return self._multiply(op, next(iter(held)), held, [1, 1 if op.name == "mul" else -1])
        if len(op.inputs) == 1 and len(numbers) == 1 and numbers[0] and (op.name == "mul" or divides and positional[0] == "x"):
            return multiplied(aligned[0], float(numbers[0]) ** (1 if op.name == "mul" else -1))
        if op.name == "neg" and positional == ["x"]:
            return multiplied(aligned[0], -1.0)
        if len(op.inputs) == 1 and kind_of(op.name, positional, keywords) == (1, "odd"):
            return self.veiled(op, 0, aligned[0], set(), {})
        raise Tangled

    @staticmethod
    def signs(op: Op, positional: Sequence[Any]) -> list[float]:
        """By which numbers a sum or difference multiplies its operands.

        Raises:
            Tangled: it multiplies them by others.
        """
        if tuple(op.attrs.get("scale", (1, 1))) != (1, 1):
            raise Tangled
        return [sign for sign, argument in zip(SIGNS[op.name], positional, strict=True) if isinstance(argument, str)]

    @staticmethod
    def _aligned(op: Op, slot: int, increment: Increment) -> Increment:
        """An increment of an operand along the dimensions of the result; all of them must be there."""
        out = list(op.out_labels)
        return renamed(increment, {d: out.index(label) for d, label in enumerate(op.labels[slot]) if label in out})

    def _reduce(self, op: Op, held: Held) -> Increment:
        increment, dims = held[0], {d for d, label in enumerate(op.labels[0]) if label not in op.out_labels}
        if op.name in EXTREMA and dims.isdisjoint(varying(increment)):
            return self._aligned(op, 0, increment)
        if op.name in DEVIATIONS and dims.isdisjoint(varying(increment)):
            return {}
        if op.name not in ("sum", "mean"):
            raise Tangled
        places = label_numbers(op.labels, op.out_labels)
        gone = gone_of(op.labels, op.out_labels, op.inputs, places)
        moved = renamed(increment, {d: places[label] for d, label in enumerate(op.labels[0])})
        factor = 1.0 / math.prod(gone.values()) if op.name == "mean" else 1.0
        return added(*(multiplied(self.nodes.contracted(product, (), gone), number * factor) for product, number in moved.items()))

    def _mix(self, op: Op, held: Held) -> Increment:
        found = self._aligned(op, 0, held[0])
        dims = {op.out_labels.index(label) for label in op.attrs["mixed"]}
        if set(held) == {0} and op.name in SOFTMAX and dims.isdisjoint(varying(found)):
            return {}
        if set(held) != {0} or not op.attrs.get("linear"):
            raise Tangled
        return self._loosened(op, found, dims)

    def _loosened(self, op: Op, increment: Increment, dims: set[int]) -> Increment:
        """What is not known any more along some dimensions."""
        moved = renamed(increment, {d: -1 - d if d in dims else d for d in range(op.output.ndim)})
        return self.veiled(op, 0, moved, dims, {-1 - d: 1 for d in dims})

    def _normalize(self, op: Op, held: Held) -> Increment:
        """A mean over the axes is subtracted, of the operand itself; with running statistics, the map is affine."""
        roles = {slot: op.attrs["roles"][slot - 1] for slot in held if slot}
        out: list[Increment] = []
        centre = self.centre(op, held)
        wide = {d for d, n in enumerate(op.output.shape) if n > 1}
        for slot, role in roles.items():
            if role == "offset":
                out.append(self._aligned(op, slot, held[slot]))
            elif role == "gain" and not centre:
                out.append(self.veiled(op, slot, self._aligned(op, slot, held[slot]), wide, {}))
            elif role != "running_mean":
                raise Tangled
        if centre:
            if op.attrs["mixed"]:
                raise Tangled
            given = {op.out_labels.index(label) for labels in op.labels[1:] for label in labels}
            out.append(self.veiled(op, 0, centre, given, {}))
        return added(*out)

    def centre(self, op: Op, held: Held) -> Increment:
        """What is added to what a normalisation divides by a deviation.

        Raises:
            Tangled: it takes no means, or some of what is added.
        """
        if op.name not in CENTRED:
            if 0 in held:
                raise Tangled
            return {}
        running = "running_mean" in op.attrs["roles"]
        out = [self._aligned(op, 0, held[0])] if 0 in held else []
        if out and not running and op.attrs["mixed"]:
            return {} if varying(out[0]).isdisjoint(op.out_labels.index(label) for label in op.attrs["mixed"]) else out[0]
        out += [multiplied(self._aligned(op, slot, held[slot]), -1.0) for slot in held if slot and op.attrs["roles"][slot - 1] == "running_mean"]
        if out and (not running or op.attrs["mixed"]):
            raise Tangled
        return added(*out)

    # -- layout --------------------------------------------------------------------------------------------------------------------------

    def _laid_out(self, op: Op, held: Held) -> Increment:
        return laid_out(self.nodes, op, held[0])

    def _gather(self, op: Op, held: Held) -> Increment:
        if set(held) != {0}:
            raise Tangled
        dim, inner = op.attrs["dim"], op.inputs[1].ndim
        places = {d: d if d < dim else d + inner - 1 for d in range(op.inputs[0].ndim) if d != dim}
        if dim not in varying(held[0]):
            return renamed(held[0], places)
        wide = {d for d in range(dim, dim + inner) if op.output.shape[d] > 1}
        return self.veiled(op, 0, renamed(held[0], {**places, dim: -1}), wide, {-1: 1})

    def _concat(self, op: Op, held: Held) -> Increment:
        dim, start = op.attrs["dim"], 0
        # What is the same all along every operand, and the same for all of them, is the same all along the result.
        alike = [{product: number for product, number in increment.items() if dim not in product.dims} for increment in held.values()]
        common = {product: number for product, number in alike[0].items() if all(other.get(product) == number for other in alike)}
        if len(held) < len([value for value in op.inputs if value.shape[dim]]):
            common = {}
        out = [common]
        for slot, value in enumerate(op.inputs):
            index = range(start, start + value.shape[dim])
            start += value.shape[dim]
            if slot in held and len(index):
                rest = {product: number for product, number in held[slot].items() if product not in common}
                out.append(self.nodes.laid(rest, dim, index, op.output.shape[dim]))
        return added(*out)

    def _resample(self, op: Op, held: Held) -> Increment:
        if op.name in KEEPING and varying(held[0]).isdisjoint(op.attrs["dims"]):
            return held[0]
        if RESAMPLED.get(op.name, ("odd", 1) if op.name.endswith(" padding") else None) != ("odd", 1):
            raise Tangled
        return self._loosened(op, held[0], set(op.attrs["dims"]))


_RULES: dict[str, Callable[[Passing, Op, Held], Increment]] = {
    "contract": Passing._contract, "convolve": Passing._convolve, "elementwise": Passing._elementwise, "reduce": Passing._reduce,
    "mix": Passing._mix, "normalize": Passing._normalize, "gather": Passing._gather, "concat": Passing._concat, "resample": Passing._resample,
    **dict.fromkeys(LAYOUT - {"concat"}, Passing._laid_out),
}  # fmt: skip
