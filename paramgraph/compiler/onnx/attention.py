"""Attention: lowered onto contractions and a softmax, so that heads and dimensions are typed by them."""

from __future__ import annotations

from typing import Any

from paramgraph.compiler.aten import attention as aten
from paramgraph.compiler.builder import Builder
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import exact_rule as rule


def heads(b: Builder, x: Value, count: int) -> Value:
    """`(batch, sequence, heads · size)` as `(batch, heads, sequence, size)`; four axes are left as they are."""
    if x.ndim == 4:
        return x
    return b.permute(b.reshape(x, [*x.shape[:2], count, x.shape[2] // count]), [0, 2, 1, 3])


@rule("ai.onnx::Attention")
def attention(b: Builder, query: Value, key: Value, value: Value, mask: Value | None = None, past_key: Value | None = None,
              past_value: Value | None = None, lengths: Value | None = None, *, q_num_heads: int = 0, kv_num_heads: int = 0, is_causal: int = 0,
              softcap: float = 0.0, left_window_size: int = -1, right_window_size: int = -1, **_: Any) -> Any:
    """softmax(q kᵀ · scale + mask) v, with past keys and values laid before the new ones."""
    if softcap or len(b.shapes) > 3 or lengths is not None or max(left_window_size, right_window_size) >= 0:
        raise ValueError("attention with capped scores, scores as a result, lengths, or a window")
    packed, shapes = query.ndim == 3, b.shapes
    query, key, value = heads(b, query, q_num_heads), heads(b, key, kv_num_heads), heads(b, value, kv_num_heads)
    if past_key is not None and past_value is not None:
        if is_causal:
            raise ValueError("a causal mask over past keys")
        key, value = b.concat([past_key, key], 2), b.concat([past_value, value], 2)
    b.shapes = [(*query.shape[:3], value.shape[3])]
    out = aten.attention(b, query, key, value, mask, causal=bool(is_causal), enable_gqa=query.shape[1] != key.shape[1])
    b.shapes = shapes
    if packed:
        out = b.reshape(b.permute(out, [0, 2, 1, 3]), shapes[0])
    return out if len(shapes) == 1 else (out, key, value)[: len(shapes)]
