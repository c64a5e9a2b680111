"""paramgraph: neural networks as typed parameter graphs, with the exact group of their symmetries, and metanets that run over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paramgraph.errors import ParamGraphError
from paramgraph.graph import Diagnostic, EdgeSet, NodeSet, ParamGraph

if TYPE_CHECKING:
    from paramgraph import metanets as metanets
    from paramgraph import zoos as zoos
    from paramgraph.compiler import compile as compile
    from paramgraph.compiler.rules import rule as rule
    from paramgraph.compiler.rules import unregister as unregister
    from paramgraph.exchange import export as export
    from paramgraph.exchange import load as load
    from paramgraph.verification.verify import verify as verify

__version__ = "0.1.0"

__all__ = [
    "Diagnostic",
    "EdgeSet",
    "NodeSet",
    "ParamGraph",
    "ParamGraphError",
    "compile",
    "export",
    "load",
    "metanets",
    "rule",
    "unregister",
    "verify",
    "zoos",
]

# Public names by the module that holds them: imported when first used, so that `import paramgraph` stays light.
_LAZY = {
    "compile": "paramgraph.compiler",
    "rule": "paramgraph.compiler.rules",
    "unregister": "paramgraph.compiler.rules",
    "verify": "paramgraph.verification",
    "load": "paramgraph.exchange",
    "export": "paramgraph.exchange",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in ("metanets", "backends", "symmetries", "compiler", "exchange", "zoos"):
        return import_module(f"paramgraph.{name}")
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'paramgraph' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
