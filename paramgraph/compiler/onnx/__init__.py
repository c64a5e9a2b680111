"""Rules for ONNX operators, one family per file, and the front end that applies them.

Importing this package registers the rules and imports nothing of ONNX itself: that happens when a model is compiled.
"""

from paramgraph.compiler.onnx import (
    attention,
    contrib,
    contrib_attention,
    convolution,
    elementwise,
    indexing,
    layout,
    linear,
    normalization,
    quantization,
    recurrent,
    reduction,
    sequences,
    tabular,
)

__all__ = [
    "attention",
    "contrib",
    "contrib_attention",
    "convolution",
    "elementwise",
    "indexing",
    "layout",
    "linear",
    "normalization",
    "quantization",
    "recurrent",
    "reduction",
    "sequences",
    "tabular",
]
