"""DMC: a one-dimensional convolutional network over all parameters after each other, Eilertsen et al. 2020 (arXiv:2002.05688)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from paramgraph.metanets.baselines.inputs import Baseline, Parameters, perceptron


class DMC(Baseline):
    """Convolutions with pooling between them, the mean over what is left, and a perceptron. It reads networks of any architectures.

    Args:
        out: length of each prediction.
        hidden: channels of the last convolutions; the first have half as many.
        blocks: convolutions, each followed by ReLU and max pooling over three places.
        kernel: length of the convolutions.
        dropout: of the perceptron.
    """

    def __init__(self, out: int = 1, hidden: int = 64, blocks: int = 4, kernel: int = 9, dropout: float = 0.0) -> None:
        super().__init__()
        widths = [1, hidden // 2, *[hidden] * (blocks - 1)]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, kernel, padding=kernel // 2) for before, after in zip(widths, widths[1:], strict=False)
        )
        self.mlp = perceptron([hidden, hidden, out], dropout)

    def predict(self, networks: Parameters) -> torch.Tensor:
        """See `Baseline.predict`."""
        rows = networks.flat[:, None]
        for convolution in self.convolutions:
            rows = F.relu(convolution(rows))
            rows = F.max_pool1d(rows, 3, ceil_mode=True) if rows.shape[-1] > 1 else rows
        prediction: torch.Tensor = self.mlp(rows.mean(-1))
        return prediction
