"""What ScaleGMN learns at the nodes: how rows with different domains are read through invariants, and updated.

A mask says of each row whether something multiplies it; None stands for a mask that is False throughout, of which nothing needs to be computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from paramgraph.metanets.layout import Layout
from paramgraph.metanets.rewiring import ScaledNodeSet
from paramgraph.metanets.scale_layers import direction, length, unit_linear

# `(rows, 1)`, bool.
Mask = torch.Tensor | None


def domains_of_rows(layout: Layout) -> tuple[Mask, Mask]:
    """Whether magnitudes and whether signs multiply each row of a layout."""
    sets = [nodes for structure, _ in layout.groups for nodes in structure.nodes]
    domains = [nodes.domain for nodes in sets if isinstance(nodes, ScaledNodeSet)]
    each = [domain.magnitude for domain in domains], [domain.sign for domain in domains]
    magnitude, sign = (
        torch.tensor(flags, dtype=torch.bool, device=layout.device)[layout.nodes.set_of_row, None] if any(flags) else None for flags in each
    )
    return magnitude, sign


def at_rest(x: torch.Tensor, magnitude: Mask, sign: Mask) -> torch.Tensor:
    """Rows that nothing multiplies; zero where something does."""
    if magnitude is None or sign is None:
        moved = sign if magnitude is None else magnitude
        return x if moved is None else torch.where(moved, 0.0, x)
    return torch.where(magnitude | sign, 0.0, x)


class Invariant(nn.Module):
    """An invariant function of vectors whose rows have different domains: `ρ(x) + ρ(−x)`, `ρ(x/‖x‖)`, both, or `ρ(x)`.

    Args:
        width: length of the vectors.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, magnitude: Mask, sign: Mask) -> torch.Tensor:
        """`(rows, width)` to the same; the masks say what multiplies each row."""
        if magnitude is not None:
            x = torch.where(magnitude, direction(x), x)
        linear, bias = F.linear(x, self.linear.weight), self.linear.bias
        plus = F.silu(self.norm(linear + bias))
        if sign is None:
            return plus
        return torch.where(sign, 0.5 * (plus + F.silu(self.norm(bias - linear))), plus)


class ScaledNodeUpdate(nn.Module):
    """`x + α (W [x, m]) ⊙ φ(inv x, inv m)`, and invariant states beside it. Rows that nothing multiplies get `φ` added too.

    Args:
        width: length of all states.
        directions: number of messages: along edges, and against them.
        strength: α.
        dropout: of the hidden layer.
        last: whether nothing reads the invariant states that come out.
    """

    def __init__(self, width: int, directions: int, strength: float, dropout: float = 0.0, last: bool = False) -> None:
        super().__init__()
        self.strength = strength
        self.linear = unit_linear((1 + directions) * width, width)
        self.read = nn.ModuleList(Invariant(width) for _ in range(directions))
        self.first = nn.Linear((1 + 2 * directions) * width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.gate, self.shift = nn.Linear(width, width), nn.Linear(width, width)
        self.inner = None if last else nn.Linear(width, width)
        nn.init.ones_(self.gate.bias)

    def forward(
        self,
        states: torch.Tensor,
        inner: torch.Tensor,
        invariants: torch.Tensor,
        messages: Sequence[torch.Tensor],
        read: Sequence[torch.Tensor],
        magnitude: Mask,
        sign: Mask,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """New states and new inner states.

        Args:
            states: `(rows, width)`, equivariant.
            inner: `(rows, width)`, invariant.
            invariants: of both, `(rows, width)`.
            messages: equivariant, `(rows, width)` each.
            read: invariant ones, as many.
            magnitude: whether magnitudes multiply a row.
            sign: whether signs do.
        """
        messages = bounded(states, messages, magnitude)
        seen = [invariants, *(f(m, magnitude, sign) for f, m in zip(self.read, messages, strict=True)), *read]
        hidden = self.dropout(F.silu(self.norm(self.first(torch.cat(seen, dim=-1)))))
        update = self.linear(torch.cat([states, *messages], dim=-1)) * self.gate(hidden)
        update = update + at_rest(self.shift(hidden), magnitude, sign)
        return states + self.strength * update, inner if self.inner is None else inner + self.strength * self.inner(hidden)


def bounded(states: torch.Tensor, messages: Sequence[torch.Tensor], magnitude: Mask) -> list[torch.Tensor]:
    """Messages of a size that training bears. Without magnitudes, `m/√(1 + mean m²)`.

    Under magnitudes only ratios of lengths are invariant. Messages against the edges grow with the inverse of the smallest weight; they are
    made no longer than a node's state and what came along the edges.

    Args:
        states: of the receivers, `(rows, width)`.
        messages: along the edges, and against them if those are there too; `(rows, width)` each.
        magnitude: whether magnitudes multiply a row.
    """
    result = []
    for number, message in enumerate(messages):
        squashed = direction(message) * torch.rsqrt(1 + message.shape[-1] / length(message).clamp(min=1e-6).square())
        if magnitude is None:
            result.append(squashed)
            continue
        kept = message
        if number:
            allowed, found = length(states) + length(messages[0]), length(message)
            long = (found > allowed) & (allowed > 0)
            # By way of the direction, whose derivative squares no length: that of a message over its length leaves the range of the dtype.
            kept = torch.where(long, direction(message) * (allowed / message.shape[-1] ** 0.5), message)
        result.append(torch.where(magnitude, kept, squashed))
    return result
