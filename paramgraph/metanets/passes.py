"""Passes over the edges of a batch, keeping edge states or recomputing them.

The state of an edge after layer l follows from its value, its code and node terms of layers up to l. So a graph whose edge states do
not fit in memory is streamed: each pass takes one tile of raw values at a time, runs it through all layers so far, reduces it, and
forgets it. Only node states are kept; backward runs tiles once more, and gradients are exact. Graphs that do fit keep their edge states
between passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.utils.checkpoint import checkpoint

from paramgraph.backends.protocol import Backend
from paramgraph.metanets.batch import Batch
from paramgraph.metanets.job_pass import EdgeWise, Emits, Encodes, Ends, JobPass, Streamed
from paramgraph.metanets.layout import Job, Layout
from paramgraph.metanets.memory import Plan


@dataclass
class Terms:
    """What the nodes contribute to an edge-wise function, as sources and as targets: `(rows, width)` each; the widths may differ."""

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
        return (
            self._sources[job.source].reshape(*self.layout.runs[job.source], self.source.shape[-1]),
            self._targets[job.target].reshape(*self.layout.runs[job.target], self.target.shape[-1]),
        )


@dataclass(frozen=True)
class Step:
    """A function of edges with the terms of the nodes.

    Attributes:
        function: the update or message.
        terms: of the nodes.
        width: of messages; None where the function updates edge states.
    """

    function: EdgeWise
    terms: Terms
    width: int | None = None


@dataclass(frozen=True)
class Encoding:
    """How values become edge states.

    Attributes:
        encoder: the function.
        tensors: its tables and parameters, the first of the metanet's own dtype.
        width: of edge states.
        fold: whether the positions of a node pair are one edge.
    """

    encoder: Encodes
    tensors: tuple[torch.Tensor, ...]
    width: int
    fold: bool = False


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
        encoding: values to initial states.
        plan: what is kept of them. The layout has one tile per job unless passes are tiled.
    """

    def __init__(self, backend: Backend, batch: Batch, encoding: Encoding, plan: Plan) -> None:
        self.batch = batch
        self._backend = backend
        self._encoding = encoding
        self._plan = plan
        self._steps: list[Step] = []
        self._kept: dict[int, tuple[int, torch.Tensor]] = {}

    def advance(self, update: EdgeWise, terms: Terms) -> None:
        """Put one more edge update between the raw values and the current edge states."""
        self._steps.append(Step(update, terms))

    def reduce(
        self,
        forward: Step | None = None,
        backward: Step | None = None,
        total: bool = False,
        emit: tuple[Emits, int] | None = None,
        only: Callable[[Job], bool] | None = None,
        keeps: bool = True,
    ) -> Reduced:
        """One pass over all edges at their current states.

        Args:
            forward: messages to sum at the targets, up to and without their last linear layer, which commutes with the sum.
            backward: messages to sum at the sources, likewise.
            total: whether to sum the edge states of each graph.
            emit: function of edge states to return per edge, and its width.
            only: which jobs take part; None: all.
            keeps: whether later passes are to be expected: then the edge states are kept, if the plan is to keep any.
        """
        layout = self.batch.layout
        like = self._encoding.tensors[0]
        at_targets, at_sources = (_Sums(layout, 0 if step is None else step.width or 0) for step in (forward, backward))
        totals = _Totals(layout, self._encoding.width)
        emitted: list[torch.Tensor | None] = []
        for number, job in enumerate(layout.jobs):
            takes = bool(job.tiles) and (only is None or only(job))
            emits = None if job.structural else emit
            found = iter(self._run(number, job, forward, backward, total, emits, keeps) if takes else ())
            if forward is not None:
                at_targets.add(job.target, next(found, None))
            if backward is not None:
                at_sources.add(job.source, next(found, None))
            if total:
                totals.add(job, next(found, None))
            emitted.append(next(found, None) if emits is not None else None)
        return Reduced(
            at_targets.result(like) if forward else None,
            at_sources.result(like) if backward else None,
            totals.result(like) if total else None,
            emitted,
        )

    def _run(
        self, number: int, job: Job, forward: Step | None, backward: Step | None, total: bool, emit: tuple[Emits, int] | None, keeps: bool
    ) -> list[torch.Tensor] | tuple[torch.Tensor, ...]:
        level, state = self._kept.get(number, (0, None))
        steps = self._steps[level:]
        tiled = self._plan.tiled
        inputs: list[tuple[str, torch.Tensor]] = []
        counts: list[int] = []
        if state is None:
            stacked = not job.packed and self.batch.group_of(job.parts[0].graph).stack is not None
            inputs += [("stacked" if stacked else "values", value) for value in self.batch.values[number] or ()]
            inputs += [("whole", tensor) for tensor in self._encoding.tensors]
            counts.append(len(self._encoding.tensors))
        elif tiled:
            inputs.append(("state", state))
        for step in (*steps, *(message for message in (forward, backward) if message is not None)):
            tensors = step.function.edge_tensors()
            inputs += zip(("sources", "targets"), step.terms.at(job), strict=True)
            inputs += [("whole", tensor) for tensor in tensors]
            counts.append(len(tensors))
        if emit is not None:
            tensors = emit[0].edge_tensors()
            inputs += [("whole", tensor) for tensor in tensors]
            counts.append(len(tensors))
        job_pass = JobPass(
            backend=self._backend,
            job=job,
            encoder=self._encoding.encoder,
            steps=tuple(step.function for step in steps),
            forward=forward.function if forward else None,
            backward=backward.function if backward else None,
            total=total,
            emit=emit[0] if emit else None,
            fold=self._encoding.fold,
            # Initial states are made again faster than they are read from memory.
            keeps=tiled and self._plan.keep and keeps and bool(steps),
            kinds=tuple(kind for kind, _ in inputs),
            counts=tuple(counts),
            shapes=self._shapes(job, forward, backward, total, emit),
        )
        tensors = tuple(tensor for _, tensor in inputs)
        if tiled:
            # Tiles are passed over as they are: a compiler would unroll them.
            apply = torch.compiler.disable(Streamed.apply) if torch.compiler.is_compiling() else Streamed.apply
            found: tuple[torch.Tensor, ...] = apply(job_pass, *tensors)
            if job_pass.keeps:
                self._kept[number] = (len(self._steps), found[-1])
            return found[: len(job_pass.shapes)]
        seen = job_pass.seen(job.tiles[0], tensors)
        if self._plan.recompute and torch.is_grad_enabled():
            computed, state = checkpoint(job_pass.compute, job.tiles[0], seen, state, use_reentrant=False, preserve_rng_state=False)
        else:
            computed, state = job_pass.compute(job.tiles[0], seen, state)
        assert state is not None
        self._kept[number] = (len(self._steps), state)
        return computed

    def _shapes(
        self, job: Job, forward: Step | None, backward: Step | None, total: bool, emit: tuple[Emits, int] | None
    ) -> tuple[tuple[int, ...], ...]:
        width, rows = self._encoding.width, self.batch.layout.num_rows
        sizes = {end: rows if run is None else self.batch.layout.runs[run][1] for end, run in (("s", job.source), ("t", job.target))}
        shapes: list[tuple[int, ...]] = [(job.batch, sizes["t"], forward.width or 0)] if forward else []
        shapes += [(job.batch, sizes["s"], backward.width or 0)] if backward else []
        shapes += [(1, rows, width) if job.packed else (job.batch, width)] if total else []
        shapes += [(job.batch, sum(tile.block.num_edges for tile in job.tiles), emit[1])] if emit is not None else []
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
            self._table = piece[0] if self._table is None else self._table + piece[0]
            return
        self._blocks.append(piece)
        self._numbers += [part.graph for part in job.parts]

    def result(self, like: torch.Tensor) -> torch.Tensor:
        """The sums, `(graphs, width)`."""
        sums = like.new_zeros(self._layout.num_graphs, self._width)
        if self._blocks:
            sums = sums.index_add(0, torch.as_tensor(self._numbers, device=like.device), torch.cat(self._blocks).to(sums.dtype))
        if self._table is not None:
            sums = sums.index_add(0, self._layout.graph_of_row, self._table.to(sums.dtype))
        return sums
