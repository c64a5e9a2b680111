"""A pass over perceptrons, computed without autograd: derivatives written out, every part of the edges in the same few buffers.

What `job_pass` does for any function of edges, this does faster for `relu(W x + source + target)`: nothing is allocated or recorded per part,
gradients of parameters are summed by the products that make them, and a part with all that is made of it fits in a processor's cache.

Two linear functions that follow each other are one. The last of an edge update is multiplied into the first of whatever reads the updated
edges, outside of the pass; so what is kept of an edge is its hidden layer, and each function of it costs one product where it would cost two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import get_ident
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

from paramgraph.backends.protocol import Backend, End
from paramgraph.metanets.cuts import Cut, cuts, num_states
from paramgraph.metanets.layout import Job

Tensors = Sequence[torch.Tensor]
MaybeTensors = Sequence[torch.Tensor | None]


@runtime_checkable
class EncodesInto(Protocol):
    """An encoder (`job_pass.Encodes`) with its derivative written out."""

    def encode_into(self, cut: Cut, raw: torch.Tensor, tensors: Tensors, out: torch.Tensor) -> None:
        """Write initial states to `out`, `(edges, width)`; `raw` is that of `job_pass.Encodes.encode`."""
        ...

    def add_gradients(
        self,
        cut: Cut,
        raw: torch.Tensor,
        tensors: Tensors,
        of_states: torch.Tensor,
        of_raw: torch.Tensor | None,
        of_tensors: MaybeTensors,
        scratch: torch.Tensor,
    ) -> None:
        """Add what a gradient of the states brings to those of the values and the tensors, where not None. `scratch` is like the states."""
        ...


class Buffers:
    """Memory that all parts of all passes over a batch use one after the other: pages that are new are slow.

    Args:
        like: a tensor of the states' dtype and device.
        width: of the states.
    """

    def __init__(self, like: torch.Tensor, width: int) -> None:
        self._like = like
        self._width = width
        self._tables: dict[tuple[str, int], torch.Tensor] = {}

    def rows(self, name: str, count: int) -> torch.Tensor:
        """`(count, width)` of any content; the same memory for the same name, in one thread."""
        key = (name, get_ident())
        table = self._tables.get(key)
        if table is None or len(table) < count:
            table = self._tables[key] = self._like.new_empty(count, self._width)
        return table[:count]


class _Layer(NamedTuple):
    """What one function of edges sees of the inputs, or of their gradients."""

    source: Any
    target: Any
    weight: Any


class _Views(NamedTuple):
    """What a part sees of the inputs, or of their gradients: then any may be None."""

    state: Any
    values: Any
    encoder: list[Any]
    layers: list[_Layer]
    emitted: list[Any]


@dataclass(frozen=True)
class FusedPass:
    """One pass over one job; `streamed` and `streamed_gradients` are those of `JobPass`.

    The inputs are, in this order: the table of hidden states if it is at hand, else the values (none if structural) and the encoder's tensors;
    for each step and each message the source terms, the target terms and a weight; weight and bias of what is emitted. The outputs are, as far
    as wanted: sums of messages at targets, at sources, the total of the hidden states, what is emitted, the table of new hidden states.

    Attributes:
        backend: the engine.
        job: the edges.
        width: of the states.
        buffers: what parts are worked on in.
        encoder: values to initial states; None where states are at hand.
        encoder_tensors: how many it has.
        steps: how many edge updates to run first.
        messages: the ends at which messages are summed.
        total: whether to sum the states of each graph.
        emit: whether to return a linear function of them.
        keeps: whether to return them.
        kinds: of the inputs, see `Cut.of`.
        shapes: of each output but the table.
    """

    backend: Backend
    job: Job
    width: int
    buffers: Buffers
    encoder: EncodesInto | None
    encoder_tensors: int
    steps: int
    messages: tuple[End, ...]
    total: bool
    emit: bool
    keeps: bool
    kinds: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def streamed(self, inputs: Tensors) -> list[torch.Tensor]:
        """The outputs, part by part."""
        outputs = [inputs[-1].new_zeros(shape) for shape in self.shapes]
        buffers = self.buffers
        kept = inputs[-1].new_empty(num_states(self.job, fold=False), self.width) if self.keeps else None
        for cut in cuts(self.job, fold=False):
            views, rest = self._views(cut, inputs), iter(outputs)
            state = self._states(cut, views, buffers, kept)[-1]
            for end, layer in zip(self.messages, views.layers[self.steps :], strict=True):
                hidden = self._hidden(cut, layer, state, buffers.rows("message", len(state)))
                _at(cut, end, next(rest)).add_(self.backend.to_nodes(cut.block, self._blocks(cut, hidden), end))
            if self.total:
                self._add_total(cut, self._blocks(cut, state), next(rest))
            if self.emit:
                weight, bias = views.emitted
                next(rest)[cut.networks, cut.edges] = torch.addmm(bias, state, weight.t()).view(cut.count, -1, len(weight))
        return outputs if kept is None else [*outputs, kept]

    def streamed_gradients(self, inputs: Tensors, needed: Sequence[bool], gradients: MaybeTensors) -> list[torch.Tensor | None]:
        """Gradients of the inputs that need one, part by part, from those of the outputs (None: zero)."""
        collected = [_begun(kind, tensor) if need else None for kind, tensor, need in zip(self.kinds, inputs, needed, strict=True)]
        buffers = self.buffers
        for cut in cuts(self.job, fold=False):
            views, wanted = self._views(cut, inputs), self._views(cut, collected)
            states = self._states(cut, views, buffers)
            # The gradient of the states that a part begins from is made where it is wanted.
            scratch = buffers.rows("gradient", len(states[0]))
            last = scratch if wanted.state is None else wanted.state.view(scratch.shape)
            gradient = self._of_last_state(cut, states[-1], views, wanted, gradients, buffers, last if self.steps == 0 else scratch)
            if gradient is None:
                if wanted.state is not None:
                    wanted.state.zero_()
                continue
            for number in reversed(range(self.steps)):
                # The state has been read for the last time, so its gradient may take its place.
                blocks = self._blocks(cut, states[number + 1])
                torch.ops.aten.threshold_backward.grad_input(gradient, blocks, 0, grad_input=blocks)
                self._collect(cut, states[number + 1], states[number], wanted.layers[number])
                product = torch.mm(states[number + 1], views.layers[number].weight, out=last if number == 0 else scratch)
                gradient = self._blocks(cut, product)
            if self.encoder is None:
                if wanted.state is not None and gradient.data_ptr() != wanted.state.data_ptr():
                    wanted.state.copy_(gradient)
                continue
            rows, raw = gradient.reshape(states[0].shape), cut.raw(views.values, views.encoder[0])
            self.encoder.add_gradients(cut, raw, views.encoder, rows, wanted.values, wanted.encoder, states[0])
        return collected

    def _views(self, cut: Cut, tensors: MaybeTensors) -> _Views:
        seen = [None if tensor is None else cut.of(kind, tensor) for kind, tensor in zip(self.kinds, tensors, strict=True)]
        rest: Iterator[Any] = iter(seen)
        state = next(rest) if self.encoder is None else None
        values = next(rest) if self.kinds[0] == "values" else None
        encoder = [next(rest) for _ in range(self.encoder_tensors)]
        layers = [_Layer(next(rest), next(rest), next(rest)) for _ in range(self.steps + len(self.messages))]
        return _Views(state, values, encoder, layers, list(rest))

    def _blocks(self, cut: Cut, rows: torch.Tensor) -> torch.Tensor:
        return rows.view(cut.shape(self.width))

    def _states(self, cut: Cut, views: _Views, buffers: Buffers, kept: torch.Tensor | None = None) -> list[torch.Tensor]:
        """The states before and after each step, `(edges, width)`; the last lies in the table, if there is one."""
        count = cut.rows.stop - cut.rows.start
        if self.encoder is None:
            states = [views.state.view(count, self.width)]
        else:
            states = [buffers.rows("state 0", count)]
            self.encoder.encode_into(cut, cut.raw(views.values, views.encoder[0]), views.encoder, states[0])
        for number, layer in enumerate(views.layers[: self.steps], start=1):
            out = buffers.rows(f"state {number}", count) if kept is None or number < self.steps else kept[cut.rows]
            states.append(self._hidden(cut, layer, states[-1], out))
        return states

    def _hidden(self, cut: Cut, layer: _Layer, state: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """One function of edges, written to `out`."""
        product = self._blocks(cut, torch.mm(state, layer.weight.t(), out=out))
        found = self.backend.combine(cut.block, layer.source, layer.target, product, overwrite=True)
        # Engines may, but need not, add in place.
        return (out if found.data_ptr() == out.data_ptr() else out.copy_(found.view(out.shape))).relu_()

    def _add_total(self, cut: Cut, state: torch.Tensor, output: torch.Tensor) -> None:
        if self.job.packed:
            # Edges of several graphs meet in a packed job; their targets tell them apart.
            _at(cut, "target", output).add_(self.backend.to_nodes(cut.block, state))
        else:
            output[cut.networks].add_(self.backend.to_graph(cut.block, state))

    def _of_last_state(
        self, cut: Cut, state: torch.Tensor, views: _Views, wanted: _Views, gradients: MaybeTensors, buffers: Buffers, out: torch.Tensor
    ) -> torch.Tensor | None:
        """The gradient of the last states of a part, `(networks, groups, m, k, positions, width)`: in `out`, or an expanded view; None if zero."""
        rest = iter(gradients)
        found = _Sum(cut.shape(self.width), out)
        for number, end in enumerate(self.messages, start=self.steps):
            of_sums = next(rest)
            if of_sums is None:
                continue
            hidden = self._hidden(cut, views.layers[number], state, buffers.rows("message", len(state)))
            seen = _at(cut, end, of_sums)
            at_source, at_target = (seen, None) if end == "source" else (None, seen)
            # The derivative of relu is the sign of its result.
            signs = self._blocks(cut, hidden.sign_())
            spread = self.backend.combine(cut.block, at_source, at_target, signs, "mul", overwrite=True)
            of_hidden = spread.reshape(state.shape)
            self._collect(cut, of_hidden, state, wanted.layers[number])
            found.add_product(of_hidden, views.layers[number].weight)
        if self.total and (of_total := next(rest)) is not None:
            if self.job.packed:
                found.add(self.backend.combine(cut.block, target=_at(cut, "target", of_total)))
            else:
                found.add(of_total[cut.networks, None, None, None, None].expand(cut.shape(self.width)))
        if self.emit and (of_emitted := next(rest)) is not None:
            given_rows = of_emitted[cut.networks, cut.edges].reshape(len(state), -1)
            of_weight, of_bias = wanted.emitted
            if of_weight is not None:
                of_weight.addmm_(given_rows.t(), state)
            if of_bias is not None:
                of_bias.add_(given_rows.sum(0))
            found.add_product(given_rows, views.emitted[0])
        if self.keeps and (of_states := next(rest)) is not None:
            found.add(cut.of("state", of_states))
        return found.result

    def _collect(self, cut: Cut, of_hidden: torch.Tensor, state: torch.Tensor, wanted: _Layer) -> None:
        """Add the gradients of a function's inputs, given that of its sum of terms."""
        if wanted.weight is not None:
            wanted.weight.addmm_(of_hidden.t(), state)
        if wanted.source is not None:
            wanted.source.add_(self.backend.to_nodes(cut.block, self._blocks(cut, of_hidden), "source"))
        if wanted.target is not None:
            wanted.target.add_(self.backend.to_nodes(cut.block, self._blocks(cut, of_hidden), "target"))


class _Sum:
    """A gradient that is added up. A single term is handed through, so that expanded ones need no memory."""

    def __init__(self, shape: tuple[int, ...], rows: torch.Tensor) -> None:
        self._shape = shape
        self._rows = rows
        self._owned = False
        self.result: torch.Tensor | None = None

    def add(self, term: torch.Tensor) -> None:
        """Add a term of full shape."""
        if self.result is None:
            self.result = term
            return
        self._own()
        self.result.add_(term)

    def add_product(self, left: torch.Tensor, right: torch.Tensor) -> None:
        """Add `left @ right`, rows of edges."""
        if self.result is None:
            torch.mm(left, right, out=self._rows)
            self.result, self._owned = self._rows.view(self._shape), True
            return
        self._own()
        self._rows.addmm_(left, right)

    def _own(self) -> None:
        if not self._owned and self.result is not None:
            self.result = self._rows.view(self._shape).copy_(self.result)
            self._owned = True


def _begun(kind: str, tensor: torch.Tensor) -> torch.Tensor:
    """Where a gradient is collected. Every edge state belongs to one part, which writes it; all else is added up."""
    return torch.empty_like(tensor) if kind == "state" else torch.zeros_like(tensor)


def _at(cut: Cut, end: End, sums: torch.Tensor) -> torch.Tensor:
    """What a part sees of sums over edges at nodes."""
    return cut.of("targets" if end == "target" else "sources", sums)
