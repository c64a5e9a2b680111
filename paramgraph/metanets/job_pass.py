"""One pass over the edges of one job: from raw values through all layers so far to sums, tile by tile.

A pass is a function of a flat list of tensors (values, codes, node terms, parameters), of which each tile sees views. So it can be run
at once, with autograd recording; or tile by tile into preallocated sums, and in backward tile by tile again into preallocated gradients.
Then nothing is kept per tile, neither intermediates nor autograd's records: small objects kept between tiles would pin the memory of the
large ones freed around them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from paramgraph.backends.protocol import Backend, Block
from paramgraph.backends.tiles import Tile, Window
from paramgraph.metanets.encoders import encode
from paramgraph.metanets.layers import EdgeFunction, Ends
from paramgraph.metanets.layout import Job

Tensors = Sequence[torch.Tensor]


@dataclass(frozen=True)
class JobPass:
    """One pass over one job.

    The inputs are, in this order: unless edge states are at hand, a tensor of values per graph (none if structural), the edge codes and
    the encoder's two tensors; for each step and each message the source terms, the target terms and its parameters; and, to emit, a
    linear function's weight and bias. The outputs are, as far as wanted, sums at targets, sums at sources, the total, what is emitted.

    Attributes:
        backend: the engine.
        job: the edges.
        steps: edge updates to run first.
        forward: messages to sum at the targets, up to and without their last linear layer, which commutes with the sum.
        backward: messages to sum at the sources, likewise.
        total: whether to sum the edge states of each graph.
        emit: whether to return a linear function of every edge state.
        kinds: what a tile sees of each input: `"values"`, `"sources"` and `"targets"` are cut to it, `"whole"` is not.
        shapes: of each output.
    """

    backend: Backend
    job: Job
    steps: tuple[EdgeFunction, ...]
    forward: EdgeFunction | None
    backward: EdgeFunction | None
    total: bool
    emit: bool
    kinds: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def compute(self, tile: Tile, seen: Tensors, state: torch.Tensor | None = None) -> tuple[list[torch.Tensor], torch.Tensor]:
        """What a tile adds to the outputs, and its edge states.

        Args:
            tile: the tile.
            seen: what it sees of the inputs.
            state: edge states to begin with, if they are at hand: `(batch, groups, m, k, positions, width)`.
        """
        rest = iter(seen)
        block = tile.block
        if state is None:
            state = self._encoded(tile, rest)
        for step in self.steps:
            ends, tensors = _taken(step, rest)
            state = step.updated(tensors, self.backend, block, ends, state)
        found = []
        if self.forward is not None:
            found.append(self.backend.to_nodes(block, self._message(self.forward, rest, block, state), "target"))
        if self.backward is not None:
            found.append(self.backend.to_nodes(block, self._message(self.backward, rest, block, state), "source"))
        if self.total:
            # In a packed job, edges of several graphs meet; their targets tell them apart.
            found.append(self.backend.to_nodes(block, state) if self.job.packed else self.backend.to_graph(block, state))
        if self.emit:
            found.append(F.linear(state, next(rest), next(rest)).reshape(self.job.batch, block.num_edges, -1))
        return found, state

    def _encoded(self, tile: Tile, rest: Iterator[torch.Tensor]) -> torch.Tensor:
        job, (groups, m, k, positions) = self.job, tile.block.shape
        values = [] if job.structural else [next(rest) for _ in range(1 if job.packed else job.batch)]
        codes, weight, bias = next(rest), next(rest), next(rest)
        code = codes[job.codes[tile.slices[0]]].reshape(1, groups, 1, 1, 1, -1) if job.packed else codes[job.codes[tile.slices[3]]]
        if job.packed:
            raw = values[0].reshape(1, groups, 1, 1, 1)
        elif job.structural:
            raw = codes.new_zeros(job.batch, 1, 1, 1, positions)
        else:
            raw = torch.stack(values) if len(values) > 1 else values[0][None]
        return encode(raw.to(weight.dtype), code, weight, bias).expand(job.batch, groups, m, k, positions, -1)

    def _message(self, function: EdgeFunction, rest: Iterator[torch.Tensor], block: Block, state: torch.Tensor) -> torch.Tensor:
        ends, tensors = _taken(function, rest)
        return function.hidden(tensors, self.backend, block, ends, state)

    def streamed(self, inputs: Tensors) -> list[torch.Tensor]:
        """The outputs, tile by tile."""
        outputs = [inputs[-1].new_zeros(shape) for shape in self.shapes]
        for tile, run in self._runs():
            found, _ = self.compute(tile, self.seen(tile, inputs))
            for view, piece in zip(self._added_to(tile, run, outputs), found, strict=True):
                view += piece
        return outputs

    def streamed_gradients(self, inputs: Tensors, needed: Sequence[bool], gradients: Tensors) -> list[torch.Tensor | None]:
        """Gradients of the inputs that need one, tile by tile, from those of the outputs."""
        collected = [tensor.new_zeros(tensor.shape) if need else None for tensor, need in zip(inputs, needed, strict=True)]
        for tile, run in self._runs():
            leaves = [view.detach().requires_grad_(need) for view, need in zip(self.seen(tile, inputs), needed, strict=True)]
            with torch.enable_grad():
                found, _ = self.compute(tile, leaves)
            pairs = [(f, g) for f, g in zip(found, self._added_to(tile, run, gradients), strict=True) if f.requires_grad]
            wanted = [leaf for leaf in leaves if leaf.requires_grad]
            pieces = iter(torch.autograd.grad([f for f, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True) if pairs else ())
            for kind, total in zip(self.kinds, collected, strict=True):
                piece = None if total is None else next(pieces, None)
                if total is not None and piece is not None:
                    self._cut(tile, kind, total).add_(piece)
        return collected

    def _runs(self) -> Iterator[tuple[Tile, Window]]:
        """The tiles, each with its run of edges in the layout of the job."""
        start = 0
        for tile in self.job.tiles:
            yield tile, (start, start + tile.block.num_edges)
            start += tile.block.num_edges

    def seen(self, tile: Tile, tensors: Tensors) -> list[torch.Tensor]:
        """Views of the inputs, or of tensors shaped like them, that a tile sees."""
        return [self._cut(tile, kind, tensor) for kind, tensor in zip(self.kinds, tensors, strict=True)]

    def _cut(self, tile: Tile, kind: str, tensor: torch.Tensor) -> torch.Tensor:
        if kind == "values":
            return tensor[tile.slices[0]] if self.job.packed else tensor[tile.slices]
        if kind == "whole":
            return tensor
        return tensor[:, slice(*(tile.sources if kind == "sources" else tile.targets))]

    def _added_to(self, tile: Tile, run: Window, outputs: Tensors) -> Iterator[torch.Tensor]:
        rest = iter(outputs)
        if self.forward is not None:
            yield next(rest)[:, slice(*tile.targets)]
        if self.backward is not None:
            yield next(rest)[:, slice(*tile.sources)]
        if self.total:
            yield next(rest)
        if self.emit:
            yield next(rest)[:, slice(*run)]


class Streamed(torch.autograd.Function):
    """A pass that keeps its inputs only, and computes its tiles again in backward."""

    @staticmethod
    def forward(ctx: Any, job_pass: JobPass, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.job_pass = job_pass
        ctx.save_for_backward(*inputs)
        return tuple(job_pass.streamed(inputs))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return None, *ctx.job_pass.streamed_gradients(ctx.saved_tensors, ctx.needs_input_grad[1:], gradients)


def _taken(function: EdgeFunction, rest: Iterator[torch.Tensor]) -> tuple[Ends, list[torch.Tensor]]:
    """Node terms and parameters of a function, from the inputs."""
    ends = next(rest), next(rest)
    return ends, [next(rest) for _ in function.edge_tensors()]
