"""Operators of `ai.onnx.ml` that act on tensors element by element or row by row; trees, tables and vectors of attributes hold no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paramgraph.compiler.builder import Builder
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import rule


@rule("ai.onnx.ml::Scaler")
def scaler(b: Builder, x: Value, *, offset: Sequence[float] = (0.0,), scale: Sequence[float] = (1.0,)) -> Value:
    """`(x - offset) · scale`, with constant numbers for every feature."""
    return b.elementwise("scaler", x, *(_features(b, numbers) for numbers in (offset, scale)))


def _features(b: Builder, numbers: Sequence[float]) -> Value:
    return b.constant([len(numbers)], lambda: np.asarray(numbers, dtype=np.float32), "features")


@rule("ai.onnx.ml::Normalizer")
def normalizer(b: Builder, x: Value, *, norm: str = "MAX") -> Value:
    return b.mix("lp_norm", x, [-1])


@rule("ai.onnx.ml::Binarizer")
def binarizer(b: Builder, x: Value, *, threshold: float = 0.0) -> Value:
    return b.elementwise("gt", x, args=(threshold,), form=("x", threshold))


@rule("ai.onnx.ml::Imputer")
def imputer(b: Builder, x: Value, *, imputed_value_floats: Sequence[float] = (), **_: Any) -> Value:
    """Missing elements are replaced by numbers, one for all or one for each feature."""
    if not imputed_value_floats:
        raise ValueError("integers imputed")
    return b.elementwise("where", x, _features(b, imputed_value_floats))
