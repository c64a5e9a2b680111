"""Rules for torch's ATen operations, one family per file."""

from paramgraph.compiler.aten import (
    algebra,
    attention,
    convolution,
    elementwise,
    indexing,
    layout,
    linear,
    normalization,
    recurrent,
    reduction,
    scalars,
    scatter,
    selection,
)

__all__ = [
    "algebra",
    "attention",
    "convolution",
    "elementwise",
    "indexing",
    "layout",
    "linear",
    "normalization",
    "recurrent",
    "reduction",
    "scalars",
    "scatter",
    "selection",
]
