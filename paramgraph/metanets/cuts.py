"""The parts of a job that a pass works on one after the other, and what each part sees of the pass's tensors.

Small edge sets are cut between networks, so that a part is all edges of a few of them; large ones are cut within a network. Either way a part
is contiguous in every table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from paramgraph.backends.protocol import Block
from paramgraph.backends.tiles import Tile
from paramgraph.metanets.layout import Job


@dataclass(frozen=True)
class Cut:
    """A tile of a job's edge set, of a run of its networks.

    Attributes:
        job: the job.
        tile: the part of the edge set.
        block: its edges, with one for all positions of a node pair if they are folded.
        networks: the run of the batch axis.
        edges: the run of edges, positions counted, in the layout of the job.
        rows: the run of rows of a table of edge states.
    """

    job: Job
    tile: Tile
    block: Block
    networks: slice
    edges: slice
    rows: slice

    @property
    def count(self) -> int:
        """Number of networks."""
        return int(self.networks.stop - self.networks.start)

    def shape(self, width: int) -> tuple[int, ...]:
        """Of edge states: `(networks, groups, m, k, positions, width)`."""
        return (self.count, *self.block.shape, width)

    def of(self, kind: str, tensor: torch.Tensor) -> torch.Tensor:
        """The view of a tensor that this part sees.

        Args:
            kind: `"state"`: a table of edge states; `"values"`; `"sources"` and `"targets"`: terms of the nodes; `"whole"`: anything that all
                parts see.
            tensor: the tensor.
        """
        if kind == "whole":
            return tensor
        if kind == "state":
            return tensor[self.rows].view(self.shape(tensor.shape[-1]))
        if kind == "values" and self.job.packed:
            return tensor[self.edges].view(1, *self.tile.block.shape)
        if kind == "values":
            return tensor[(self.networks, *self.tile.slices)]
        return tensor[self.networks, slice(*(self.tile.sources if kind == "sources" else self.tile.targets))]

    def views(self, kinds: Sequence[str], tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """`of`, of many."""
        return [self.of(kind, tensor) for kind, tensor in zip(kinds, tensors, strict=True)]

    def raw(self, values: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
        """What encoders take: values in the dtype of `like`, or zeros `(networks, 1, 1, 1, positions)` for structural edges."""
        if values is None:
            return like.new_zeros(self.count, 1, 1, 1, self.tile.block.shape[3])
        return values.to(like.dtype)


def cuts(job: Job, fold: bool) -> Iterator[Cut]:
    """The parts of a job, in order."""
    each = [(tile, tile.folded if fold else tile.block) for tile in job.tiles]
    total = sum(block.num_edges for _, block in each)
    for first in range(0, job.batch, job.networks):
        networks = slice(first, min(first + job.networks, job.batch))
        edge, row = 0, first * total
        for tile, block in each:
            rows = (networks.stop - networks.start) * block.num_edges
            yield Cut(job, tile, block, networks, slice(edge, edge + tile.block.num_edges), slice(row, row + rows))
            edge, row = edge + tile.block.num_edges, row + rows


def num_states(job: Job, fold: bool) -> int:
    """Rows of a job's table of edge states."""
    return job.batch * sum((tile.folded if fold else tile.block).num_edges for tile in job.tiles)
