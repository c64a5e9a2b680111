"""Operands of nodes: the program values among them, and arrays of constants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from paramgraph.compiler.program import Value


def values_in(tree: Any) -> Iterator[Value]:
    """The program values among operands and sequences of operands."""
    if isinstance(tree, Value):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from values_in(item)


def flattened(operands: Sequence[Any]) -> list[Value]:
    """`values_in` of a node's operands, of which few are sequences."""
    out: list[Value] = []
    for operand in operands:
        if isinstance(operand, Value):
            out.append(operand)
        elif operand is not None:
            out.extend(values_in(operand))
    return out


def plain(array: Any) -> np.ndarray:
    """An array of a kind that numpy itself knows. Of strings, it says which are the same, in other arrays too."""
    out = np.asarray(array)
    if out.dtype.kind in "SUO":
        words = (word if isinstance(word, bytes) else str(word).encode() for word in out.reshape(-1).tolist())
        return np.asarray([int.from_bytes(blake2b(word, digest_size=6).digest()) for word in words], dtype=np.int64).reshape(out.shape)
    return out if out.dtype.kind in "biufc" else out.astype(np.float32)
