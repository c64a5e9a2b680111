"""The functions that GMN learns: of edges, nodes and graphs. Lim et al. 2023 (arXiv:2312.04501), section 3, "graph metanetworks"."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from paramgraph.backends.protocol import Backend, Block

Ends = tuple[torch.Tensor, torch.Tensor]


class EdgeFunction(nn.Module):
    """`MLP(v_i, v_j, e_ij, u)`, of two linear layers.

    The first is linear on the concatenation, so it is a sum of projections; those of v_i, v_j and u are computed at the nodes, and the
    backend adds them at the edges. Whether this is an edge update or a message is up to the caller, who may stop before the second
    layer: it commutes with sums.

    Args:
        width: length of all states.
        use_global: whether u is an input.
        residual: normalise node and edge states first, add the result to the edge state, and begin as the identity.
    """

    def __init__(self, width: int, use_global: bool, residual: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear((4 if use_global else 3) * width, width)
        self.last = nn.Linear(width, width)
        self.residual = residual
        self.node_norm = nn.LayerNorm(width) if residual else nn.Identity()
        self.edge_norm = nn.LayerNorm(width) if residual else nn.Identity()
        self.width = width

    def at_nodes(self, nodes: torch.Tensor, globals_: torch.Tensor | None, graph_of_row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Terms of the first layer as sources and as targets, `(rows, width)` each; u and the bias are counted with the targets."""
        target_part, source_part, _, *global_part = torch.split(self.first.weight, self.width, dim=1)
        nodes = self.node_norm(nodes)
        target = F.linear(nodes, target_part, self.first.bias)
        if globals_ is not None:
            target = target + F.linear(globals_, global_part[0])[graph_of_row]
        return F.linear(nodes, source_part), target

    def edge_tensors(self) -> tuple[torch.Tensor, ...]:
        """The parameters that work on edges. They are handed around openly, so that a pass can be computed again in backward."""
        edge_part = self.first.weight[:, 2 * self.width : 3 * self.width]
        norm = (self.edge_norm.weight, self.edge_norm.bias) if isinstance(self.edge_norm, nn.LayerNorm) else ()
        return (edge_part, self.last.weight, self.last.bias, *norm)

    def hidden(self, tensors: Sequence[torch.Tensor], backend: Backend, block: Block, ends: Ends, edge: torch.Tensor) -> torch.Tensor:
        """What the first layer gives at every edge.

        Args:
            tensors: of `edge_tensors`.
            backend: the engine.
            block: the edges.
            ends: terms of the nodes in the block's windows, `(batch, nodes, width)` for sources and targets.
            edge: `(batch, groups, m, k, positions, width)`, like the result.
        """
        edge_part, _, _, *norm = tensors
        if norm:
            edge = F.layer_norm(edge, (self.width,), norm[0], norm[1])
        return backend.combine(block, *ends, F.linear(edge, edge_part), overwrite=True).relu_()

    def updated(self, tensors: Sequence[torch.Tensor], backend: Backend, block: Block, ends: Ends, edge: torch.Tensor) -> torch.Tensor:
        """New edge states, from the same arguments."""
        # The bias is added in place: torch's fused product first copies it to every row, which takes longer than the product.
        new = F.linear(self.hidden(tensors, backend, block, ends, edge), tensors[1]).add_(tensors[2])
        return new.add_(edge) if self.residual else new


class MessageFunction(EdgeFunction):
    """`Σ_j MLP(v_i, v_j, e_ij, u)` or its mean, split where the sum is."""

    def __init__(self, width: int, use_global: bool, normalise: bool = False) -> None:
        super().__init__(width, use_global, residual=normalise)

    def finish(self, summed: torch.Tensor, degree: torch.Tensor, mean: bool) -> torch.Tensor:
        """The last layer after the sum: `(rows, width)` to `(rows, width)`; zero for nodes without edges."""
        count = degree.to(summed.dtype)[:, None]
        if mean:
            return F.linear(summed / count.clamp(min=1), self.last.weight) + self.last.bias * (count > 0)
        return F.linear(summed, self.last.weight) + self.last.bias * count


class StateUpdate(nn.Module):
    """`MLP(x, …)` of a node's or a graph's state and what was collected for it, of two linear layers.

    Args:
        width: length of all states.
        inputs: number of states that go in, the one to be updated first.
        residual: normalise that state first, add the result to it, and begin as the identity.
    """

    def __init__(self, width: int, inputs: int, residual: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if residual else nn.Identity()
        self.first = nn.Linear(inputs * width, width)
        self.last = nn.Linear(width, width)
        self.residual = residual

    def forward(self, state: torch.Tensor, *collected: torch.Tensor) -> torch.Tensor:
        """`(n, width)` each to `(n, width)`."""
        updated = self.last(F.relu(self.first(torch.cat([self.norm(state), *collected], dim=-1))))
        result: torch.Tensor = state + updated if self.residual else updated
        return result


def begin_as_identity(module: EdgeFunction | StateUpdate) -> None:
    """Set the last layer of a residual function to zero."""
    nn.init.zeros_(module.last.weight)
    nn.init.zeros_(module.last.bias)
