"""The functions that ScaleGMN learns: Kalogeropoulos, Bouritsas & Panagakis 2024 (arXiv:2406.10685), section 5.

A vector of a node or an edge is multiplied as a whole when the parameters are scaled. What is linear in it, without bias, is multiplied
alike; what is made of its direction, or of it up to its sign, stays as it is. Products of the two are all that is used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from paramgraph.backends.protocol import Backend, Block, End
from paramgraph.metanets.fingerprints import Domain
from paramgraph.metanets.job_pass import Ends
from paramgraph.metanets.layout import Job
from paramgraph.metanets.rewiring import EdgeKind
from paramgraph.metanets.scale_derivatives import CarriedMessage, GatedUpdate, PlainUpdate, ReadMessage
from paramgraph.metanets.written import Written


def direction(x: torch.Tensor) -> torch.Tensor:
    """`x/‖x‖·√width` along the last axis, zero where x is: exact for vectors of any length, since nothing is added to the norm."""
    x, _ = _scaled(x)
    norm = x.square().sum(-1, keepdim=True)
    zero = norm == 0
    return x * (torch.rsqrt(torch.where(zero, 1.0, norm)) * x.shape[-1] ** 0.5 * ~zero)


def reversed_(x: torch.Tensor) -> torch.Tensor:
    """`x/‖x‖²·width` along the last axis, zero where x is: it is multiplied by the inverse of what x is."""
    x, largest = _scaled(x)
    norm = x.square().sum(-1, keepdim=True)
    return x / torch.where(norm == 0, 1.0, norm) * (x.shape[-1] / largest)


def length(x: torch.Tensor) -> torch.Tensor:
    """`‖x‖` along the last axis, which stays."""
    x, largest = _scaled(x)
    norm = x.square().sum(-1, keepdim=True)
    zero = norm == 0
    return torch.where(zero, 1.0, norm).sqrt() * largest * ~zero


def _scaled(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors over their largest elements, and those: then no square leaves the range of the dtype. Vectors too short to invert are zero."""
    largest = x.detach().abs().amax(-1, keepdim=True)
    short = largest <= 4 * torch.finfo(x.dtype).tiny
    largest = torch.where(short, 1.0, largest)
    return torch.where(short, 0.0, x) / largest, largest


def unit_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear function without bias that keeps the size of vectors as it begins."""
    linear = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(linear.weight, std=inputs**-0.5)
    return linear


def invariant(x: torch.Tensor, domain: Domain) -> torch.Tensor:
    """A function of vectors that the multipliers of a domain do not change: their direction, up to sign (the canonical form |x|)."""
    if domain.magnitude:
        x = direction(x)
    return x.abs() if domain.sign else x


def reverses(kind: EdgeKind, forward: bool) -> bool:
    """Whether messages of transporting edges, along them or against them, are multiplied by the inverse of what edge states are."""
    return kind.edge.magnitude and forward != (kind.transport == "direct")


class ScaledEdgeUpdate(nn.Module):
    """`e + α (W e) ⊙ φ(inv x_i, inv x_j)`; of edges that nothing multiplies, `e + α φ(e, inv x_i, inv x_j)`.

    Args:
        width: length of all states.
        strength: α.
    """

    def __init__(self, width: int, strength: float) -> None:
        super().__init__()
        self.width = width
        self.strength = strength
        self.at_source, self.at_target = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.linear = unit_linear(width, width)
        self.gate = nn.Linear(width, width)
        self.inner, self.last = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        nn.init.ones_(self.gate.bias)

    def at_nodes(self, invariants: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Terms of the nodes as sources and targets, `(rows, width)` each."""
        return self.at_source(invariants), self.at_target(invariants)

    def edge_tensors(self) -> tuple[torch.Tensor, ...]:
        """See `job_pass.EdgeWise`."""
        return self.linear.weight, self.gate.weight, self.gate.bias, self.inner.weight, self.last.weight, self.last.bias

    def updated(
        self, job: Job, tensors: Sequence[torch.Tensor], backend: Backend, block: Block, ends: Ends, edge: torch.Tensor
    ) -> torch.Tensor:
        """See `job_pass.EdgeWise`."""
        linear, gate, gate_bias, inner, last, last_bias = tensors
        kind = job.kind
        assert isinstance(kind, EdgeKind)
        if kind.edge.trivial or kind.ragged:
            hidden = F.silu(backend.combine(block, *ends, F.linear(edge, inner), overwrite=True))
            return torch.add(edge, F.linear(hidden, last, last_bias), alpha=self.strength)
        gates = F.linear(F.silu(backend.combine(block, *ends)), gate, gate_bias)
        return torch.addcmul(edge, F.linear(edge, linear), gates, value=self.strength)

    def hidden(
        self, job: Job, tensors: Sequence[torch.Tensor], backend: Backend, block: Block, ends: Ends, edge: torch.Tensor, end: str
    ) -> torch.Tensor:
        """An update sends no messages."""
        raise NotImplementedError

    def written(self, job: Job, end: End | None) -> Written:
        """See `written.HasWritten`."""
        kind = job.kind
        assert isinstance(kind, EdgeKind)
        return (PlainUpdate if kind.edge.trivial or kind.ragged else GatedUpdate)(self.strength)


class ScaledMessage(nn.Module):
    """Messages that are multiplied as their receiver is: `r ⊙ φ(inv x_i, inv r)`, r = (Γ₁ x_j) ⊙ (Γ₂ e_ij) (the paper's ReScaleEq).

    Against the direction of an edge, and along one whose value is multiplied by the inverse, e is replaced by `e/‖e‖²`.

    Args:
        width: length of all states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.send, self.receive = unit_linear(width, width), nn.Linear(width, width)
        self.edge = unit_linear(width, width)
        self.inner, self.gate = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        nn.init.ones_(self.gate.bias)
        self.mix = unit_linear(width, width)

    def at_nodes(self, states: torch.Tensor, invariants: torch.Tensor, backward: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Terms of the nodes as sources and targets: what they send is equivariant, what receivers add is invariant."""
        sent, received = self.send(states), self.receive(invariants)
        if backward:
            # Zeros send zeros, whatever the parameters; the derivative leaves the range of the dtype at edges that are nearly zero, over which
            # one is divided.
            sent = torch.where((states == 0).all(-1, keepdim=True), 0.0, sent)
        return (received, sent) if backward else (sent, received)

    def edge_tensors(self) -> tuple[torch.Tensor, ...]:
        """See `job_pass.EdgeWise`."""
        return self.edge.weight, self.inner.weight, self.gate.weight, self.gate.bias

    def hidden(
        self, job: Job, tensors: Sequence[torch.Tensor], backend: Backend, block: Block, ends: Ends, edge: torch.Tensor, end: str
    ) -> torch.Tensor:
        """See `job_pass.EdgeWise`; the paper's last linear function commutes with the sum (`finish`)."""
        weight, inner, gate, gate_bias = tensors
        kind = job.kind
        assert isinstance(kind, EdgeKind)
        forward = end == "target"
        if reverses(kind, forward):
            edge = reversed_(edge)
        source, target = ends
        along = F.linear(edge, weight)
        carried = backend.combine(block, source if forward else None, None if forward else target, along, "mul")
        read = F.linear(invariant(carried, kind.target if forward else kind.source), inner)
        gates = F.silu(backend.combine(block, None if forward else source, target if forward else None, read, overwrite=True))
        return carried * F.linear(gates, gate, gate_bias)

    def updated(
        self, job: Job, tensors: Sequence[torch.Tensor], backend: Backend, block: Block, ends: Ends, edge: torch.Tensor
    ) -> torch.Tensor:
        """Messages update no edges."""
        raise NotImplementedError

    def written(self, job: Job, end: End | None) -> Written:
        """See `written.HasWritten`."""
        kind = job.kind
        assert isinstance(kind, EdgeKind) and end is not None
        forward = end == "target"
        return CarriedMessage(reverses(kind, forward), kind.target if forward else kind.source, end)

    def finish(self, summed: torch.Tensor, degree: torch.Tensor) -> torch.Tensor:
        """After the sum: `(rows, width)` to the same. Sums grow with the root of the number of edges, which is divided out."""
        mixed: torch.Tensor = self.mix(summed / degree.clamp(min=1).to(summed.dtype).sqrt()[:, None])
        return mixed


class InvariantMessage(nn.Module):
    """Messages along edges that do not transport: a function of invariants of both ends and of the edge.

    Args:
        width: length of all states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.at_source, self.at_target = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.edge = nn.Linear(width, width, bias=False)
        self.last = nn.Linear(width, width)

    def at_nodes(self, invariants: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Terms of the nodes as sources and targets, `(rows, width)` each."""
        return self.at_source(invariants), self.at_target(invariants)

    def edge_tensors(self) -> tuple[torch.Tensor, ...]:
        """See `job_pass.EdgeWise`."""
        return (self.edge.weight,)

    def hidden(
        self, job: Job, tensors: Sequence[torch.Tensor], backend: Backend, block: Block, ends: Ends, edge: torch.Tensor, end: str
    ) -> torch.Tensor:
        """See `job_pass.EdgeWise`; the last linear function commutes with the mean (`finish`)."""
        kind = job.kind
        assert isinstance(kind, EdgeKind)
        read = edge if kind.ragged else invariant(edge, kind.edge)
        return F.silu(backend.combine(block, *ends, F.linear(read, tensors[0]), overwrite=True))

    def updated(
        self, job: Job, tensors: Sequence[torch.Tensor], backend: Backend, block: Block, ends: Ends, edge: torch.Tensor
    ) -> torch.Tensor:
        """Messages update no edges."""
        raise NotImplementedError

    def written(self, job: Job, end: End | None) -> Written:
        """See `written.HasWritten`."""
        kind = job.kind
        assert isinstance(kind, EdgeKind)
        return ReadMessage(Domain() if kind.ragged else kind.edge)

    def finish(self, summed: torch.Tensor, degree: torch.Tensor) -> torch.Tensor:
        """After the sum: `(rows, width)` to the same."""
        finished: torch.Tensor = self.last(summed / degree.clamp(min=1).to(summed.dtype)[:, None])
        return finished
