"""The operation kinds: typing and emission, one family per file."""

from paramgraph.compiler.operations import aligned, indexing, layout, positional, special

__all__ = ["aligned", "indexing", "layout", "positional", "special"]
