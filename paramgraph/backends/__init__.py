"""Engines that run message passing over parameter graphs: a small protocol, and one file per engine.

Importing this package imports neither torch nor dgl; names are resolved on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from paramgraph.lazy import lazily

if TYPE_CHECKING:
    from paramgraph.backends.protocol import Backend, Block
    from paramgraph.backends.registry import backend_names, get_backend, register_backend
    from paramgraph.backends.tiles import Tile, tile_edge_set

_CONTENTS = {
    "Backend": "paramgraph.backends.protocol",
    "Block": "paramgraph.backends.protocol",
    "Tile": "paramgraph.backends.tiles",
    "tile_edge_set": "paramgraph.backends.tiles",
    "backend_names": "paramgraph.backends.registry",
    "get_backend": "paramgraph.backends.registry",
    "register_backend": "paramgraph.backends.registry",
}

__all__ = ["Backend", "Block", "Tile", "backend_names", "get_backend", "register_backend", "tile_edge_set"]

__getattr__, __dir__ = lazily(__name__, _CONTENTS)
