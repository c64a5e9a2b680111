"""Virtual factors: a space that an index value names, in tensors gathered by that index.

Gathering along E by an index `idx` gives a tensor without E, whose elements at a place belong to the element of E that `idx` names there.
What depends on E may go on doing so while the tensor's axes still hold the place: E is then a virtual factor of the tensor, E@idx. Two
operands that are aligned along the index's axes share it (the inner units of an expert, from its first matrix to its second).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from paramgraph.symmetries.spaces import Axis, SpaceSystem

# A part of a dimension that runs over an axis of the index: (dimension or label, step within it, size).
Digit = tuple[Any, int, int]


@dataclass(frozen=True)
class Virtual:
    """A virtual factor of a tensor.

    Attributes:
        key: what makes two index values the same.
        digits: where the tensor has the index's places, row-major.
        axis: the space that is indexed.
    """

    key: Any
    digits: tuple[Digit, ...]
    axis: Axis = field(compare=False)

    def named(self, names: Sequence[Any]) -> Virtual:
        """With its dimensions renamed: to labels, or to other dimensions."""
        return replace(self, digits=_joined([(names[d], step, n) for d, step, n in self.digits]))

    def moved(self, to: Callable[[Any], Any]) -> Virtual | None:
        """With its dimensions mapped; None if one of them has no image."""
        digits = [(to(d), step, n) for d, step, n in self.digits]
        return None if any(d is None for d, _, _ in digits) else replace(self, digits=_joined(digits))

    def reshaped(self, before: Sequence[int], after: Sequence[int]) -> Virtual | None:
        """After a reshape; None if the index's places are no digits of the new dimensions."""
        digits: list[Digit] = []
        for d, step, n in self.digits:
            low = step * math.prod(before[d + 1 :])
            high = low * n
            for new, size in enumerate(after):
                inner = math.prod(after[new + 1 :])
                start, end = max(low, inner), min(high, inner * size)
                if start >= end:
                    continue
                if start % inner or end % start:
                    return None
                digits.append((new, start // inner, end // start))
        if math.prod(n for _, _, n in digits) != math.prod(n for _, _, n in self.digits):
            return None
        return replace(self, digits=_joined(digits))


def virtual(key: Any, shape: Sequence[int], first: int, axis: Axis) -> Virtual:
    """The factor of a tensor that holds an index of the given shape from dimension `first` on."""
    return Virtual(key, _joined([(first + d, 1, n) for d, n in enumerate(shape)]), axis)


def useful(system: SpaceSystem, axes: Sequence[Axis], factor: Virtual) -> bool:
    """Whether it is worth keeping: what it names moves, or something in the tensor may depend on it (a pinned vocabulary rarely is)."""
    named = system.units(factor.axis)
    if not all(unit.pinned for unit in named):
        return True
    free = [unit for axis in axes for unit in system.units(axis) if not unit.pinned]
    return any(system.may_depend(unit, other) for unit in free for other in named)


def _joined(digits: Sequence[Digit]) -> tuple[Digit, ...]:
    """Neighbouring digits of one dimension as one, and none of size 1: equal places are written equally."""
    out: list[Digit] = []
    for d, step, n in digits:
        if n == 1:
            continue
        if out and out[-1][0] == d and out[-1][1] == step * n:
            out[-1] = (d, step, n * out[-1][2])
        else:
            out.append((d, step, n))
    return tuple(out)
