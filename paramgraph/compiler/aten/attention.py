"""Attention: lowered onto contractions and a softmax, so that heads and dimensions are typed by them."""

from __future__ import annotations

import numpy as np

from paramgraph.compiler.builder import Builder
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import exact_rule as rule


@rule("aten.scaled_dot_product_attention")
def attention(b: Builder, query: Value, key: Value, value: Value, mask: Value | None = None, dropout: float = 0.0, causal: bool = False,
              *, scale: float | None = None, enable_gqa: bool = False) -> Value:
    """softmax(q kᵀ + mask) v over the last two axes; with grouped queries, key-value heads are shared by query heads."""
    batch = tuple(range(query.ndim - 2))
    grouped = enable_gqa and query.shape[-3] != key.shape[-3]
    if grouped:
        heads, shared = query.shape[-3], key.shape[-3]
        query = b.reshape(query, [*query.shape[:-3], shared, heads // shared, *query.shape[-2:]])
        left = (*batch, "r")
    else:
        left = batch
    scores = b.contract(([(*left, "s", "d"), (*batch, "t", "d")], (*left, "s", "t")), query, key, name="scores")
    if causal:
        s, t = query.shape[-2], key.shape[-2]
        scores = b.elementwise("add", scores, b.constant([s, t], lambda: np.tril(np.ones((s, t))), "causal mask"))
    if mask is not None:
        if grouped and mask.ndim >= 3:
            heads_in_mask = mask.shape[-3]
            split = [shared, heads // shared] if heads_in_mask == heads else [1, 1]
            mask = b.reshape(mask, [*mask.shape[:-3], *split, *mask.shape[-2:]])
        scores = b.elementwise("add", scores, mask)
    weights = b.mix("softmax", scores, [-1])
    out = b.contract(([(*left, "s", "t"), (*batch, "t", "e")], (*left, "s", "e")), weights, value, name="attend")
    return b.reshape(out, b.shapes[0])
