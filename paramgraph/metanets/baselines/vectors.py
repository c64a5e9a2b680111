"""Baselines on a vector per network: all parameters, or statistics of every tensor."""

from __future__ import annotations

import torch
from torch import nn

from paramgraph.graph import ParamGraph
from paramgraph.metanets.baselines.inputs import Baseline, Parameters, layout_of, perceptron
from paramgraph.metanets.stack import Stack

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


class FlatMLP(Baseline):
    """A multilayer perceptron on all parameters after each other. It knows no symmetry.

    Args:
        example: a network of the layout to read.
        out: length of each prediction.
        hidden: width of the hidden layers.
        layers: number of hidden layers.
        dropout: after each.
    """

    def __init__(self, example: ParamGraph | Stack, out: int = 1, hidden: int = 256, layers: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.layout = layout_of(example)
        inputs = sum(torch.Size(shape).numel() for shape in self.layout.values())
        self.norm = nn.BatchNorm1d(inputs)
        self.mlp = perceptron([inputs, *[hidden] * layers, out], dropout)

    def predict(self, networks: Parameters) -> torch.Tensor:
        """See `Baseline.predict`."""
        prediction: torch.Tensor = self.mlp(_normalised(self.norm, networks.flat))
        return prediction


class StatNN(Baseline):
    """A multilayer perceptron on the mean, variance and quantiles (0, 25, 50, 75, 100%) of every tensor: Unterthiner et al. 2020.

    Invariant under permutations, and under more. The paper reads the statistics with gradient boosting too.

    Args:
        example: a network of the layout to read.
        out: length of each prediction.
        hidden: width of the hidden layers.
        layers: number of hidden layers.
        dropout: after each.
    """

    def __init__(self, example: ParamGraph | Stack, out: int = 1, hidden: int = 256, layers: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.layout = layout_of(example)
        inputs = len(self.layout) * (2 + len(QUANTILES))
        self.norm = nn.BatchNorm1d(inputs)
        self.mlp = perceptron([inputs, *[hidden] * layers, out], dropout)

    def predict(self, networks: Parameters) -> torch.Tensor:
        """See `Baseline.predict`."""
        prediction: torch.Tensor = self.mlp(_normalised(self.norm, statistics(networks)))
        return prediction


def statistics(networks: Parameters) -> torch.Tensor:
    """Mean, variance and quantiles of every tensor, `(networks, 7 · tensors)`."""
    rows = []
    for value in networks.values.values():
        flat = value.flatten(1)
        if not flat.shape[1]:
            flat = flat.new_zeros(len(flat), 1)
        rows += [flat.mean(1, keepdim=True), flat.var(1, correction=0, keepdim=True), _quantiles(flat)]
    return torch.cat(rows, dim=1)


def _quantiles(rows: torch.Tensor) -> torch.Tensor:
    """`QUANTILES` of every row, between neighbours by their distance: torch's own take rows of 16 million numbers at most, and no half precision."""
    places = torch.tensor(QUANTILES, dtype=torch.float64, device=rows.device) * (rows.shape[1] - 1)
    low = places.long()
    ordered = rows.sort(dim=1).values
    return torch.lerp(ordered[:, low], ordered[:, (low + 1).clamp(max=rows.shape[1] - 1)], (places - low).to(rows.dtype))


def _normalised(norm: nn.BatchNorm1d, rows: torch.Tensor) -> torch.Tensor:
    """Standardised over the batch; a batch of one network has no variance."""
    if norm.training and len(rows) < 2:
        return rows
    result: torch.Tensor = norm(rows)
    return result
