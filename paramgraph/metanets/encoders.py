"""Encoders of node and edge features: Lim et al. 2023 (arXiv:2312.04501), section 3 and appendix on input encodings.

Numbers become `sin(Linear(number))`, types become learned vectors, and all of a node's or an edge's vectors are added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from paramgraph.backends.tiles import Tile
from paramgraph.metanets.cuts import Cut
from paramgraph.metanets.embeddings import TypeEmbeddings
from paramgraph.metanets.layout import Job
from paramgraph.metanets.structure import EdgeTable, NodeTable

ORDER_FREQUENCIES = 16
LONGEST_WAVE = 1e6
# Standard deviation of the frequencies at which values of unit size are encoded.
VALUE_FREQUENCY = 1.5


def fourier(order: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Sine and cosine of whole numbers at geometric frequencies: `(n,)` to `(n, 2·ORDER_FREQUENCIES)`.

    Waves run from 2π to 2π·10⁶, so that distinct orders have codes that are distinct by far more than float32 resolves. Angles are
    computed in float64: the angle of order 30,000 in float32 would be off by 1e-3.
    """
    exponents = torch.arange(ORDER_FREQUENCIES, dtype=torch.float64, device=order.device) / (ORDER_FREQUENCIES - 1)
    angles = order.to(torch.float64)[:, None] * LONGEST_WAVE**-exponents
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(dtype)


def frequencies(count: int) -> torch.Tensor:
    """Frequencies for values of unit size, `(count,)`: some sines are about linear in them, some far from it, none noise."""
    return torch.randn(count) * VALUE_FREQUENCY


class NodeEncoder(nn.Module):
    """Type, activation, depth and order of nodes to initial states.

    Args:
        width: length of the states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depth = nn.Linear(1, width)
        self.order = nn.Linear(2 * ORDER_FREQUENCIES, width)
        self.no_order = nn.Parameter(torch.empty(width).normal_(std=0.5))

    def forward(self, embeddings: TypeEmbeddings, table: NodeTable) -> torch.Tensor:
        """States of all nodes of a batch, `(rows, width)`. Type, activation and depth are encoded once per node set."""
        depth = table.depth.to(self.no_order.dtype)[:, None]
        per_set = embeddings.node_type[table.type] + embeddings.activation[table.activation] + torch.sin(self.depth(depth))
        order = self.order(fourier(table.order, self.no_order.dtype))
        codes = torch.cat([self.no_order[None], order])
        return per_set.index_select(0, table.set_of_row) + codes.index_select(0, table.order_row)


class EdgeEncoder(nn.Module):
    """Value, type, depth and position of edges to initial states.

    Args:
        width: length of the states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Linear(1, width)
        with torch.no_grad():
            self.value.weight.normal_(std=VALUE_FREQUENCY)
        self.depth = nn.Linear(1, width)
        self.position = nn.Linear(3, width)
        with torch.no_grad():
            self.position.weight.normal_(std=math.pi)
        self.structural = nn.Parameter(torch.empty(width).normal_(std=0.5))

    def codes(self, embeddings: TypeEmbeddings, table: EdgeTable) -> torch.Tensor:
        """What all edges of one edge set and position share, `(codes, width)`."""
        dtype = self.structural.dtype
        code = embeddings.edge_type[table.type] + torch.sin(self.depth(table.depth.to(dtype)[:, None]))
        code = code + torch.sin(self.position(table.position.to(dtype)))
        return code + table.structural.to(dtype)[:, None] * self.structural

    def edge_tensors(self, codes: torch.Tensor, embeddings: TypeEmbeddings, table: EdgeTable) -> tuple[torch.Tensor, ...]:
        """The table of codes, one over the size of each code's values, and parameters that work on edges."""
        return codes, value_scale(embeddings, table), self.value.weight[:, 0], self.value.bias

    def encode(self, job: Job, tile: Tile, raw: torch.Tensor, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """See `job_pass.Encodes`."""
        codes, scale, weight, bias = tensors
        groups, m, k, positions = tile.block.shape
        raw = at_unit_size(raw, scale, job, tile)
        # The derivative of `index_select` adds rows up, where that of indexing sorts them first.
        code = codes.index_select(0, job.codes[tile.slices[0 if job.packed else 3]])
        code = code.reshape(1, groups, 1, 1, 1, -1) if job.packed else code
        # In place where no derivative needs the overwritten number: edges are bound by memory traffic.
        states = torch.sin((raw[..., None] * weight).add_(bias)).add_(code)
        return states.expand(raw.shape[0], groups, m, k, positions, -1)

    def encode_into(self, cut: Cut, raw: torch.Tensor, tensors: Sequence[torch.Tensor], out: torch.Tensor) -> None:
        """See `fused_pass.EncodesInto`."""
        codes, scale, weight, bias = tensors
        torch.addcmul(bias, _column(cut, raw, scale), weight, out=out).sin_()
        numbers = _code_numbers(cut)
        out.view(-1, len(numbers), out.shape[-1]).add_(codes.index_select(0, numbers))

    def add_gradients(
        self,
        cut: Cut,
        raw: torch.Tensor,
        tensors: Sequence[torch.Tensor],
        of_states: torch.Tensor,
        of_raw: torch.Tensor | None,
        of_tensors: Sequence[torch.Tensor | None],
        scratch: torch.Tensor,
    ) -> None:
        """See `fused_pass.EncodesInto`. The scales are buffers, which need no gradient."""
        _, scale, weight, bias = tensors
        of_codes, _, of_weight, of_bias = of_tensors
        numbers, values = _code_numbers(cut), _column(cut, raw, scale)
        if of_codes is not None:
            per_code = of_states.reshape(-1, len(numbers) * of_states.shape[-1]).sum(0)  # may be an expanded view
            of_codes.index_add_(0, numbers, per_code.view(len(numbers), -1))
        of_angles = torch.addcmul(bias, values, weight, out=scratch).cos_().mul_(of_states)
        if of_bias is not None:
            of_bias.add_(of_angles.sum(0))
        if of_weight is not None:
            of_weight.add_((values.t() @ of_angles)[0])
        if of_raw is not None:
            of_raw.add_(at_unit_size((of_angles @ weight).view(of_raw.shape), scale, cut.job, cut.tile))


def _column(cut: Cut, raw: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Values of a part at unit size, `(edges, 1)`."""
    return at_unit_size(raw, scale, cut.job, cut.tile).expand(cut.shape(1)[:-1]).reshape(-1, 1)


def _code_numbers(cut: Cut) -> torch.Tensor:
    """Rows of the table of codes, of consecutive edges; they repeat."""
    return cut.job.codes[cut.tile.slices[0 if cut.job.packed else 3]]


def value_scale(embeddings: TypeEmbeddings, table: EdgeTable) -> torch.Tensor:
    """One over the size of the values of each code's type, `(codes,)`."""
    size = embeddings.value_size[table.type]
    return torch.where(size > 0, size, 1.0).reciprocal()


def at_unit_size(raw: torch.Tensor, scale: torch.Tensor, job: Job, tile: Tile) -> torch.Tensor:
    """Values `(batch, groups, m, k, positions)` of a tile times the scales of their codes."""
    if job.packed:
        return raw * scale[job.codes[tile.slices[0]]].reshape(1, tile.block.shape[0], 1, 1, -1)
    return raw * scale[job.codes[tile.slices[3]]]
