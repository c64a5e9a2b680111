"""Operators of `ai.onnx.ml` that act on tensors element by element or row by row.

Trees, linear models and support vectors are operators of this domain, too. Their numbers are attributes of a node, not tensors: there is
nothing to edit, and what they are applied to is pinned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from paramgraph.compiler.builder import Builder
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import rule

MODELS = frozenset("LinearClassifier LinearRegressor SVMClassifier SVMRegressor TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor".split())


def why_pinned(domain: str, operator: str) -> str:
    """Why an operator without a rule is pinned."""
    if domain == "ai.onnx.ml" and operator in MODELS:
        return "its numbers are attributes, which are no parameters"
    return "it has no rule"


@rule("ai.onnx.ml::ArrayFeatureExtractor")
def array_feature_extractor(b: Builder, x: Value, index: Value) -> Value:
    """Elements of the last axis, by their numbers: the labels of the classes that a classifier chose."""
    out = b.gather(x, -1, b.reshape(index, [math.prod(index.shape)]))
    return out if x.ndim > 1 else b.reshape(out, [1, *out.shape])


@rule("ai.onnx.ml::ZipMap")
def zip_map(b: Builder, x: Value, **_: Any) -> Value:
    """A map from classes to numbers for every row: the numbers, in order."""
    return x


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
