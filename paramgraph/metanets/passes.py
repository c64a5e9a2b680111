"""Passes over the edges of a batch, keeping edge states or recomputing them.

The state of an edge after layer l follows from its value, its code and node terms of layers up to l. So a graph whose edge states do
not fit in memory is streamed: each pass takes one tile of raw values at a time, runs it through all layers so far, reduces it, and
forgets it. Only node states are kept; backward runs tiles once more, and gradients are exact. Graphs that do fit keep their edge states
between passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from paramgraph.backends.protocol import Backend, End
from paramgraph.metanets.batch import Batch
from paramgraph.metanets.composed import Composed, EmitsLinear, HasPerceptron, composed, linear_after
from paramgraph.metanets.cuts import cuts
from paramgraph.metanets.fused_pass import Buffers, EncodesInto, FusedPass
from paramgraph.metanets.job_pass import EdgeWise, Emits, Encodes, JobPass, Streamed
from paramgraph.metanets.layout import Job
from paramgraph.metanets.memory import Plan
from paramgraph.metanets.terms import Largest, Sums, Terms, Totals
from paramgraph.metanets.written import HasWritten
from paramgraph.metanets.written_pass import WrittenPass


@dataclass(frozen=True)
class Step:
    """A function of edges with the terms of the nodes.

    Attributes:
        function: the update or message.
        terms: of the nodes.
        width: of messages; None where the function updates edge states.
        extremes: of how many of the first numbers of messages the largest and the smallest are wanted too; of messages along edges only.
    """

    function: EdgeWise
    terms: Terms
    width: int | None = None
    extremes: int = 0


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
        extremes: the largest and minus the smallest of messages there, `(rows, 2 · Step.extremes)`, −∞ at nodes without edges.
        source: sums of reverse messages at edges' sources, `(rows, width)`.
        total: sums of edge states, `(graphs, width)`.
        emitted: per job, what was computed per edge, `(batch, edges, out)`; None for edge sets that are structural or have no edges.
    """

    target: torch.Tensor | None = None
    extremes: torch.Tensor | None = None
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
        # The steps as perceptrons, up to the first that is none.
        self._composed: list[Composed] = []
        self._kept: dict[int, _Kept] = {}
        self._buffers = Buffers(encoding.tensors[0].detach(), encoding.width)
        device = encoding.tensors[0].device.type
        self._writes = plan.tiled and isinstance(encoding.encoder, EncodesInto) and not torch.is_autocast_enabled(device)
        self._fuses = self._writes and not encoding.fold

    def advance(self, update: EdgeWise, terms: Terms) -> None:
        """Put one more edge update between the raw values and the current edge states."""
        if self._fuses and len(self._composed) == len(self._steps):
            made = composed(update, terms, self._last)
            self._composed += [] if made is None else [made]
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
        asked = _Asked(forward, backward, total, emit, keeps)
        fused = self._fused(asked)
        at_targets, at_sources = (Sums(layout, 0 if step is None else step.width or 0) for step in (forward, backward))
        extremes = asked.extremes
        largest, totals = Largest(layout, 2 * extremes), Totals(layout, self._encoding.width)
        emitted: list[torch.Tensor | None] = []
        for number, job in enumerate(layout.jobs):
            takes = bool(job.tiles) and (only is None or only(job))
            emits = emit is not None and not job.structural
            each = asked if emits else replace(asked, emit=None)
            found = iter(() if not takes else self._run(number, job, each) if fused is None else self._run_fused(number, job, each, fused))
            if forward is not None:
                at_targets.add(job.target, next(found, None))
            if extremes:
                largest.add(job.target, next(found, None))
            if backward is not None:
                at_sources.add(job.source, next(found, None))
            if total:
                totals.add(number, next(found, None))
            emitted.append(next(found, None) if emits else None)
        sums = totals.result(like) if total else None
        if sums is not None and fused is not None and self._last is not None:
            sums = F.linear(sums, self._last.after.last) + totals.edges()[:, None] * self._last.after.bias
        return Reduced(
            target=at_targets.result(like) if forward else None,
            extremes=largest.result(like) if extremes else None,
            source=at_sources.result(like) if backward else None,
            total=sums,
            emitted=emitted,
        )

    @property
    def _last(self) -> Composed | None:
        return self._composed[-1] if self._composed else None

    def _fused(self, asked: _Asked) -> _Fused | None:
        """The messages of a pass and what it emits, composed with the last update; None if something is no perceptron."""
        if not self._fuses or len(self._composed) < len(self._steps) or asked.extremes:
            return None
        steps = [step for step in (asked.forward, asked.backward) if step is not None]
        if any(isinstance(step.function, HasPerceptron) and step.function.perceptron() is None for step in steps):
            # Its messages need the edge states themselves in every layer, so those are what is kept.
            self._fuses = False
            return None
        messages = [composed(step.function, step.terms, self._last) for step in steps]
        emitted: tuple[torch.Tensor, ...] = ()
        if asked.emit is not None:
            linear = asked.emit[0].linear_of_states() if isinstance(asked.emit[0], EmitsLinear) else None
            if linear is None:
                return None
            emitted = linear if self._last is None else linear_after(*linear, self._last)
        found = [message for message in messages if message is not None]
        return _Fused(found, emitted) if len(found) == len(messages) else None

    def _run(self, number: int, job: Job, asked: _Asked) -> list[torch.Tensor]:
        """One job's part of a pass of any functions."""
        kept = self._at_hand(number, hidden=False)
        level = 0 if kept is None else kept.level
        messages = [message for message in (asked.forward, asked.backward) if message is not None]
        inputs, counts = self._begin(number, kept)
        for step in (*self._steps[level:], *messages):
            tensors = step.function.edge_tensors()
            inputs += zip(("sources", "targets"), step.terms.at(job), strict=True)
            inputs += [("whole", tensor) for tensor in tensors]
            counts.append(len(tensors))
        if asked.emit is not None:
            tensors = asked.emit[0].edge_tensors()
            inputs += [("whole", tensor) for tensor in tensors]
            counts.append(len(tensors))
        functions = [step.function for step in (*self._steps[level:], *messages)]
        written = self._writes and asked.emit is None and not asked.total and not asked.extremes
        written = written and all(isinstance(one, HasWritten) for one in functions)
        make = partial(WrittenPass, width=self._encoding.width, buffers=self._buffers) if written else JobPass
        job_pass = make(
            backend=self._backend,
            job=job,
            encoder=self._encoding.encoder,
            steps=tuple(step.function for step in self._steps[level:]),
            forward=asked.forward.function if asked.forward else None,
            backward=asked.backward.function if asked.backward else None,
            extremes=asked.extremes,
            total=asked.total,
            emit=asked.emit[0] if asked.emit else None,
            fold=self._encoding.fold,
            # Initial states are made again faster than they are read from memory.
            keeps=self._plan.tiled and self._plan.keep and asked.keeps and level < len(self._steps),
            kinds=tuple(kind for kind, _ in inputs),
            counts=tuple(counts),
            shapes=self._shapes(job, asked),
        )
        if self._plan.tiled:
            return self._streamed(number, job_pass, inputs, hidden=False)
        cut = next(cuts(job, self._encoding.fold))
        # Without tiles, states are kept as they are.
        seen = [tensor if kind == "state" else cut.of(kind, tensor) for kind, tensor in inputs]
        if self._plan.recompute and torch.is_grad_enabled():
            computed, state = checkpoint(job_pass.compute, cut, seen, use_reentrant=False, preserve_rng_state=False)
        else:
            computed, state = job_pass.compute(cut, seen)
        self._kept[number] = _Kept(len(self._steps), state)
        return list(computed)

    def _run_fused(self, number: int, job: Job, asked: _Asked, fused: _Fused) -> list[torch.Tensor]:
        """One job's part of a pass of perceptrons."""
        kept = self._at_hand(number, hidden=True)
        level = 0 if kept is None else kept.level
        inputs, counts = self._begin(number, kept)
        for layer in (*self._composed[level:], *fused.messages):
            inputs += zip(("sources", "targets", "whole"), (*layer.terms.at(job), layer.weight), strict=True)
        inputs += [("whole", tensor) for tensor in (fused.emitted if asked.emit is not None else ())]
        encoder = self._encoding.encoder
        assert isinstance(encoder, EncodesInto)
        ends: list[End] = ["target"] if asked.forward is not None else []
        ends += ["source"] if asked.backward is not None else []
        fused_pass = FusedPass(
            backend=self._backend,
            job=job,
            width=self._encoding.width,
            buffers=self._buffers,
            encoder=encoder if kept is None else None,
            encoder_tensors=sum(counts),
            steps=len(self._steps) - level,
            messages=tuple(ends),
            total=asked.total,
            emit=asked.emit is not None,
            keeps=self._plan.keep and asked.keeps and level < len(self._steps),
            kinds=tuple(kind for kind, _ in inputs),
            shapes=self._shapes(job, asked),
        )
        return self._streamed(number, fused_pass, inputs, hidden=True)

    def _at_hand(self, number: int, hidden: bool) -> _Kept | None:
        """What is kept of a job, if it is of the kind that a pass begins from."""
        kept = self._kept.get(number)
        return kept if kept is not None and kept.hidden == hidden else None

    def _begin(self, number: int, kept: _Kept | None) -> tuple[list[tuple[str, torch.Tensor]], list[int]]:
        """What a pass begins from: the edge states at hand, or values and the encoder's tensors, and how many these are."""
        if kept is not None:
            return [("state", kept.states)], []
        values = self.batch.values[number]
        inputs = [] if values is None else [("values", values)]
        return [*inputs, *(("whole", tensor) for tensor in self._encoding.tensors)], [len(self._encoding.tensors)]

    def _streamed(self, number: int, job_pass: JobPass | FusedPass, inputs: list[tuple[str, torch.Tensor]], hidden: bool) -> list[torch.Tensor]:
        # Tiles are passed over as they are: a compiler would unroll them.
        apply = torch.compiler.disable(Streamed.apply) if torch.compiler.is_compiling() else Streamed.apply
        found: tuple[torch.Tensor, ...] = apply(job_pass, *(tensor for _, tensor in inputs))
        if job_pass.keeps:
            self._kept[number] = _Kept(len(self._steps), found[-1], hidden)
        return list(found[: len(job_pass.shapes)])

    def _shapes(self, job: Job, asked: _Asked) -> tuple[tuple[int, ...], ...]:
        width, rows = self._encoding.width, self.batch.layout.num_rows
        sizes = {end: rows if run is None else self.batch.layout.runs[run][1] for end, run in (("s", job.source), ("t", job.target))}
        shapes: list[tuple[int, ...]] = [(job.batch, sizes["t"], asked.forward.width or 0)] if asked.forward else []
        shapes += [(job.batch, sizes["t"], 2 * asked.extremes)] if asked.extremes else []
        shapes += [(job.batch, sizes["s"], asked.backward.width or 0)] if asked.backward else []
        shapes += [(1, rows, width) if job.packed else (job.batch, width)] if asked.total else []
        shapes += [(job.batch, sum(tile.block.num_edges for tile in job.tiles), asked.emit[1])] if asked.emit is not None else []
        return tuple(shapes)


@dataclass(frozen=True)
class _Asked:
    """The arguments of `EdgeStates.reduce`."""

    forward: Step | None
    backward: Step | None
    total: bool
    emit: tuple[Emits, int] | None
    keeps: bool

    @property
    def extremes(self) -> int:
        return 0 if self.forward is None else self.forward.extremes


@dataclass(frozen=True)
class _Fused:
    """The messages of a pass as perceptrons; weight and bias of what it emits."""

    messages: list[Composed]
    emitted: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class _Kept:
    """A job's edge states after some steps, or the hidden layers of the last of those."""

    level: int
    states: torch.Tensor
    hidden: bool = False
