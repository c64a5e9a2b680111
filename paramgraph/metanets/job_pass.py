"""One pass over the edges of one job: from raw values through all layers so far to sums, tile by tile.

A pass is a function of a flat list of tensors (values, tables, node terms, parameters), of which each tile sees views. So it can be run
at once, with autograd recording; or tile by tile into preallocated sums, and in backward tile by tile again into preallocated gradients.
Then nothing is kept per tile, neither intermediates nor autograd's records: small objects kept between tiles would pin the memory of the
large ones freed around them. A tile that fits in a processor's cache is also several times faster than one that does not: edge-wise functions
are bound by memory traffic. Edge states that later passes begin from may be kept, in one table per job.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.autograd.function import once_differentiable

from paramgraph.backends.protocol import Backend, Block
from paramgraph.backends.tiles import Tile
from paramgraph.metanets.cuts import Cut, cuts, num_states
from paramgraph.metanets.extremes import largest_at_targets, with_negatives
from paramgraph.metanets.fused_pass import FusedPass
from paramgraph.metanets.layout import Job

Tensors = Sequence[torch.Tensor]
Ends = tuple[torch.Tensor, torch.Tensor]


class Encodes(Protocol):
    """Values to initial edge states."""

    def encode(self, job: Job, tile: Tile, raw: torch.Tensor, tensors: Tensors) -> torch.Tensor:
        """Initial states of a tile.

        Args:
            job: the edges.
            tile: the part of them.
            raw: values: `(batch, groups, m, k, positions)`; of structural edges zeros, `(batch, 1, 1, 1, positions)`.
            tensors: the tables and parameters that the encoder gave to the pass.
        """
        ...


class EdgeWise(Protocol):
    """A function of edges: an update of their states, or messages."""

    def edge_tensors(self) -> tuple[torch.Tensor, ...]:
        """The parameters that work on edges. They are handed around openly, so that a pass can be computed again in backward."""
        ...

    def updated(self, job: Job, tensors: Tensors, backend: Backend, block: Block, ends: Ends, edge: torch.Tensor) -> torch.Tensor:
        """New edge states, from terms of the nodes in the block's windows and the states so far."""
        ...

    def hidden(self, job: Job, tensors: Tensors, backend: Backend, block: Block, ends: Ends, edge: torch.Tensor, end: str) -> torch.Tensor:
        """Messages at the edges, to be summed at one end."""
        ...


class Emits(Protocol):
    """A function of edge states that is returned per edge and position."""

    def edge_tensors(self) -> tuple[torch.Tensor, ...]:
        """See `EdgeWise.edge_tensors`."""
        ...

    def emitted(self, job: Job, tile: Tile, tensors: Tensors, state: torch.Tensor) -> torch.Tensor:
        """`(batch, edges of the tile, out)`, positions counted as edges."""
        ...


@dataclass(frozen=True)
class JobPass:
    """One pass over one job.

    The inputs are, in this order: the table of edge states if they are at hand, else the values (none if structural) and the encoder's tensors;
    for each step and each message the source terms, the target terms and its parameters; and the parameters of what is emitted. The outputs are, as
    far as wanted, sums at targets, extremes there, sums at sources, the total, what is emitted, the table of new edge states.

    A table of edge states is `(batch · edges, width)`, part after part.

    Attributes:
        backend: the engine.
        job: the edges.
        encoder: values to initial states.
        steps: edge updates to run first.
        forward: messages to sum at the targets, up to and without their last linear layer, which commutes with the sum.
        backward: messages to sum at the sources, likewise.
        extremes: of how many of the first numbers of the forward messages to return the largest and minus the smallest at the targets.
        total: whether to sum the edge states of each graph.
        emit: what to return of every edge state.
        fold: whether the positions of a node pair are one edge.
        keeps: whether to return the new edge states.
        kinds: of the inputs, see `Cut.of`; only the first is `"state"` or `"values"`.
        counts: number of parameters of the encoder, of each step, of forward, of backward and of emit.
        shapes: of each output but edge states.
    """

    backend: Backend
    job: Job
    encoder: Encodes
    steps: tuple[EdgeWise, ...]
    forward: EdgeWise | None
    backward: EdgeWise | None
    extremes: int
    total: bool
    emit: Emits | None
    fold: bool
    keeps: bool
    kinds: tuple[str, ...]
    counts: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]

    def compute(self, cut: Cut, seen: Tensors) -> tuple[list[torch.Tensor], torch.Tensor]:
        """What a part adds to the outputs, and its edge states.

        Args:
            cut: the part.
            seen: what it sees of the inputs.
        """
        rest, counts, block = iter(seen), iter(self.counts), cut.block
        if self.kinds[0] == "state":
            state = next(rest)
        else:
            values = next(rest) if self.kinds[0] == "values" else None
            tensors = [next(rest) for _ in range(next(counts))]
            state = self.encoder.encode(self.job, cut.tile, cut.raw(values, tensors[0]), tensors)
        for step in self.steps:
            ends, tensors = _taken(rest, next(counts))
            state = step.updated(self.job, tensors, self.backend, block, ends, state)
        found = []
        if self.forward is not None:
            ends, tensors = _taken(rest, next(counts))
            messages = self.forward.hidden(self.job, tensors, self.backend, block, ends, state, "target")
            found.append(self.backend.to_nodes(block, messages, "target"))
            if self.extremes:
                found.append(largest_at_targets(block, with_negatives(messages, self.extremes)))
        if self.backward is not None:
            ends, tensors = _taken(rest, next(counts))
            messages = self.backward.hidden(self.job, tensors, self.backend, block, ends, state, "source")
            found.append(self.backend.to_nodes(block, messages, "source"))
        if self.total:
            # In a packed job, edges of several graphs meet; their targets tell them apart.
            found.append(self.backend.to_nodes(block, state) if self.job.packed else self.backend.to_graph(block, state))
        if self.emit is not None:
            found.append(self.emit.emitted(self.job, cut.tile, [next(rest) for _ in range(next(counts))], state))
        return found, state

    def streamed(self, inputs: Tensors) -> list[torch.Tensor]:
        """The outputs, part by part."""
        outputs = [inputs[-1].new_zeros(shape) for shape in self.shapes]
        if self.extremes:
            outputs[1].fill_(-math.inf)
        kept: torch.Tensor | None = None
        for cut in cuts(self.job, self.fold):
            found, state = self.compute(cut, cut.views(self.kinds, inputs))
            for number, (view, piece) in enumerate(zip(self.outputs_of(cut, outputs), found, strict=True)):
                if self.extremes and number == 1:
                    torch.maximum(view, piece, out=view)
                else:
                    view += piece
            if self.keeps:
                kept = state.new_empty(num_states(self.job, self.fold), state.shape[-1]) if kept is None else kept
                kept[cut.rows] = state.reshape(-1, state.shape[-1])
        return outputs if kept is None else [*outputs, kept]

    def streamed_gradients(self, inputs: Tensors, needed: Sequence[bool], gradients: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """Gradients of the inputs that need one, part by part, from those of the outputs (None: zero)."""
        collected = [tensor.new_zeros(tensor.shape) if need else None for tensor, need in zip(inputs, needed, strict=True)]
        winners = self._winners(inputs) if self.extremes and gradients[1] is not None else None
        for part, cut in enumerate(cuts(self.job, self.fold)):
            leaves = [view.detach().requires_grad_(need) for view, need in zip(cut.views(self.kinds, inputs), needed, strict=True)]
            with torch.enable_grad():
                found, state = self.compute(cut, leaves)
            given = list(self.outputs_of(cut, gradients))
            if winners is not None:
                given[1] = given[1] * (winners[cut.networks, slice(*cut.tile.targets)] == part)
            pairs = list(zip(found, given, strict=True))
            if self.keeps and (of_states := gradients[-1]) is not None:
                pairs.append((state, cut.of("state", of_states)))
            pairs = [(f, g) for f, g in pairs if f.requires_grad and g is not None]
            wanted = [leaf for leaf in leaves if leaf.requires_grad]
            found, given = [f for f, _ in pairs], [g for _, g in pairs]
            pieces = iter(torch.autograd.grad(found, wanted, given, allow_unused=True) if pairs and wanted else ())
            for kind, total in zip(self.kinds, collected, strict=True):
                piece = None if total is None else next(pieces, None)
                if total is not None and piece is not None:
                    cut.of(kind, total).add_(piece)
        return collected

    def _winners(self, inputs: Tensors) -> torch.Tensor:
        """The number of the part that extremes come from, of the first if there are several; −1 where there are no edges."""
        largest = inputs[-1].new_full(self.shapes[1], -math.inf)
        winners = torch.full(self.shapes[1], -1, device=largest.device)
        for part, cut in enumerate(cuts(self.job, self.fold)):
            piece = self.compute(cut, cut.views(self.kinds, inputs))[0][1]
            seen = cut.networks, slice(*cut.tile.targets)
            wins = piece > largest[seen]
            winners[seen] = torch.where(wins, part, winners[seen])
            largest[seen] = torch.where(wins, piece, largest[seen])
        return winners

    def outputs_of(self, cut: Cut, outputs: Sequence[torch.Tensor | None]) -> Iterator[Any]:
        """Views of what a part adds to the outputs, or of their gradients; None for those that are None."""
        rest = iter(outputs)
        runs = [slice(*cut.tile.targets)] * (2 if self.extremes else 1) if self.forward is not None else []
        runs += [slice(*cut.tile.sources)] if self.backward is not None else []
        # Edges of several graphs meet in a packed job; their targets tell them apart.
        runs += [slice(*cut.tile.targets) if self.job.packed else slice(None)] if self.total else []
        runs += [cut.edges] if self.emit is not None else []
        for number, run in enumerate(runs):
            output = next(rest)
            of_graphs = self.total and not self.job.packed and number == len(runs) - 1 - (self.emit is not None)
            yield output if output is None else output[cut.networks] if of_graphs else output[cut.networks, run]


class Streamed(torch.autograd.Function):
    """A pass that keeps its inputs and the edge states that it returns, and computes its tiles again in backward."""

    @staticmethod
    def forward(ctx: Any, job_pass: JobPass | FusedPass, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.job_pass = job_pass
        ctx.device = inputs[-1].device.type
        ctx.autocast = torch.is_autocast_enabled(ctx.device), torch.get_autocast_dtype(ctx.device)
        ctx.save_for_backward(*inputs)
        return tuple(job_pass.streamed(inputs))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        enabled, dtype = ctx.autocast
        with torch.autocast(ctx.device, dtype=dtype, enabled=enabled):
            return None, *ctx.job_pass.streamed_gradients(ctx.saved_tensors, ctx.needs_input_grad[1:], gradients)


def _taken(rest: Iterator[torch.Tensor], count: int) -> tuple[Ends, list[torch.Tensor]]:
    """Node terms and parameters of a function, from the inputs."""
    ends = next(rest), next(rest)
    return ends, [next(rest) for _ in range(count)]
