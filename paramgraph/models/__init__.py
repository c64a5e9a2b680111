"""Networks by name: `torchvision:NAME`, `timm:NAME`, `package.module:factory`, or a `.pt2` file."""

from __future__ import annotations

from paramgraph.models.resolve import ResolvedModel, parse_shape, resolve

__all__ = ["ResolvedModel", "parse_shape", "resolve"]
