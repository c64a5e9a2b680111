"""What an engine must implement: three primitives over one block of edges.

A graph metanetwork needs little from its engine. A function of (source state, target state, edge state) whose first layer is linear on
their concatenation is a sum of three terms, two of which depend on one node only; they are computed at the nodes, and the engine
`combine`s them at the edges. Messages are summed with `to_nodes`, edge states with `to_graph`. Everything else (projections,
activations, encoders, heads) is plain torch and is written once, for all engines.

An engine sees one `Block` at a time: a whole edge set, or a tile of one. Edges are passed over by their caller, tile by tile if the graphs are
large or the engine is fast on small blocks, so an engine needs no thought for memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

Op = Literal["add", "mul"]
End = Literal["source", "target"]


@dataclass(frozen=True, eq=False)
class Block:
    """Dense blocks of edges between two windows of nodes; the indices of most are implied.

    Edge `(g, i, j, p)` runs from node `source_index[g, j]` to node `target_index[g, i]`; without index, from `g·k + j` to `g·m + i`.
    Node numbers count from the start of the window. Blocks compare by identity, so that engines can cache what they derive from one.

    Attributes:
        shape: `(groups, m, k, positions)`.
        num_sources: nodes in the source window.
        num_targets: nodes in the target window.
        source_index: `(groups, k)`, int64, or None where implied. Nodes may repeat.
        target_index: `(groups, m)`, int64, or None where implied. Nodes may repeat.
    """

    shape: tuple[int, int, int, int]
    num_sources: int
    num_targets: int
    source_index: torch.Tensor | None = None
    target_index: torch.Tensor | None = None

    @property
    def num_edges(self) -> int:
        groups, m, k, positions = self.shape
        return groups * m * k * positions

    @property
    def implied(self) -> bool:
        """Whether the shape alone says which edge joins which nodes."""
        return self.source_index is None and self.target_index is None


@runtime_checkable
class Backend(Protocol):
    """An engine. All tensors carry a leading batch axis: graphs of one structure, each with its own states.

    Every primitive is differentiable in every tensor argument, in float32 and float64, and accepts blocks without edges.
    `paramgraph.backends.conformance` checks an implementation.

    An engine to which blocks cost nothing to make may have one method more, `cached_numbers(device) -> int`: how many numbers of edge states it
    would rather work on at once. Metanets then pass over edges in tiles of that size, keep nothing of a tile but edge states, and compute the
    rest again in backward.
    """

    name: str

    def check_device(self, device: torch.device) -> None:
        """Raise `MissingDependencyError` if the engine, as installed, cannot run on `device`."""
        ...

    def combine(
        self,
        block: Block,
        source: torch.Tensor | None = None,
        target: torch.Tensor | None = None,
        edge: torch.Tensor | None = None,
        op: Op = "add",
        overwrite: bool = False,
    ) -> torch.Tensor:
        """Sum (or product) of a source term, a target term and an edge term at every edge; at least one is given.

        Args:
            block: the edges.
            source: `(batch, num_sources, width)`.
            target: `(batch, num_targets, width)`.
            edge: `(batch, groups, m, k, positions, width)`, or broadcastable to it.
            op: `"add"` or `"mul"`.
            overwrite: the caller gives `edge` away: the result may take its memory. It must be of full shape, and no derivative may
                need it (nor, of a product, anything that it is made of). Large blocks are bound by memory traffic, so this counts.

        Returns:
            `(batch, groups, m, k, positions, width)`. The caller may write to it where autograd allows.
        """
        ...

    def to_nodes(self, block: Block, edge: torch.Tensor, end: End = "target") -> torch.Tensor:
        """Sum of edge states over the edges at each node of one end.

        Args:
            block: the edges.
            edge: `(batch, groups, m, k, positions, width)`.
            end: which end of the edges collects.

        Returns:
            `(batch, num_targets, width)` or `(batch, num_sources, width)`; zeros at nodes without edges.
        """
        ...

    def to_graph(self, block: Block, edge: torch.Tensor) -> torch.Tensor:
        """Sum of all edge states: `(batch, groups, m, k, positions, width)` to `(batch, width)`."""
        ...
