"""Functions of edges with their derivatives written out, and what they work with: one part of a job, in memory that is used again.

Autograd makes a record and a new tensor for every operation. Functions that write down their own derivatives put everything into a few buffers, which
stay in a processor's cache, and sum gradients of parameters by the products that make them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch

from paramgraph.backends.protocol import Backend, End, Op
from paramgraph.metanets.cuts import Cut
from paramgraph.metanets.fused_pass import Buffers
from paramgraph.metanets.layout import Job


class Layer(NamedTuple):
    """What one function sees beside edge states, or the gradients of that; of those, any may be None.

    Attributes:
        source: terms of the nodes as sources, `(networks, sources, width)`.
        target: terms of the nodes as targets, `(networks, targets, width)`.
        tensors: parameters.
    """

    source: torch.Tensor
    target: torch.Tensor
    tensors: Sequence[torch.Tensor]


class Wanted(NamedTuple):
    """Where the gradients of a `Layer` are added up; None where none is needed."""

    source: torch.Tensor | None
    target: torch.Tensor | None
    tensors: Sequence[torch.Tensor | None]


@dataclass(frozen=True)
class Part:
    """A part of a job, with the engine and the memory. States of its edges are rows, `(edges, width)`, networks one after the other.

    Attributes:
        backend: the engine.
        cut: the part.
        width: of all states.
        buffers: memory.
    """

    backend: Backend
    cut: Cut
    width: int
    buffers: Buffers

    def rows(self, name: str) -> torch.Tensor:
        """Rows of any content; the same memory for the same name. Those that updates use are not used by messages, which come after them."""
        return self.buffers.rows(name, self.cut.rows.stop - self.cut.rows.start)

    def spread(self, name: str, source: torch.Tensor | None, target: torch.Tensor | None) -> torch.Tensor:
        """The sum of terms of the nodes at every edge, as rows of that name: memory that engines make themselves is new, and so slow."""
        return self.combine_into(self.rows(name).zero_(), source, target)

    def combine_into(self, edge: torch.Tensor, source: torch.Tensor | None, target: torch.Tensor | None, op: Op = "add") -> torch.Tensor:
        """`Backend.combine` of terms of the nodes and rows, written to these; engines may, but need not, work in place."""
        found = self.backend.combine(self.cut.block, source, target, edge.view(self.cut.shape(self.width)), op, overwrite=True)
        return edge if found.data_ptr() == edge.data_ptr() else edge.copy_(found.reshape(edge.shape))

    def collect(self, rows: torch.Tensor, end: End, into: torch.Tensor | None, factor: float = 1.0) -> None:
        """Add sums of rows at the nodes of one end, times a factor, to a tensor, if there is one."""
        if into is not None:
            into.add_(self.backend.to_nodes(self.cut.block, rows.view(self.cut.shape(self.width)), end), alpha=factor)


# Intermediate results of a function, in buffers.
Results = tuple[torch.Tensor, ...]


class Written(Protocol):
    """A function of edges, and its derivative."""

    def compute(self, part: Part, layer: Layer, state: torch.Tensor, out: torch.Tensor) -> Results:
        """Write new states, or messages, to `out`; everything is rows."""
        ...

    def gradients(
        self,
        part: Part,
        layer: Layer,
        wanted: Wanted,
        state: torch.Tensor,
        given: torch.Tensor,
        of_state: torch.Tensor,
        results: Results | None = None,
    ) -> None:
        """Add gradients to those wanted, and to that of the states.

        Args:
            part: the edges.
            layer: what the function sees beside states.
            wanted: where gradients of that are added up.
            state: what it was computed at.
            given: the gradient of what it computed, which may be overwritten. An update gets this as `of_state` also.
            of_state: what is added to.
            results: those of `compute` for the same part, if nothing else of this kind has been computed since; None: they are computed again.
        """
        ...


@runtime_checkable
class HasWritten(Protocol):
    """A function of edges (`job_pass.EdgeWise`) with its derivative written out."""

    def written(self, job: Job, end: End | None) -> Written:
        """The function on the edges of a job: messages to be summed at one end, or the update (None)."""
        ...


def add_product(into: torch.Tensor | None, left: torch.Tensor, right: torch.Tensor, factor: float = 1.0) -> None:
    """Add `leftᵀ right`, a gradient of a weight, times a factor, to a tensor, if there is one."""
    if into is not None:
        into.addmm_(left.t(), right, alpha=factor)


def add_sum(into: torch.Tensor | None, rows: torch.Tensor, factor: float = 1.0) -> None:
    """Add the sum of rows, a gradient of a bias, times a factor, to a tensor, if there is one."""
    if into is not None:
        into.add_(rows.sum(0), alpha=factor)
