"""Concrete shapes of a model's inputs: as the file says, from example inputs, by name, or sizes that occur nowhere else in the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paramgraph.errors import TraceError

_SMALL = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53)
# Lengths that windows of sound fit into, of some hundredths of a second and of a second.
_LONG = ((293, 307, 311, 313), (521, 523, 541, 547), (16001, 16007, 16033, 16057))

# The longest axis that is read: typing keeps tables of what is along it.
LONGEST = 1 << 28

Given = Mapping[str, Any] | None


@dataclass(frozen=True)
class Guess:
    """Sizes of dimensions that nothing tells.

    Attributes:
        one_batch: the first open dimensions of all inputs are one.
        image: height of images; what most networks divide by is a factor of the first guess.
        width: of images.
        lengths: of the last dimension, where the input is no image; none where they are as any other.
    """

    one_batch: bool = False
    image: int = 224
    width: int = 224
    lengths: tuple[int, ...] = ()


# In this order, until the model fits. Readers of lines of text take images of one height.
GUESSES = (
    Guess(), Guess(one_batch=True), *(Guess(one_batch, lengths=lengths) for lengths in _LONG for one_batch in (False, True)),
    *(Guess(one_batch, height, width) for height, width in ((64, 64), (48, 320), (32, 320)) for one_batch in (False, True)),
)  # fmt: skip


def input_shapes(inputs: Sequence[Any], examples: Any, dimensions: Given, taken: set[int], what: str,
                 guess: Guess = GUESSES[0]) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """A shape for every input, and a size for every dimension that has a name.

    Args:
        inputs: `onnx_ir` values of the graph's inputs.
        examples: one array, a sequence of arrays in the inputs' order, or a mapping by name; None without examples.
        dimensions: sizes by the file's name of a dimension, or shapes by the name of an input.
        taken: sizes that occur in the model, which no open dimension is given.
        what: the model, for errors.
        guess: what dimensions are that nothing tells.

    Raises:
        TraceError: an input has no type, examples do not fit, or a name is unknown.
    """
    arrays = _by_name(inputs, examples, what)
    sizes: dict[str, int] = {}
    fresh = (n for n in _SMALL if n not in taken)
    long = (n for n in guess.lengths if n not in taken)
    batch = next(fresh, 59) if guess.one_batch else None

    def chosen(place: int, rank: int, opened: bool) -> int:
        """The size of a dimension that nothing tells; `opened`: the first such one of its input."""
        if batch is not None and opened:
            return batch
        if rank >= 4 and place > 0:
            return guess.width if place == rank - 1 else guess.image
        return next(long, 59) if guess.lengths and place == rank - 1 else next(fresh, 59)

    given = dict(dimensions or {})
    out: dict[str, tuple[int, ...]] = {}
    names = {str(d.value) for value in inputs if value.shape is not None for d in value.shape if not isinstance(d, int) and d.value}
    unknown = [key for key in given if key not in names and key not in {value.name for value in inputs}]
    if unknown:
        raise TraceError(f"{what} has no dimension or input {unknown[0]!r}: dimensions are {sorted(names)}, inputs {[v.name for v in inputs]}.")
    for value in inputs:
        if value.dtype is None:
            raise TraceError(f"{what}: the input {value.name!r} has no element type. Export it again.")
        if type(value.type).__name__ == "SequenceType":
            raise TraceError(f"{what}: the input {value.name!r} is a sequence, as long as data say. Export a model whose inputs are tensors.")
        known = tuple(np.shape(arrays[value.name])) if value.name in arrays else given.get(value.name)
        if value.shape is None:
            if known is None:
                raise TraceError(f"{what}: the input {value.name!r} has no shape. Pass example inputs, or dimensions={{{value.name!r}: (…)}}.")
            out[value.name] = tuple(int(n) for n in known)
        else:
            out[value.name] = _fitted(value, known, sizes, given, chosen, what)
        if max(out[value.name], default=1) > LONGEST:
            raise TraceError(f"{what}: the input {value.name!r} has shape {list(out[value.name])}; axes of at most {LONGEST} elements are read. "
                             "Export the model with smaller inputs, or with open dimensions.")
    return out, sizes


def _fitted(value: Any, known: Any, sizes: dict[str, int], given: dict[str, Any], chosen: Callable[[int, int, bool], int],
            what: str) -> tuple[int, ...]:
    # Some converters write open dimensions as negative or zero sizes.
    declared = [(d if d > 0 else None) if isinstance(d, int) else str(d.value) if d.value else None for d in value.shape]
    if known is not None and (len(known) != len(declared) or any(isinstance(d, int) and d != n for d, n in zip(declared, known, strict=True))):
        raise TraceError(f"{what}: the input {value.name!r} has shape {declared}; the one given, {tuple(known)}, does not fit.")
    shape = []
    for place, size in enumerate(declared):
        if isinstance(size, int):
            shape.append(size)
            continue
        if known is not None:
            own = int(known[place])
        elif size in given:
            own = int(given[size])
        elif size in sizes:
            own = sizes[size]
        else:
            own = chosen(place, len(declared), all(isinstance(d, int) for d in declared[:place]))
        if size is not None and sizes.setdefault(size, own) != own:
            raise TraceError(f"{what}: the dimension {size!r} has size {sizes[size]} elsewhere and {own} in the input {value.name!r}.")
        shape.append(own)
    return tuple(shape)


def _by_name(inputs: Sequence[Any], examples: Any, what: str) -> dict[str, Any]:
    if examples is None:
        return {}
    names = [value.name for value in inputs]
    if isinstance(examples, Mapping):
        unknown = [name for name in examples if name not in names]
        if unknown:
            raise TraceError(f"{what} has no input {unknown[0]!r}; its inputs are {names}.")
        return dict(examples)
    listed = list(examples) if isinstance(examples, (list, tuple)) else [examples]
    if len(listed) > len(names):
        raise TraceError(f"{what} has {len(names)} inputs ({names}), got {len(listed)} examples.")
    return dict(zip(names, listed, strict=False))
