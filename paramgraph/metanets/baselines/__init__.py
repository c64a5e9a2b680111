"""Baselines that metanets are compared with, over the same graphs and stacks. Every one maps networks to `(networks, out)`.

| baseline | from | reads |
|---|---|---|
| `StatNN` | Unterthiner et al. 2020 (arXiv:2002.11448) | one layout |
| `FlatMLP` | ibid. | one layout |
| `DeepSets` | Zaheer et al. 2017 (arXiv:1703.06114), as in Lim et al. 2023 (arXiv:2312.04501) | any networks |
| `DMC` | Eilertsen et al. 2020 (arXiv:2002.05688) | any networks |
| `NGGNN` | Kofinas et al. 2024 (arXiv:2403.12143) | any networks |
| `NFN` | Zhou et al. 2023 (arXiv:2302.14040), NP and HNP | chains of linear or convolutional layers of one layout |
| `DWS` | Navon et al. 2023 (arXiv:2301.12780) | the same |
| `Inr2Vec` | De Luigi et al. 2023 (arXiv:2302.05438) | the same |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from paramgraph.lazy import lazily

if TYPE_CHECKING:
    from paramgraph.metanets.baselines.chain import DWS, NFN
    from paramgraph.metanets.baselines.convolution import DMC
    from paramgraph.metanets.baselines.deepsets import DeepSets
    from paramgraph.metanets.baselines.inr2vec import Inr2Vec
    from paramgraph.metanets.baselines.neural_graphs import NGGNN
    from paramgraph.metanets.baselines.vectors import FlatMLP, StatNN

_CONTENTS = {
    "DMC": "paramgraph.metanets.baselines.convolution",
    "DWS": "paramgraph.metanets.baselines.chain",
    "DeepSets": "paramgraph.metanets.baselines.deepsets",
    "FlatMLP": "paramgraph.metanets.baselines.vectors",
    "Inr2Vec": "paramgraph.metanets.baselines.inr2vec",
    "NFN": "paramgraph.metanets.baselines.chain",
    "NGGNN": "paramgraph.metanets.baselines.neural_graphs",
    "StatNN": "paramgraph.metanets.baselines.vectors",
}

__all__ = ["DMC", "DWS", "DeepSets", "FlatMLP", "Inr2Vec", "NFN", "NGGNN", "StatNN"]

__getattr__, __dir__ = lazily(__name__, _CONTENTS)
