"""A pass over functions of edges whose derivatives are written out: what `job_pass` does with autograd in every tile, in a few buffers.

Unlike `fused_pass`, which is for perceptrons alone, it works on edge states as they are, so that its tables are those of `JobPass`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from paramgraph.backends.protocol import End
from paramgraph.metanets.cuts import Cut, cuts, num_states
from paramgraph.metanets.fused_pass import Buffers, EncodesInto
from paramgraph.metanets.job_pass import JobPass, Tensors
from paramgraph.metanets.written import HasWritten, Layer, Part, Results, Wanted, Written


class _Views(NamedTuple):
    """What a part sees of the inputs, or of their gradients: then any may be None."""

    state: Any
    values: Any
    encoder: list[Any]
    layers: list[tuple[Any, Any, list[Any]]]


@dataclass(frozen=True)
class WrittenPass(JobPass):
    """One pass over one job, without totals and without what is returned per edge; inputs and outputs are those of `JobPass`.

    Attributes:
        width: of all states.
        buffers: what parts are worked on in.
    """

    width: int
    buffers: Buffers

    def streamed(self, inputs: Tensors) -> list[torch.Tensor]:
        """The outputs, part by part."""
        outputs = [inputs[-1].new_zeros(shape) for shape in self.shapes]
        kept = inputs[-1].new_empty(num_states(self.job, self.fold), self.width) if self.keeps else None
        updates, messages = self._updates(), self._messages()
        for cut in cuts(self.job, self.fold):
            part, views = self._part(cut), self._views(cut, inputs)
            states, _ = self._states(part, views, updates, kept)
            for (end, function), layer, output in zip(messages, views.layers[len(updates) :], outputs, strict=True):
                rows = part.rows("given")
                function.compute(part, Layer(*layer), states[-1], rows)
                part.collect(rows, end, _at(cut, end, output))
        return outputs if kept is None else [*outputs, kept]

    def streamed_gradients(self, inputs: Tensors, needed: Sequence[bool], gradients: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """Gradients of the inputs that need one, part by part, from those of the outputs (None: zero)."""
        collected = [_begun(kind, tensor) if need else None for kind, tensor, need in zip(self.kinds, inputs, needed, strict=True)]
        updates, messages = self._updates(), self._messages()
        of_states = gradients[-1] if self.keeps else None
        for cut in cuts(self.job, self.fold):
            part, views, wanted = self._part(cut), self._views(cut, inputs), self._views(cut, collected)
            # The gradient of the states is made where that of the states at hand is wanted.
            gradient = part.rows("gradient") if wanted.state is None else wanted.state.view(-1, self.width)
            if of_states is None:
                gradient.zero_()
            else:
                gradient.copy_(of_states[cut.rows])
            if all(given is None for given in gradients):
                continue
            states, results = self._states(part, views, updates)
            layers = list(zip(views.layers, wanted.layers, strict=True))
            for (end, function), (layer, of_layer), of_sums in zip(messages, layers[len(updates) :], gradients[: len(messages)], strict=True):
                if of_sums is not None:
                    seen = _at(cut, end, of_sums)
                    given = part.spread("given", *((seen, None) if end == "source" else (None, seen)))
                    function.gradients(part, Layer(*layer), Wanted(*of_layer), states[-1], given, gradient)
            for number in reversed(range(len(updates))):
                layer, of_layer = layers[number]
                updates[number].gradients(part, Layer(*layer), Wanted(*of_layer), states[number], gradient, gradient, results)
                results = None  # those of the updates before have been overwritten
            if self.kinds[0] != "state":
                raw = cut.raw(views.values, views.encoder[0])
                self._encoder.add_gradients(cut, raw, views.encoder, gradient, wanted.values, wanted.encoder, part.rows("given"))
        return collected

    @property
    def _encoder(self) -> EncodesInto:
        assert isinstance(self.encoder, EncodesInto)
        return self.encoder

    def _updates(self) -> list[Written]:
        return [_written(step).written(self.job, None) for step in self.steps]

    def _messages(self) -> list[tuple[End, Written]]:
        found: list[tuple[End, Written]] = []
        if self.forward is not None:
            found.append(("target", _written(self.forward).written(self.job, "target")))
        if self.backward is not None:
            found.append(("source", _written(self.backward).written(self.job, "source")))
        return found

    def _part(self, cut: Cut) -> Part:
        return Part(self.backend, cut, self.width, self.buffers)

    def _views(self, cut: Cut, tensors: Sequence[torch.Tensor | None]) -> _Views:
        rest: Iterator[Any] = iter([None if t is None else cut.of(kind, t) for kind, t in zip(self.kinds, tensors, strict=True)])
        counts = iter(self.counts)
        at_hand = self.kinds[0] == "state"
        state = next(rest) if at_hand else None
        values = next(rest) if self.kinds[0] == "values" else None
        encoder = [] if at_hand else [next(rest) for _ in range(next(counts))]
        return _Views(state, values, encoder, [(next(rest), next(rest), [next(rest) for _ in range(count)]) for count in counts])

    def _states(
        self, part: Part, views: _Views, updates: Sequence[Written], kept: torch.Tensor | None = None
    ) -> tuple[list[torch.Tensor], Results | None]:
        """The states before and after each update, `(edges, width)`, and results of the last; its states lie in the table, if there is one."""
        if self.kinds[0] == "state":
            states = [views.state.view(-1, self.width)]
        else:
            states = [part.rows("state 0")]
            self._encoder.encode_into(part.cut, part.cut.raw(views.values, views.encoder[0]), views.encoder, states[0])
        results: Results | None = None
        for number, (update, layer) in enumerate(zip(updates, views.layers, strict=False), start=1):
            out = part.rows(f"state {number}") if kept is None or number < len(updates) else kept[part.cut.rows]
            results = update.compute(part, Layer(*layer), states[-1], out)
            states.append(out)
        return states, results


def _written(function: object) -> HasWritten:
    assert isinstance(function, HasWritten)
    return function


def _begun(kind: str, tensor: torch.Tensor) -> torch.Tensor:
    """Where a gradient is collected. Every edge state belongs to one part, which writes it; all else is added up."""
    return torch.empty_like(tensor) if kind == "state" else torch.zeros_like(tensor)


def _at(cut: Cut, end: End, sums: torch.Tensor) -> torch.Tensor:
    """What a part sees of sums over edges at nodes."""
    return cut.of("targets" if end == "target" else "sources", sums)
