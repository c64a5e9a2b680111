"""Initial states of ScaleGMN: values become vectors that are multiplied as the values are, types and depths become coefficients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn

from paramgraph.backends.tiles import Tile
from paramgraph.metanets.cuts import Cut
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

    def encode_into(self, cut: Cut, raw: torch.Tensor, tensors: Sequence[torch.Tensor], out: torch.Tensor) -> None:
        """See `fused_pass.EncodesInto`."""
        read = _Read.of(cut, raw, tensors)
        if read.linear:
            torch.mm(read.columns, read.coefficients, out=out)
            return
        (column, coefficients), *others = read.by_position()
        scratch = torch.empty_like(out) if others and read.waves else out
        read.at(column, tensors[2], out, torch.sin_).mul_(coefficients)
        for column, coefficients in others:
            out.addcmul_(read.at(column, tensors[2], scratch, torch.sin_) if read.waves else column, coefficients)

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
        read = _Read.of(cut, raw, tensors)
        frequency, (of_table, _, of_frequency, of_phase) = tensors[2], of_tensors
        of_columns = None if of_raw is None else torch.empty_like(read.columns)
        if read.linear:
            if of_table is not None:
                of_table.index_add_(0, read.numbers, (read.columns.t() @ of_states).mul_(read.factors))
            if of_columns is not None:
                torch.mm(of_states, read.coefficients.t(), out=of_columns)
        for position, (column, coefficients) in enumerate(() if read.linear else read.by_position()):
            if of_table is not None:
                seen = read.at(column, frequency, scratch, torch.sin_).mul_(of_states)
                numbers, factors = read.numbers[..., position], read.factors[..., position, :]
                rows = seen if numbers.ndim else seen.sum(0, keepdim=True)
                of_table.index_add_(0, numbers.reshape(-1), rows * factors)
            if not read.waves:
                if of_columns is not None:
                    of_columns[:, position] = torch.mul(of_states, coefficients, out=scratch).sum(-1)
                continue
            # The angles once more: new memory for them, beside their sines, would take longer.
            of_angles = read.at(column, frequency, scratch, torch.cos_).mul_(of_states).mul_(coefficients)
            if of_phase is not None and read.offset is tensors[3]:
                of_phase.add_(of_angles.sum(0))
            if of_frequency is not None:
                of_frequency.add_((column.t() @ of_angles)[0])
            if of_columns is not None:
                of_columns[:, position] = of_angles @ frequency
        if of_raw is not None and of_columns is not None:
            read.add_of_raw(cut, raw, tensors[1], of_columns, of_raw)


class _Read(NamedTuple):
    """What the states of a part are made of: `Σ_p f(column p) ⊙ (coefficients p)`.

    Attributes:
        columns: numbers per edge and position, `(edges, positions)`.
        coefficients: with all that multiplies them, `(positions, width)`; in a packed job `(edges, positions, width)`.
        numbers: rows of the table that they are, `(positions,)` or `(edges, positions)`.
        factors: what those rows are multiplied by, `(positions, 1)` or `(edges, positions, 1)`.
        waves: whether f is a sine.
        offset: of the sine's angle.
    """

    columns: torch.Tensor
    coefficients: torch.Tensor
    numbers: torch.Tensor
    factors: torch.Tensor
    waves: bool
    offset: torch.Tensor

    @classmethod
    def of(cls, cut: Cut, raw: torch.Tensor, tensors: Sequence[torch.Tensor]) -> _Read:
        """The parts of one function of values."""
        table, scale, _, phase = tensors
        kind = cut.job.kind
        assert isinstance(kind, EdgeKind)
        positions = cut.tile.block.shape[3]
        waves = kind.ragged or not kind.edge.magnitude
        numbers = cut.job.codes[cut.tile.slices[0 if cut.job.packed else 3]]
        if waves:
            raw = at_unit_size(raw, scale, cut.job, cut.tile)
        if kind.ragged:
            raw = torch.sign(raw) if kind.edge.magnitude else raw
            raw = raw.abs() if kind.edge.sign else raw
        columns = raw.expand(cut.count, *cut.tile.block.shape).reshape(-1, positions)
        factors = (scale.new_ones(numbers.shape) if waves else scale[numbers])[..., None] / positions**0.5
        coefficients = table[numbers] * factors
        return cls(columns, coefficients, numbers, factors, waves, torch.zeros_like(phase) if kind.edge.sign and not kind.ragged else phase)

    @property
    def linear(self) -> bool:
        """Whether the states are one product."""
        return not self.waves and self.numbers.ndim == 1

    def by_position(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The columns, `(edges, 1)`, each with its coefficients, `(width,)` or `(edges, width)`."""
        for position in range(self.columns.shape[1]):
            yield self.columns[:, position, None], self.coefficients[..., position, :]

    def at(self, column: torch.Tensor, frequency: torch.Tensor, out: torch.Tensor, wave: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """A wave at the angles of a column, or the column itself if there are none, written to `out`, `(edges, width)`."""
        return wave(torch.addcmul(self.offset, column, frequency, out=out)) if self.waves else out.copy_(column.expand_as(out))

    def add_of_raw(self, cut: Cut, raw: torch.Tensor, scale: torch.Tensor, of_columns: torch.Tensor, of_raw: torch.Tensor) -> None:
        """Add the gradient of the values, `(networks, groups, m, k, positions)`, from that of the columns."""
        kind = cut.job.kind
        assert isinstance(kind, EdgeKind)
        found = of_columns.view(raw.shape)
        if kind.ragged and kind.edge.magnitude:
            return  # nothing but signs was read
        if kind.ragged and kind.edge.sign:
            found = found * torch.sign(raw)
        of_raw.add_(at_unit_size(found, scale, cut.job, cut.tile) if self.waves else found)


def at_codes(table: torch.Tensor, job: Job, tile: Tile) -> torch.Tensor:
    """Rows of a table of codes for a tile: `(1, groups, 1, 1, positions, width)` in a packed job, else `(positions, width)`."""
    if job.packed:
        codes = job.codes[tile.slices[0]]
        return table.index_select(0, codes.reshape(-1)).view(1, len(codes), 1, 1, codes.shape[1], -1)
    return table.index_select(0, job.codes[tile.slices[3]])
