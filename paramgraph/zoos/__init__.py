"""Populations of trained networks from the files in which they are published: readers that give a `Zoo`, one per format.

Importing this package does not import torch; names are resolved on first use. No reader runs code from a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from paramgraph.lazy import lazily

if TYPE_CHECKING:
    from paramgraph.zoos.inrs import Siren, read_inrs
    from paramgraph.zoos.population import Zoo
    from paramgraph.zoos.small_cnns import SmallCNN, read_small_cnns
    from paramgraph.zoos.state_dicts import read_state_dicts
    from paramgraph.zoos.wild_park import WildCNN, read_wild_park

_CONTENTS = {
    "Siren": "paramgraph.zoos.inrs",
    "SmallCNN": "paramgraph.zoos.small_cnns",
    "WildCNN": "paramgraph.zoos.wild_park",
    "Zoo": "paramgraph.zoos.population",
    "read_inrs": "paramgraph.zoos.inrs",
    "read_small_cnns": "paramgraph.zoos.small_cnns",
    "read_state_dicts": "paramgraph.zoos.state_dicts",
    "read_wild_park": "paramgraph.zoos.wild_park",
}

__all__ = ["Siren", "SmallCNN", "WildCNN", "Zoo", "read_inrs", "read_small_cnns", "read_state_dicts", "read_wild_park"]

__getattr__, __dir__ = lazily(__name__, _CONTENTS)
