"""Where single elements of a tensor lie among the blocks of its character, found without looking at every block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from paramgraph.symmetries.scales import ScaleBlock

Array = np.ndarray


class Places:
    """Blocks of one tensor by the parts that they are of its axes. Along one axis, two blocks have the same part or none of its elements.

    Args:
        blocks: of the tensor, those that anything scales.
    """

    def __init__(self, blocks: Sequence[ScaleBlock]) -> None:
        self._axes = [_Axis([block.index[d] for block in blocks]) for d in range(len(blocks[0].index))]
        self._blocks: dict[tuple[int, ...], ScaleBlock] = {}
        for number, block in enumerate(blocks):
            self._blocks[tuple(axis.parts[number] for axis in self._axes)] = block

    def find(self, coordinates: Sequence[Array]) -> Iterator[tuple[ScaleBlock, Array, list[Array]]]:
        """Blocks that hold any of some elements.

        Args:
            coordinates: per axis, an array of shape `(elements,)`.

        Yields:
            A block, which elements it holds, and for each of its spaces their places along it.
        """
        found = [axis.find(where) for axis, where in zip(self._axes, coordinates, strict=True)]
        count = len(coordinates[0]) if coordinates else 1
        cells = np.stack([part for part, _ in found], axis=-1) if found else np.zeros((count, 0), dtype=np.int64)
        distinct, member = np.unique(cells, axis=0, return_inverse=True) if len(cells) > 1 else (cells, np.zeros(count, dtype=np.int64))
        member = member.reshape(-1)
        for number, cell in enumerate(distinct.tolist()):
            block = self._blocks.get(tuple(cell))
            if block is None:
                continue
            inside = np.flatnonzero(member == number)
            atoms: list[Array] = []
            for (_, local), sizes in zip(found, block.sizes, strict=True):
                atoms.extend(np.unravel_index(local[inside], sizes) if sizes else ())
            yield block, inside, atoms


class _Axis:
    """The parts of one axis.

    Attributes:
        parts: number of each block's part.
    """

    def __init__(self, indices: Sequence[Array | None]) -> None:
        known: dict[bytes, int] = {}
        held: list[Array] = []
        self.parts = []
        for index in indices:
            key = b"" if index is None else index.tobytes()
            if key not in known:
                known[key] = len(known)
                if index is not None:
                    held.append(index)
            self.parts.append(known[key])
        self._whole = indices[0] is None
        size = max((int(index.max()) + 1 for index in held), default=0)
        self._owner, self._local = np.full(size + 1, -1, dtype=np.int64), np.zeros(size + 1, dtype=np.int64)
        for number, index in enumerate(held):
            self._owner[index] = number
            self._local[index] = np.arange(len(index))

    def find(self, where: Array) -> tuple[Array, Array]:
        """Numbers of the parts that hold some positions, -1 for none, and the positions within these."""
        if self._whole:
            return np.zeros(where.shape, dtype=np.int64), where
        here = np.minimum(where, len(self._owner) - 1)
        return self._owner[here], self._local[here]
