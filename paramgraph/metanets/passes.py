"""Passes over the edges of a batch, keeping edge states or recomputing them.

The state of an edge after layer l follows from its value, its code and node terms of layers up to l. So a graph whose edge states do
not fit in memory is streamed: each pass takes one tile of raw values at a time, runs it through all layers so far, reduces it, and
forgets it. Only node states are kept. With gradients, each tile is a checkpoint: backward recomputes it once more, and gradients are
exact. Graphs that do fit keep their edge states between passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from paramgraph.backends.protocol import Backend
from paramgraph.backends.tiles import Tile, Window
from paramgraph.metanets.batch import Batch
from paramgraph.metanets.layers import EdgeFunction
from paramgraph.metanets.layout import Job, Layout

Encode = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class Terms:
    """What the nodes contribute to an edge-wise function's first layer, as sources and as targets: `(rows, width)` each."""

    layout: Layout
    source: torch.Tensor
    target: torch.Tensor
    _sources: tuple[torch.Tensor, ...] = field(init=False, repr=False)
    _targets: tuple[torch.Tensor, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # One split for all edge sets: its derivative is one concatenation, where slices would each cost a table of zeros.
        self._sources = torch.split(self.source, self.layout.run_rows)
        self._targets = torch.split(self.target, self.layout.run_rows)

    def at(self, job: Job, tile: Tile) -> tuple[torch.Tensor, torch.Tensor]:
        """Terms in the windows of a tile, `(batch, window, width)` each."""
        if job.source is None or job.target is None:
            return self.source[None], self.target[None]
        return _window(self._sources[job.source], job, tile.sources), _window(self._targets[job.target], job, tile.targets)


@dataclass
class Reduced:
    """What a pass collected.

    Attributes:
        target: sums of messages at edges' targets, `(rows, width)`.
        source: sums of reverse messages at edges' sources, `(rows, width)`.
        total: sums of edge states, `(graphs, width)`.
        emitted: per job, what was computed per edge, `(batch, edges, out)`; None for structural edge sets.
    """

    target: torch.Tensor | None = None
    source: torch.Tensor | None = None
    total: torch.Tensor | None = None
    emitted: list[torch.Tensor | None] = field(default_factory=list)


class EdgeStates:
    """The edge states of a batch, advanced layer by layer.

    Args:
        backend: the engine.
        batch: the graphs.
        encode: values and codes to initial states.
        codes: the edge code table, `(codes, width)`.
        keep: keep edge states in memory between passes; else recompute them tile by tile.
    """

    def __init__(self, backend: Backend, batch: Batch, encode: Encode, codes: torch.Tensor, keep: bool) -> None:
        self.backend = backend
        self.batch = batch
        self._encode = encode
        self._codes = codes
        self._keep = keep
        self._steps: list[tuple[EdgeFunction, Terms]] = []
        self._kept: dict[Tile, tuple[int, torch.Tensor]] = {}

    def advance(self, update: EdgeFunction, terms: Terms) -> None:
        """Put one more edge update between the raw values and the current edge states."""
        self._steps.append((update, terms))

    def reduce(
        self,
        forward: tuple[EdgeFunction, Terms] | None = None,
        backward: tuple[EdgeFunction, Terms] | None = None,
        total: bool = False,
        emit: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> Reduced:
        """One pass over all edges at their current states.

        Args:
            forward: messages to sum at the targets, up to and without their last linear layer, which commutes with the sum.
            backward: messages to sum at the sources.
            total: whether to sum the edge states of each graph.
            emit: function of edge states to return per edge.
        """
        layout = self.batch.layout
        at_targets, at_sources, totals = _NodeSums(layout), _NodeSums(layout), _GraphSums(layout)
        emitted: list[torch.Tensor | None] = []
        # Backward runs tiles again, when further layers may have been added: they must see the layers of now.
        steps = tuple(self._steps)
        for number, job in enumerate(layout.jobs):
            pieces = []
            emits = emit if job.packed or job.parts[0].edges.parameter is not None else None
            for tile in job.tiles:
                run = partial(self._run_tile, steps, number, job, tile, forward, backward, total, emits)
                if torch.is_grad_enabled() and not self._keep:
                    message, reverse, summed, piece = checkpoint(run, use_reentrant=False, preserve_rng_state=False)
                else:
                    message, reverse, summed, piece = run()
                if message is not None:
                    at_targets.add(job.target, tile.targets, message)
                if reverse is not None:
                    at_sources.add(job.source, tile.sources, reverse)
                if summed is not None:
                    totals.add(job, summed)
                if piece is not None:
                    pieces.append(piece)
            emitted.append(torch.cat(pieces, dim=1) if pieces else None)
        return Reduced(
            at_targets.result(forward[1].source) if forward else None,
            at_sources.result(backward[1].source) if backward else None,
            totals.result(self._codes) if total else None,
            emitted,
        )

    def _run_tile(
        self,
        steps: tuple[tuple[EdgeFunction, Terms], ...],
        number: int,
        job: Job,
        tile: Tile,
        forward: tuple[EdgeFunction, Terms] | None,
        backward: tuple[EdgeFunction, Terms] | None,
        total: bool,
        emit: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> tuple[torch.Tensor | None, ...]:
        state = self._state(steps, number, job, tile)
        message = reverse = summed = piece = None
        if forward is not None:
            hidden = forward[0].hidden(self.backend, tile.block, *forward[1].at(job, tile), state)
            message = self.backend.to_nodes(tile.block, hidden, "target")
        if backward is not None:
            hidden = backward[0].hidden(self.backend, tile.block, *backward[1].at(job, tile), state)
            reverse = self.backend.to_nodes(tile.block, hidden, "source")
        if total:
            # In a packed job, edges of several graphs meet; their targets tell them apart.
            summed = self.backend.to_nodes(tile.block, state) if job.packed else self.backend.to_graph(tile.block, state)
        if emit is not None:
            out = emit(state)
            piece = out.reshape(job.batch, tile.block.num_edges, out.shape[-1])
        return message, reverse, summed, piece

    def _state(self, steps: tuple[tuple[EdgeFunction, Terms], ...], number: int, job: Job, tile: Tile) -> torch.Tensor:
        """Edge states of a tile after `steps`, `(batch, groups, m, k, positions, width)`."""
        level, state = self._kept.get(tile, (-1, None))
        if state is None:
            level, state = 0, self._encode(self.batch.tile_values(number, tile), job.code(self._codes, tile))
            state = state.expand(job.batch, *tile.block.shape, state.shape[-1])
        for update, terms in steps[level:]:
            state = update(self.backend, tile.block, *terms.at(job, tile), state)
        if self._keep:
            self._kept[tile] = (len(steps), state)
        return state


class _NodeSums:
    """Sums over rows, added up window by window.

    All additions are in place: a small result kept per tile would pin the memory of the large intermediates freed around it.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._runs: dict[int, torch.Tensor] = {}
        self._table: torch.Tensor | None = None

    def add(self, run: int | None, window: Window, piece: torch.Tensor) -> None:
        """Add `(batch, window, width)` to a run of rows, or `(1, rows, width)` to the whole table."""
        if run is None:
            self._table = _added(self._table, piece[0])
            return
        batch, size = self._layout.runs[run]
        if window == (0, size):
            self._runs[run] = _added(self._runs.get(run), piece)
            return
        if run not in self._runs:
            self._runs[run] = piece.new_zeros(batch, size, piece.shape[-1])
        self._runs[run][:, slice(*window)] += piece

    def result(self, like: torch.Tensor) -> torch.Tensor:
        """The table of sums, `(rows, width)`."""
        width = like.shape[-1]
        runs = [
            self._runs[run].reshape(rows, width) if run in self._runs else like.new_zeros(rows, width)
            for run, rows in enumerate(self._layout.run_rows)
        ]
        table = torch.cat(runs) if runs else like.new_zeros(0, width)
        return table if self._table is None else table + self._table


class _GraphSums:
    """Sums over graphs, added up job by job."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._blocks: dict[int, torch.Tensor] = {}
        self._table: torch.Tensor | None = None

    def add(self, job: Job, piece: torch.Tensor) -> None:
        """Add `(batch, width)` to the graphs of a block job, or sums at targets, `(1, rows, width)`, of a packed one."""
        if job.packed:
            self._table = _added(self._table, piece[0])
        else:
            first = job.parts[0].graph
            self._blocks[first] = _added(self._blocks.get(first), piece)

    def result(self, like: torch.Tensor) -> torch.Tensor:
        """The sums, `(graphs, width)`."""
        sums = like.new_zeros(self._layout.num_graphs, like.shape[-1])
        for first, block in self._blocks.items():
            sums[first : first + block.shape[0]] += block
        if self._table is not None:
            sums = sums.index_add(0, self._layout.graph_of_row, self._table)
        return sums


def _added(sums: torch.Tensor | None, piece: torch.Tensor) -> torch.Tensor:
    return piece.clone() if sums is None else sums.add_(piece)


def _window(run: torch.Tensor, job: Job, window: Window) -> torch.Tensor:
    states = run.reshape(job.batch, -1, run.shape[-1])
    return states if window == (0, states.shape[1]) else states[:, slice(*window)]
