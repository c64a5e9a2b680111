"""ScaleGMN's functions of edges with their derivatives written out: those of `scale_layers`, in the memory of one part (see `written`).

The names of buffers are local: only `given` and the states outlive a call.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from paramgraph.backends.protocol import End
from paramgraph.metanets.fingerprints import Domain
from paramgraph.metanets.scale_kernels import Lengths, read_gradient, read_into, reverse_gradient, reverse_into
from paramgraph.metanets.written import Layer, Part, Results, Wanted, add_product, add_sum


@dataclass(frozen=True)
class GatedUpdate:
    """`e + α (W e) ⊙ φ(source, target)`.

    Attributes:
        strength: α.
    """

    strength: float

    def compute(self, part: Part, layer: Layer, state: torch.Tensor, out: torch.Tensor) -> Results:
        """See `written.Written`."""
        linear, gate, bias, *_ = layer.tensors
        before = part.spread("update before", layer.source, layer.target)
        hidden = torch.ops.aten.silu.out(before, out=part.rows("update hidden"))
        gates = torch.addmm(bias, hidden, gate.t(), out=part.rows("update gates"))
        along = torch.mm(state, linear.t(), out=part.rows("update along"))
        torch.addcmul(state, along, gates, value=self.strength, out=out)
        return before, hidden, gates, along

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
        """See `written.Written`."""
        linear, gate, *_ = layer.tensors
        of_linear, of_gate, of_bias, *_ = wanted.tensors
        before, hidden, gates, along = results or self.compute(part, layer, state, part.rows("state again"))
        of_along, of_gates = gates.mul_(given), along.mul_(given)
        add_product(of_gate, of_gates, hidden, self.strength)
        add_sum(of_bias, of_gates, self.strength)
        add_product(of_linear, of_along, state, self.strength)
        _through_silu(part, before, torch.mm(of_gates, gate, out=hidden), wanted, self.strength)
        of_state.addmm_(of_along, linear, alpha=self.strength)


@dataclass(frozen=True)
class PlainUpdate:
    """`e + α φ(e, source, target)`.

    Attributes:
        strength: α.
    """

    strength: float

    def compute(self, part: Part, layer: Layer, state: torch.Tensor, out: torch.Tensor) -> Results:
        """See `written.Written`."""
        *_, inner, last, bias = layer.tensors
        before = part.combine_into(torch.mm(state, inner.t(), out=part.rows("update before")), layer.source, layer.target)
        hidden = torch.ops.aten.silu.out(before, out=part.rows("update hidden"))
        torch.addmm(state, hidden, last.t(), alpha=self.strength, out=out).add_(bias, alpha=self.strength)
        return before, hidden

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
        """See `written.Written`."""
        *_, inner, last, _ = layer.tensors
        *_, of_inner, of_last, of_bias = wanted.tensors
        before, hidden = results or self.compute(part, layer, state, part.rows("state again"))
        add_product(of_last, given, hidden, self.strength)
        add_sum(of_bias, given, self.strength)
        of_before = _through_silu(part, before, torch.mm(given, last, out=hidden), wanted, self.strength)
        add_product(of_inner, of_before, state, self.strength)
        of_state.addmm_(of_before, inner, alpha=self.strength)


@dataclass(frozen=True)
class CarriedMessage:
    """`r ⊙ φ(inv r, receiver)`, r = sender ⊙ (Γ e).

    Attributes:
        reverses: whether e is replaced by `e/‖e‖²`.
        domain: of the receivers.
        end: at which they are.
    """

    reverses: bool
    domain: Domain
    end: End

    def compute(self, part: Part, layer: Layer, state: torch.Tensor, out: torch.Tensor) -> Results:
        """See `written.Written`."""
        weight, inner, gate, bias = layer.tensors
        edge, _ = self._edge(part, state)
        carried = part.combine_into(torch.mm(edge, weight.t(), out=part.rows("carried")), *self._sender(layer), op="mul")
        read, _ = read_into(carried, self.domain, out)
        before = part.combine_into(torch.mm(read, inner.t(), out=part.rows("before")), *self._receiver(layer))
        torch.addmm(bias, F.silu(before, inplace=True), gate.t(), out=out).mul_(carried)
        return ()

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
        """See `written.Written`."""
        weight, inner, gate, bias = layer.tensors
        of_weight, of_inner, of_gate, of_bias = wanted.tensors
        sender: End = "source" if self.end == "target" else "target"
        edge, lengths = self._edge(part, state)
        along = torch.mm(edge, weight.t(), out=part.rows("along"))
        carried = part.combine_into(part.rows("carried").copy_(along), *self._sender(layer), op="mul")
        read, factor = read_into(carried, self.domain, part.rows("read"))
        before = part.combine_into(torch.mm(read, inner.t(), out=part.rows("before")), *self._receiver(layer))
        hidden = torch.ops.aten.silu.out(before, out=part.rows("hidden"))
        of_carried = torch.addmm(bias, hidden, gate.t(), out=part.rows("gates")).mul_(given)
        of_gates = given.mul_(carried)
        add_product(of_gate, of_gates, hidden)
        add_sum(of_bias, of_gates)
        of_before = _of_silu(before, torch.mm(of_gates, gate, out=hidden))
        part.collect(of_before, self.end, wanted.source if self.end == "source" else wanted.target)
        add_product(of_inner, of_before, read)
        of_read = torch.mm(of_before, inner, out=before)
        read_gradient(carried, self.domain, read, factor, of_read, given)
        of_carried.add_(of_read)
        part.collect(along.mul_(of_carried), sender, wanted.source if sender == "source" else wanted.target)
        of_along = part.combine_into(of_carried, *self._sender(layer), op="mul")
        add_product(of_weight, of_along, edge)
        if lengths is None:
            of_state.addmm_(of_along, weight)
            return
        of_edge = torch.mm(of_along, weight, out=along)
        reverse_gradient(state, lengths, of_edge, before, hidden)
        of_state.add_(of_edge)

    def _edge(self, part: Part, state: torch.Tensor) -> tuple[torch.Tensor, Lengths | None]:
        if not self.reverses:
            return state, None
        out = part.rows("reversed")
        return out, reverse_into(state, out)

    def _sender(self, layer: Layer) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The terms of the senders, as source and target."""
        return (layer.source, None) if self.end == "target" else (None, layer.target)

    def _receiver(self, layer: Layer) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        return (None, layer.target) if self.end == "target" else (layer.source, None)


@dataclass(frozen=True)
class ReadMessage:
    """`silu(Γ inv e + source + target)`.

    Attributes:
        domain: of the edges.
    """

    domain: Domain

    def compute(self, part: Part, layer: Layer, state: torch.Tensor, out: torch.Tensor) -> Results:
        """See `written.Written`."""
        read, _ = read_into(state, self.domain, part.rows("read"))
        F.silu(part.combine_into(torch.mm(read, layer.tensors[0].t(), out=out), layer.source, layer.target), inplace=True)
        return ()

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
        """See `written.Written`."""
        (weight,) = layer.tensors
        read, factor = read_into(state, self.domain, part.rows("read"))
        before = part.combine_into(torch.mm(read, weight.t(), out=part.rows("before")), layer.source, layer.target)
        of_before = _through_silu(part, before, given, wanted)
        add_product(wanted.tensors[0], of_before, read)
        if self.domain.trivial:
            of_state.addmm_(of_before, weight)
            return
        of_read = torch.mm(of_before, weight, out=before)
        read_gradient(state, self.domain, read, factor, of_read, part.rows("hidden"))
        of_state.add_(of_read)


def _through_silu(part: Part, before: torch.Tensor, given: torch.Tensor, wanted: Wanted, factor: float = 1.0) -> torch.Tensor:
    """The gradient of a sum of terms under the activation, in place of that of its result; it is added to both ends, times a factor."""
    of_before = _of_silu(before, given)
    part.collect(of_before, "source", wanted.source, factor)
    part.collect(of_before, "target", wanted.target, factor)
    return of_before


def _of_silu(before: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch.ops.aten.silu_backward.grad_input(given, before, grad_input=given)
    return found
