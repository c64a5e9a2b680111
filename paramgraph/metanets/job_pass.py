"""One pass over the edges of one job: from raw values through all layers so far to sums, tile by tile.

A pass is a function of a flat list of tensors (values, tables, node terms, parameters), of which each tile sees views. So it can be run
at once, with autograd recording; or tile by tile into preallocated sums, and in backward tile by tile again into preallocated gradients.
Then nothing is kept per tile, neither intermediates nor autograd's records: small objects kept between tiles would pin the memory of the
large ones freed around them. A tile that fits in a processor's cache is also several times faster than one that does not: edge-wise functions
are bound by memory traffic. Edge states that later passes begin from may be kept, in one table per job.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.autograd.function import once_differentiable

from paramgraph.backends.protocol import Backend, Block
from paramgraph.backends.tiles import Tile, Window
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

    The inputs are, in this order: the table of edge states if they are at hand, else the tensors of values (none if structural) and the
    encoder's; for each step and each message the source terms, the target terms and its parameters; and the parameters of what is emitted. The
    outputs are, as far as wanted, sums at targets, sums at sources, the total, what is emitted, the table of new edge states.

    A table of edge states is `(batch · edges, width)`, tile after tile.

    Attributes:
        backend: the engine.
        job: the edges.
        encoder: values to initial states.
        steps: edge updates to run first.
        forward: messages to sum at the targets, up to and without their last linear layer, which commutes with the sum.
        backward: messages to sum at the sources, likewise.
        total: whether to sum the edge states of each graph.
        emit: what to return of every edge state.
        fold: whether the positions of a node pair are one edge.
        keeps: whether to return the new edge states.
        kinds: what a tile sees of each input: `"state"`, `"values"` and `"stacked"` values, `"sources"` and `"targets"` are cut to it, `"whole"`
            is not.
        counts: number of parameters of the encoder, of each step, of forward, of backward and of emit.
        shapes: of each output but edge states.
    """

    backend: Backend
    job: Job
    encoder: Encodes
    steps: tuple[EdgeWise, ...]
    forward: EdgeWise | None
    backward: EdgeWise | None
    total: bool
    emit: Emits | None
    fold: bool
    keeps: bool
    kinds: tuple[str, ...]
    counts: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]

    def compute(self, tile: Tile, seen: Tensors, state: torch.Tensor | None = None) -> tuple[list[torch.Tensor], torch.Tensor]:
        """What a tile adds to the outputs, and its edge states.

        Args:
            tile: the tile.
            seen: what it sees of the inputs.
            state: edge states to begin with, if they are at hand: `(batch, groups, m, k, positions, width)`.
        """
        rest, counts = iter(seen), iter(self.counts)
        block = tile.folded if self.fold else tile.block
        if state is None:
            state = self._encoded(tile, rest, next(counts))
        for step in self.steps:
            ends, tensors = _taken(rest, next(counts))
            state = step.updated(self.job, tensors, self.backend, block, ends, state)
        found = []
        if self.forward is not None:
            ends, tensors = _taken(rest, next(counts))
            messages = self.forward.hidden(self.job, tensors, self.backend, block, ends, state, "target")
            found.append(self.backend.to_nodes(block, messages, "target"))
        if self.backward is not None:
            ends, tensors = _taken(rest, next(counts))
            messages = self.backward.hidden(self.job, tensors, self.backend, block, ends, state, "source")
            found.append(self.backend.to_nodes(block, messages, "source"))
        if self.total:
            # In a packed job, edges of several graphs meet; their targets tell them apart.
            found.append(self.backend.to_nodes(block, state) if self.job.packed else self.backend.to_graph(block, state))
        if self.emit is not None:
            found.append(self.emit.emitted(self.job, tile, [next(rest) for _ in range(next(counts))], state))
        return found, state

    def _encoded(self, tile: Tile, rest: Iterator[torch.Tensor], count: int) -> torch.Tensor:
        job, (groups, _, _, positions) = self.job, tile.block.shape
        values = [next(rest) for kind in self.kinds if kind in ("values", "stacked")]
        tensors = [next(rest) for _ in range(count)]
        if job.packed:
            raw = values[0].reshape(1, groups, 1, 1, positions)
        elif job.structural:
            raw = tensors[0].new_zeros(job.batch, 1, 1, 1, positions)
        elif "stacked" in self.kinds:
            raw = values[0]
        else:
            raw = torch.stack(list(values)) if len(values) > 1 else values[0][None]
        return self.encoder.encode(job, tile, raw.to(tensors[0].dtype), tensors)

    def streamed(self, inputs: Tensors) -> list[torch.Tensor]:
        """The outputs, tile by tile."""
        outputs = [inputs[-1].new_zeros(shape) for shape in self.shapes]
        kept: torch.Tensor | None = None
        for tile, run in self._runs():
            found, state = self._computed(tile, self.seen(tile, inputs, run))
            for view, piece in zip(self._added_to(tile, run, outputs), found, strict=True):
                view += piece
            if self.keeps:
                kept = state.new_empty(self._num_states, state.shape[-1]) if kept is None else kept
                kept[self._rows(tile, run)] = state.reshape(-1, state.shape[-1])
        return outputs if kept is None else [*outputs, kept]

    def streamed_gradients(self, inputs: Tensors, needed: Sequence[bool], gradients: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """Gradients of the inputs that need one, tile by tile, from those of the outputs (None: zero)."""
        collected = [tensor.new_zeros(tensor.shape) if need else None for tensor, need in zip(inputs, needed, strict=True)]
        for tile, run in self._runs():
            leaves = [view.detach().requires_grad_(need) for view, need in zip(self.seen(tile, inputs, run), needed, strict=True)]
            with torch.enable_grad():
                found, state = self._computed(tile, leaves)
            pairs = list(zip(found, self._added_to(tile, run, gradients), strict=True))
            if self.keeps and (of_states := gradients[-1]) is not None:
                pairs.append((state, of_states[self._rows(tile, run)].view(state.shape)))
            pairs = [(f, g) for f, g in pairs if f.requires_grad and g is not None]
            wanted = [leaf for leaf in leaves if leaf.requires_grad]
            found, given = [f for f, _ in pairs], [g for _, g in pairs]
            pieces = iter(torch.autograd.grad(found, wanted, given, allow_unused=True) if pairs and wanted else ())
            for kind, total in zip(self.kinds, collected, strict=True):
                piece = None if total is None else next(pieces, None)
                if total is not None and piece is not None:
                    self._cut(tile, run, kind, total).add_(piece)
        return collected

    def _computed(self, tile: Tile, seen: Tensors) -> tuple[list[torch.Tensor], torch.Tensor]:
        return self.compute(tile, seen[1:], seen[0]) if self.kinds[0] == "state" else self.compute(tile, seen)

    def _runs(self) -> Iterator[tuple[Tile, Window]]:
        """The tiles, each with its run of edges in the layout of the job."""
        start = 0
        for tile in self.job.tiles:
            yield tile, (start, start + tile.block.num_edges)
            start += tile.block.num_edges

    def seen(self, tile: Tile, tensors: Tensors, run: Window = (0, 0)) -> list[torch.Tensor]:
        """Views of the inputs, or of tensors shaped like them, that a tile sees. `run` is needed for edge states only."""
        return [self._cut(tile, run, kind, tensor) for kind, tensor in zip(self.kinds, tensors, strict=True)]

    def _cut(self, tile: Tile, run: Window, kind: str, tensor: torch.Tensor) -> torch.Tensor:
        if kind == "state":
            block = tile.folded if self.fold else tile.block
            return tensor[self._rows(tile, run)].view(self.job.batch, *block.shape, tensor.shape[-1])
        if kind == "values" and self.job.packed:
            positions = tile.block.shape[3]
            return tensor[tile.slices[0].start * positions : tile.slices[0].stop * positions]
        if kind == "values":
            return tensor[tile.slices]
        if kind == "stacked":
            return tensor[(slice(None), *tile.slices)]
        if kind == "whole":
            return tensor
        return tensor[:, slice(*(tile.sources if kind == "sources" else tile.targets))]

    def _rows(self, tile: Tile, run: Window) -> slice:
        """A tile's rows of the table of edge states."""
        each = tile.block.shape[3] if self.fold else 1
        return slice(self.job.batch * (run[0] // each), self.job.batch * (run[1] // each))

    @property
    def _num_states(self) -> int:
        return self.job.batch * sum((tile.folded if self.fold else tile.block).num_edges for tile in self.job.tiles)

    def _added_to(self, tile: Tile, run: Window, outputs: Sequence[torch.Tensor | None]) -> Iterator[Any]:
        rest = iter(outputs)
        cuts: list[slice | None] = [slice(*tile.targets)] if self.forward is not None else []
        cuts += [slice(*tile.sources)] if self.backward is not None else []
        # Edges of several graphs meet in a packed job; their targets tell them apart.
        cuts += [slice(*tile.targets) if self.job.packed else None] if self.total else []
        cuts += [slice(*run)] if self.emit is not None else []
        for cut in cuts:
            output = next(rest)
            yield output if output is None or cut is None else output[:, cut]


class Streamed(torch.autograd.Function):
    """A pass that keeps its inputs and the edge states that it returns, and computes its tiles again in backward."""

    @staticmethod
    def forward(ctx: Any, job_pass: JobPass, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
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
