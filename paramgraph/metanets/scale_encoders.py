"""Initial states of ScaleGMN: values become vectors that are multiplied as the values are, types and depths become coefficients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from paramgraph.backends.tiles import Tile
from paramgraph.metanets.embeddings import TypeEmbeddings
from paramgraph.metanets.encoders import EdgeEncoder, at_unit_size, frequencies, value_scale
from paramgraph.metanets.layout import Job
from paramgraph.metanets.rewiring import EdgeKind
from paramgraph.metanets.scale_layers import unit_linear
from paramgraph.metanets.structure import EdgeTable


class ScaledEdgeEncoder(nn.Module):
    """Values of all positions of a node pair to one vector, `Σ_p f(v_p) ⊙ K(type, depth, position p)`.

    f is linear for values that magnitudes multiply, odd (a sine at learned frequencies) for values that signs alone do, a sine with a phase
    for values that nothing does. K is the published positional encoding, which multiplies; one function of the position for all kernel sizes.

    Args:
        width: length of the states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.coder = EdgeEncoder(width)
        # Values are encoded here; the coder does types, depths and positions.
        self.coder.value = nn.Identity()  # type: ignore[assignment]
        self.coefficients = nn.Sequential(nn.SiLU(), unit_linear(width, width))
        self.frequency = nn.Parameter(frequencies(width))
        self.phase = nn.Parameter(torch.empty(width).uniform_(-3.14, 3.14))
        self.width = width

    def codes(self, embeddings: TypeEmbeddings, table: EdgeTable) -> torch.Tensor:
        """What all edges of one edge set and position share, `(codes, width)`."""
        codes: torch.Tensor = self.coder.codes(embeddings, table)
        return codes

    def edge_tensors(self, codes: torch.Tensor, embeddings: TypeEmbeddings, table: EdgeTable) -> tuple[torch.Tensor, ...]:
        """The table of coefficients, one over the size of each code's values, and parameters that work on edges."""
        return self.coefficients(codes), value_scale(embeddings, table), self.frequency, self.phase

    def encode(self, job: Job, tile: Tile, raw: torch.Tensor, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """See `job_pass.Encodes`."""
        table, scale, frequency, phase = tensors
        kind = job.kind
        assert isinstance(kind, EdgeKind)
        groups, m, k, positions = tile.block.shape
        coefficients = at_codes(table, job, tile)
        # A number that is the same for all edges of a type: multipliers of values pass it.
        raw = at_unit_size(raw, scale, job, tile)
        if kind.ragged:
            raw = torch.sign(raw) if kind.edge.magnitude else raw
            raw = raw.abs() if kind.edge.sign else raw
        if kind.edge.magnitude and not kind.ragged:
            if positions == 1:
                return raw[..., None] * coefficients
            return (raw[..., None, :] @ coefficients) / positions**0.5
        offset = 0.0 if kind.edge.sign and not kind.ragged else phase
        waves = torch.sin(raw[..., None] * frequency + offset) * coefficients
        states = waves if positions == 1 else waves.sum(-2, keepdim=True) / positions**0.5
        return states.expand(raw.shape[0], groups, m, k, 1, self.width)


def at_codes(table: torch.Tensor, job: Job, tile: Tile) -> torch.Tensor:
    """Rows of a table of codes for a tile: `(1, groups, 1, 1, positions, width)` in a packed job, else `(positions, width)`."""
    if job.packed:
        codes = job.codes[tile.slices[0]]
        return table.index_select(0, codes.reshape(-1)).view(1, len(codes), 1, 1, codes.shape[1], -1)
    return table.index_select(0, job.codes[tile.slices[3]])
