"""The architectures that the sweep covers, by family. `table()` gives them all; building one imports its library."""

from __future__ import annotations

from architectures import bespoke, equivariant, graphs, language, timm, torchvision, vision
from architectures.base import Architecture, Network

__all__ = ["Architecture", "Network", "table"]


def table(every: bool = False) -> dict[str, Architecture]:
    """All architectures by name, with `every` also each network that timm has a name for. Libraries that are not installed contribute none."""
    found = [a for module in (bespoke, equivariant, graphs, language, vision, torchvision, timm) for a in module.architectures()]
    if every:
        found += timm.every()
    names = [a.name for a in found]
    assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)
    return {a.name: a for a in found}
