"""Index spaces, their dependencies, scales, and the groups that act on parameters, with what groups are for. Knows no tracing and no GNN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paramgraph.symmetries.alignment import Alignment as Alignment
    from paramgraph.symmetries.alignment import align as align
    from paramgraph.symmetries.augmentation import augment as augment
    from paramgraph.symmetries.canonical import canonicalise as canonicalise

__all__ = ["Alignment", "align", "augment", "canonicalise"]

_LAZY = {"Alignment": "alignment", "align": "alignment", "augment": "augmentation", "canonicalise": "canonical"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _LAZY:
        return getattr(import_module(f"paramgraph.symmetries.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'paramgraph.symmetries' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
