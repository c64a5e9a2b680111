"""Inr2Vec: De Luigi et al. 2023 (arXiv:2302.05438), "Deep learning on implicit neural representations of shapes"."""

from __future__ import annotations

import torch
from torch import nn

from paramgraph.graph import ParamGraph
from paramgraph.metanets.baselines.chain import chain_of
from paramgraph.metanets.baselines.inputs import Baseline, Parameters, layout_of, perceptron
from paramgraph.metanets.stack import Stack


class Inr2Vec(Baseline):
    """Rows of weights with their biases, each through a perceptron, and the maximum over rows as an embedding. A decoder learns to give the
    representation's values at places from the embedding; a classifier reads the embedding.

    Train it in two steps, as published: `reconstruct` against the networks' outputs, then `forward`, whose gradients do not reach the encoder.

    Args:
        example: a network of the layout to read, a chain of linear layers whose hidden layers have one width.
        out: length of each prediction.
        hidden: width of the encoder; the embedding has twice as many numbers.
        places: coordinates that a representation takes.
        values: numbers that it gives.
        dropout: of the classifier.

    Raises:
        MetanetError: the network is no chain.
    """

    def __init__(
        self, example: ParamGraph | Stack, out: int = 1, hidden: int = 128, places: int = 2, values: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.layout = layout_of(example)
        chain_of(example, permute_ends=False)
        self.width = max(shape[1] for shape in self.layout.values() if len(shape) == 2)
        self.encoder = nn.ModuleList([nn.Linear(self.width + 1, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 2 * hidden)])
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in (hidden, hidden, 2 * hidden))
        self.decoder = perceptron([2 * hidden + 24 * places, 2 * hidden, 2 * hidden, 2 * hidden, values])
        self.mlp = perceptron([2 * hidden, hidden, out], dropout)

    def predict(self, networks: Parameters) -> torch.Tensor:
        """See `Baseline.predict`."""
        prediction: torch.Tensor = self.mlp(self._embedded(networks).detach())
        return prediction

    def embed(self, networks: list[ParamGraph | Stack] | Stack) -> torch.Tensor:
        """Embeddings, `(networks, 2 · hidden)`."""
        return self.mapped(networks, self._embedded)

    def reconstruct(self, networks: list[ParamGraph | Stack] | Stack, places: torch.Tensor) -> torch.Tensor:
        """What the representations give at places `(points, coordinates)`: `(networks, points, values)`."""
        embedding = self.embed(networks)
        angles = (places[:, None] * (torch.pi * 2.0 ** torch.arange(12, dtype=places.dtype, device=places.device))[:, None]).flatten(1)
        encoded = torch.cat([angles.sin(), angles.cos()], dim=1)
        shape = (len(embedding), len(places), -1)
        given: torch.Tensor = self.decoder(torch.cat([embedding[:, None].expand(shape), encoded[None].expand(shape)], dim=-1))
        return given

    def _embedded(self, networks: Parameters) -> torch.Tensor:
        rows = self._rows(networks)
        count = rows.shape[0]
        rows = rows.flatten(0, 1)
        for number, (layer, norm) in enumerate(zip(self.encoder, self.norms, strict=True)):
            rows = norm(layer(rows))
            rows = torch.relu(rows) if number < len(self.encoder) - 1 else rows
        return rows.reshape(count, -1, rows.shape[-1]).amax(1)

    def _rows(self, networks: Parameters) -> torch.Tensor:
        """Each neuron's weights, padded with zeros to one width, and its bias: `(networks, neurons, width + 1)`."""
        tensors = list(networks.values.values())
        rows = []
        for number, value in enumerate(tensors):
            if value.ndim != 3:
                continue
            after = tensors[number + 1] if number + 1 < len(tensors) else None
            bias = after[..., None] if after is not None and after.ndim == 2 else torch.zeros_like(value[..., :1])
            rows.append(torch.cat([nn.functional.pad(value, (0, self.width - value.shape[2])), bias], dim=2))
        return torch.cat(rows, dim=1)
