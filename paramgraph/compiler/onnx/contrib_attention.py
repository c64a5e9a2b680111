"""Fused attention of `com.microsoft`, as optimised transformers have it: with projections of its own, or of operands that are given."""

from __future__ import annotations

from typing import Any

from paramgraph.compiler.aten import attention as aten
from paramgraph.compiler.builder import Builder
from paramgraph.compiler.onnx.attention import heads
from paramgraph.compiler.onnx.pieces import piece
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import exact_rule as rule


def _attend(b: Builder, query: Value, key: Value, value: Value, count: int, masks: list[Value | None], causal: bool) -> Value:
    """Attention of `(batch, sequence, heads · size)` operands; masks are added to the scores."""
    shapes, (query, key, value) = b.shapes, (heads(b, x, count) for x in (query, key, value))
    given = [mask for mask in masks if mask is not None]
    mask = given[0] if given else None
    for other in given[1:]:
        mask = b.elementwise("add", mask, other) if mask is not None else other
    b.shapes = [(*query.shape[:3], value.shape[3])]
    out = aten.attention(b, query, key, value, mask, causal=causal)
    b.shapes = shapes
    return b.reshape(b.permute(out, [0, 2, 1, 3]), [query.shape[0], query.shape[2], count * value.shape[3]])


def _padding(b: Builder, mask: Value | None, batch: int, keys: int, filtered: float) -> Value | None:
    """What is added to scores of keys that a `(batch, keys)` mask, or one for each query, leaves out."""
    if mask is None:
        return None
    if mask.shape not in ((batch, keys), (batch, keys, keys)):
        raise ValueError("a mask by lengths")
    shape = [batch, 1, 1, keys] if mask.ndim == 2 else [batch, 1, keys, keys]
    return b.elementwise("where", b.reshape(mask, shape), args=(0.0, filtered))


@rule("com.microsoft::Attention")
def attention(b: Builder, x: Value, weights: Value, bias: Value | None = None, mask: Value | None = None, past: Value | None = None,
              added: Value | None = None, past_length: Value | None = None, *, num_heads: int, qkv_hidden_sizes: Any = (), unidirectional: int = 0,
              mask_filter_value: float = -10000.0, do_rotary: int = 0, **_: Any) -> Value:
    """Query, key and value are projections of one input by one packed weight, `(inputs, q + k + v)`."""
    if past is not None or past_length is not None or do_rotary or len(b.shapes) > 1:
        raise ValueError("attention over past keys, or with rotary positions")
    sizes = list(qkv_hidden_sizes) or [weights.shape[1] // 3] * 3
    parts, start = [], 0
    for size in sizes:
        own = piece(b, weights, 1, start, start + size)
        part = b.contract("bsi,io->bso", x, own, name="linear", product=True)
        if bias is not None:
            part = b.elementwise("add", part, piece(b, bias, 0, start, start + size), role="bias")
        parts.append(part)
        start += size
    masks = [_padding(b, mask, x.shape[0], x.shape[1], mask_filter_value), added]
    return _attend(b, parts[0], parts[1], parts[2], num_heads, masks, bool(unidirectional))


@rule("com.microsoft::MultiHeadAttention")
def multi_head_attention(b: Builder, query: Value, key: Value | None = None, value: Value | None = None, bias: Value | None = None,
                         mask: Value | None = None, added: Value | None = None, *past: Value | None, num_heads: int, unidirectional: int = 0,
                         mask_filter_value: float = -10000.0, **_: Any) -> Value:
    """Operands that are projected already, with one packed bias for the three."""
    if key is None or value is None or key.ndim != 3 or value.ndim != 3 or any(x is not None for x in past) or len(b.shapes) > 1:
        raise ValueError("packed operands, or past keys")
    if bias is not None:
        start, parts = 0, []
        for x in (query, key, value):
            parts.append(b.elementwise("add", x, piece(b, bias, 0, start, start + x.shape[2]), role="bias"))
            start += x.shape[2]
        query, key, value = parts
    masks = [_padding(b, mask, query.shape[0], key.shape[1], mask_filter_value), added]
    return _attend(b, query, key, value, num_heads, masks, bool(unidirectional))
