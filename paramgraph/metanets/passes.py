"""Passes over the edges of a batch, keeping edge states or recomputing them.

The state of an edge after layer l follows from its value, its code and node terms of layers up to l. So a graph whose edge states do
not fit in memory is streamed: each pass takes one tile of raw values at a time, runs it through all layers so far, reduces it, and
forgets it. Only node states are kept; backward runs tiles once more, and gradients are exact. Graphs that do fit keep their edge states
between passes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from paramgraph.backends.protocol import Backend
from paramgraph.metanets.batch import Batch
from paramgraph.metanets.encoders import EdgeEncoder
from paramgraph.metanets.job_pass import JobPass, Streamed
from paramgraph.metanets.layers import EdgeFunction, Ends
from paramgraph.metanets.layout import Job, Layout


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

    def at(self, job: Job) -> Ends:
        """Terms of a job's node sets, `(batch, nodes, width)` each; of the whole table in a packed job."""
        if job.source is None or job.target is None:
            return self.source[None], self.target[None]
        width = self.source.shape[-1]
        return (
            self._sources[job.source].reshape(*self.layout.runs[job.source], width),
            self._targets[job.target].reshape(*self.layout.runs[job.target], width),
        )


Step = tuple[EdgeFunction, Terms]


@dataclass
class Reduced:
    """What a pass collected.

    Attributes:
        target: sums of messages at edges' targets, `(rows, width)`.
        source: sums of reverse messages at edges' sources, `(rows, width)`.
        total: sums of edge states, `(graphs, width)`.
        emitted: per job, what was computed per edge, `(batch, edges, out)`; None for edge sets that are structural or have no edges.
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
        encoder: values and codes to initial states.
        codes: the edge code table, `(codes, width)`.
        keep: keep edge states in memory between passes (the layout must have one tile per job); else recompute them tile by tile.
    """

    def __init__(self, backend: Backend, batch: Batch, encoder: EdgeEncoder, codes: torch.Tensor, keep: bool) -> None:
        self.batch = batch
        self._backend = backend
        self._encoder = encoder
        self._codes = codes
        self._keep = keep
        self._steps: list[Step] = []
        self._kept: dict[int, tuple[int, torch.Tensor]] = {}

    def advance(self, update: EdgeFunction, terms: Terms) -> None:
        """Put one more edge update between the raw values and the current edge states."""
        self._steps.append((update, terms))

    def reduce(
        self, forward: Step | None = None, backward: Step | None = None, total: bool = False, emit: nn.Linear | None = None
    ) -> Reduced:
        """One pass over all edges at their current states.

        Args:
            forward: messages to sum at the targets, up to and without their last linear layer, which commutes with the sum.
            backward: messages to sum at the sources, likewise.
            total: whether to sum the edge states of each graph.
            emit: linear function of edge states to return per edge.
        """
        layout, width = self.batch.layout, self._codes.shape[-1]
        at_targets, at_sources, totals = _Sums(layout, width), _Sums(layout, width), _Totals(layout, width)
        emitted: list[torch.Tensor | None] = []
        for number, job in enumerate(layout.jobs):
            emits = None if job.structural else emit
            found = iter(self._run(number, job, forward, backward, total, emits) if job.tiles else ())
            if forward is not None:
                at_targets.add(job.target, next(found, None))
            if backward is not None:
                at_sources.add(job.source, next(found, None))
            if total:
                totals.add(job, next(found, None))
            emitted.append(next(found, None) if emits is not None else None)
        return Reduced(
            at_targets.result(self._codes) if forward else None,
            at_sources.result(self._codes) if backward else None,
            totals.result(self._codes) if total else None,
            emitted,
        )

    def _run(
        self, number: int, job: Job, forward: Step | None, backward: Step | None, total: bool, emit: nn.Linear | None
    ) -> list[torch.Tensor] | tuple[torch.Tensor, ...]:
        level, state = self._kept.get(number, (0, None))
        steps = self._steps[level:]
        inputs: list[tuple[str, torch.Tensor]] = []
        if state is None:
            inputs += [("values", value) for value in self.batch.values[number] or ()]
            inputs += [("whole", tensor) for tensor in (self._codes, *self._encoder.edge_tensors())]
        for function, terms in (*steps, *(message for message in (forward, backward) if message is not None)):
            inputs += zip(("sources", "targets"), terms.at(job), strict=True)
            inputs += [("whole", tensor) for tensor in function.edge_tensors()]
        if emit is not None:
            inputs += [("whole", emit.weight), ("whole", emit.bias)]
        job_pass = JobPass(
            backend=self._backend,
            job=job,
            steps=tuple(function for function, _ in steps),
            forward=forward[0] if forward else None,
            backward=backward[0] if backward else None,
            total=total,
            emit=emit is not None,
            kinds=tuple(kind for kind, _ in inputs),
            shapes=self._shapes(job, forward, backward, total, emit),
        )
        tensors = [tensor for _, tensor in inputs]
        if self._keep:
            found, state = job_pass.compute(job.tiles[0], job_pass.seen(job.tiles[0], tensors), state)
            self._kept[number] = (len(self._steps), state)
            return found
        streamed: tuple[torch.Tensor, ...] = Streamed.apply(job_pass, *tensors)
        return streamed

    def _shapes(
        self, job: Job, forward: Step | None, backward: Step | None, total: bool, emit: nn.Linear | None
    ) -> tuple[tuple[int, ...], ...]:
        width, rows = self._codes.shape[-1], self.batch.layout.num_rows
        sizes = {end: rows if run is None else self.batch.layout.runs[run][1] for end, run in (("s", job.source), ("t", job.target))}
        shapes: list[tuple[int, ...]] = [(job.batch, sizes["t"], width)] if forward else []
        shapes += [(job.batch, sizes["s"], width)] if backward else []
        shapes += [(1, rows, width) if job.packed else (job.batch, width)] if total else []
        shapes += [(job.batch, sum(tile.block.num_edges for tile in job.tiles), emit.out_features)] if emit is not None else []
        return tuple(shapes)


class _Sums:
    """Sums over rows, added up job by job."""

    def __init__(self, layout: Layout, width: int) -> None:
        self._layout = layout
        self._width = width
        self._runs: dict[int | None, torch.Tensor] = {}

    def add(self, run: int | None, piece: torch.Tensor | None) -> None:
        """Add `(batch, nodes, width)` to a run of rows, or `(1, rows, width)` to the whole table. An implied edge set may end early."""
        if piece is None:
            return
        if run is not None and piece.shape[1] < self._layout.runs[run][1]:
            piece = torch.nn.functional.pad(piece, (0, 0, 0, self._layout.runs[run][1] - piece.shape[1]))
        self._runs[run] = self._runs[run] + piece if run in self._runs else piece

    def result(self, like: torch.Tensor) -> torch.Tensor:
        """The table of sums, `(rows, width)`."""
        empty = like.new_zeros(1, self._width)
        runs = [
            self._runs[run].reshape(rows, self._width) if run in self._runs else empty.expand(rows, -1)
            for run, rows in enumerate(self._layout.run_rows)
        ]
        table = torch.cat(runs) if runs else empty[:0]
        return table + self._runs[None][0] if None in self._runs else table


class _Totals:
    """Sums over graphs, added up job by job."""

    def __init__(self, layout: Layout, width: int) -> None:
        self._layout = layout
        self._width = width
        self._blocks: list[torch.Tensor] = []
        self._numbers: list[int] = []
        self._table: torch.Tensor | None = None

    def add(self, job: Job, piece: torch.Tensor | None) -> None:
        """Add `(batch, width)` to the graphs of a block job, or sums at targets, `(1, rows, width)`, of the packed one."""
        if piece is None:
            return
        if job.packed:
            self._table = piece[0]
            return
        self._blocks.append(piece)
        self._numbers += [part.graph for part in job.parts]

    def result(self, like: torch.Tensor) -> torch.Tensor:
        """The sums, `(graphs, width)`."""
        sums = like.new_zeros(self._layout.num_graphs, self._width)
        if self._blocks:
            sums = sums.index_add(0, torch.as_tensor(self._numbers, device=like.device), torch.cat(self._blocks))
        if self._table is not None:
            sums = sums.index_add(0, self._layout.graph_of_row, self._table)
        return sums
