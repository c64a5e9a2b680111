"""The functions that GMN learns: of edges, nodes and graphs. Lim et al. 2023 (arXiv:2312.04501), section 3, "graph metanetworks"."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from paramgraph.backends.protocol import Backend, Block
from paramgraph.metanets.composed import Perceptron
from paramgraph.metanets.job_pass import Ends
from paramgraph.metanets.layout import Job

# Attention logits are kept within ± this bound, so that their exponentials need no maximum over all edges of a node first.
LOGIT_BOUND = 8.0


class EdgeFunction(nn.Module):
    """`MLP(v_i, v_j, e_ij, u)`, of two linear layers.

    The first is linear on the concatenation, so it is a sum of projections; those of v_i, v_j and u are computed at the nodes, and the
    backend adds them at the edges. Whether this is an edge update or a message is up to the caller, who may stop before the second
    layer: it commutes with sums.

    Args:
        width: length of all states.
        use_global: whether u is an input.
        residual: add the result to the edge state, and begin as the identity.
        normalise: layer-normalise node and edge states first.
    """

    def __init__(self, width: int, use_global: bool, residual: bool = False, normalise: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear((4 if use_global else 3) * width, width)
        self.last = nn.Linear(width, width)
        keep_variance(self.first, self.last)
        self.residual = residual
        self.node_norm = nn.LayerNorm(width) if normalise else nn.Identity()
        self.edge_norm = nn.LayerNorm(width) if normalise else nn.Identity()
        self.width = width

    def at_nodes(self, nodes: torch.Tensor, globals_: torch.Tensor | None, graph_of_row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Terms of the first layer as sources and as targets, `(rows, width)` each; u and the bias are counted with the targets."""
        target_part, source_part, _, *global_part = torch.split(self.first.weight, self.width, dim=1)
        nodes = self.node_norm(nodes)
        target = F.linear(nodes, target_part, self.first.bias)
        if globals_ is not None:
            target = target + F.linear(globals_, global_part[0]).index_select(0, graph_of_row)
        return F.linear(nodes, source_part), target

    def edge_tensors(self) -> tuple[torch.Tensor, ...]:
        """See `job_pass.EdgeWise`."""
        edge_part = self.first.weight[:, 2 * self.width : 3 * self.width]
        norm = (self.edge_norm.weight, self.edge_norm.bias) if isinstance(self.edge_norm, nn.LayerNorm) else ()
        return (edge_part, self.last.weight, self.last.bias, *norm)

    def perceptron(self) -> Perceptron | None:
        """See `fused_pass`; None for what is more than a perceptron of the states as they are."""
        if self.residual or isinstance(self.edge_norm, nn.LayerNorm):
            return None
        first, last, bias = self.edge_tensors()
        return Perceptron(first, last, bias)

    def _hidden(self, tensors: Sequence[torch.Tensor], backend: Backend, block: Block, ends: Ends, edge: torch.Tensor) -> torch.Tensor:
        """What the first layer gives at every edge: `(batch, groups, m, k, positions, width)` to the same shape."""
        if isinstance(self.edge_norm, nn.LayerNorm):
            edge = F.layer_norm(edge, (self.width,), tensors[3], tensors[4])
        return backend.combine(block, *ends, F.linear(edge, tensors[0]), overwrite=True).relu_()

    def hidden(
        self, job: Job, tensors: Sequence[torch.Tensor], backend: Backend, block: Block, ends: Ends, edge: torch.Tensor, end: str
    ) -> torch.Tensor:
        """See `job_pass.EdgeWise`: what the first layer gives; the second commutes with sums."""
        return self._hidden(tensors, backend, block, ends, edge)

    def updated(
        self, job: Job, tensors: Sequence[torch.Tensor], backend: Backend, block: Block, ends: Ends, edge: torch.Tensor
    ) -> torch.Tensor:
        """See `job_pass.EdgeWise`."""
        # The bias is added in place: torch's fused product first copies it to every row, which takes longer than the product.
        new = F.linear(self._hidden(tensors, backend, block, ends, edge), tensors[1]).add_(tensors[2])
        return new.add_(edge) if self.residual else new


class MessageFunction(EdgeFunction):
    """`Σ_j a_ij MLP(v_i, v_j, e_ij, u)`, split where the sum is: a_ij is 1, or 1 over the number of edges, or attention.

    Attention: a softmax over all edges that end at a node, per head, of a bounded linear function of the hidden layer. The numerators and the
    denominator are sums over edges like any others, so that attention streams too.

    Args:
        width: length of all states.
        use_global: whether u is an input.
        normalise: layer-normalise node and edge states first.
        heads: of attention; 0 for none.
    """

    def __init__(self, width: int, use_global: bool, normalise: bool = False, heads: int = 0) -> None:
        super().__init__(width, use_global, normalise=normalise)
        self.heads = heads
        self.score = nn.Linear(width, heads, bias=False) if heads else None

    def perceptron(self) -> Perceptron | None:
        """See `EdgeFunction.perceptron`."""
        return None if self.heads else super().perceptron()

    @property
    def message_width(self) -> int:
        """Length of what is summed."""
        return self.width + self.heads

    def edge_tensors(self) -> tuple[torch.Tensor, ...]:
        """See `job_pass.EdgeWise`."""
        tensors = super().edge_tensors()
        return tensors if self.score is None else (*tensors, self.score.weight)

    def hidden(
        self, job: Job, tensors: Sequence[torch.Tensor], backend: Backend, block: Block, ends: Ends, edge: torch.Tensor, end: str
    ) -> torch.Tensor:
        """See `job_pass.EdgeWise`: the hidden layer, or its product with exponentials of logits, followed by those."""
        hidden = self._hidden(tensors, backend, block, ends, edge)
        if not self.heads:
            return hidden
        weights = torch.exp(LOGIT_BOUND * torch.tanh(F.linear(hidden, tensors[-1]) / LOGIT_BOUND))
        weighted = hidden.unflatten(-1, (self.heads, self.width // self.heads)) * weights[..., None]
        return torch.cat([weighted.flatten(-2), weights], dim=-1)

    def finish(self, summed: torch.Tensor, degree: torch.Tensor, mean: bool) -> torch.Tensor:
        """The last layer after the sum: `(rows, message_width)` to `(rows, width)`; zero for nodes without edges."""
        count = degree.to(summed.dtype)[:, None]
        if self.heads:
            numerators, denominators = summed.split([self.width, self.heads], dim=-1)
            denominators = torch.where(count > 0, denominators, 1.0)
            summed = (numerators.unflatten(-1, (self.heads, -1)) / denominators[..., None]).flatten(-2)
            return F.linear(summed, self.last.weight) + self.last.bias * (count > 0)
        if mean:
            return F.linear(summed / count.clamp(min=1), self.last.weight) + self.last.bias * (count > 0)
        return F.linear(summed, self.last.weight) + self.last.bias * count


class StateUpdate(nn.Module):
    """`MLP(x, …)` of a node's or a graph's state and what was collected for it, of two linear layers.

    Args:
        width: length of all states.
        inputs: number of states that go in, the one to be updated first.
        residual: add the result to that state, and begin as the identity.
        norm: `"layer"`: normalise that state first; `"batch"`: normalise the result over the batch, as in the released code; `"none"`.
    """

    def __init__(self, width: int, inputs: int, residual: bool, norm: str = "none") -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm == "layer" else nn.Identity()
        self.first = nn.Linear(inputs * width, width)
        self.last = nn.Linear(width, width)
        keep_variance(self.first, self.last)
        self.batch_norm = nn.BatchNorm1d(width) if norm == "batch" else None
        self.residual = residual

    def forward(self, state: torch.Tensor, *collected: torch.Tensor) -> torch.Tensor:
        """`(n, width)` each to `(n, width)`."""
        updated = self.last(F.relu(self.first(torch.cat([self.norm(state), *collected], dim=-1))))
        if self.batch_norm is not None and not (self.training and updated.shape[0] < 2):
            updated = self.batch_norm(updated)
        result: torch.Tensor = state + updated if self.residual else updated
        return result


def keep_variance(first: nn.Linear, last: nn.Linear) -> None:
    """Begin a perceptron of two layers such that it keeps the size of differences between its inputs (He et al. 2015).

    torch's own initialisation shrinks them by about five, and its biases do not shrink: after three layers nothing of the values would be left
    beside what all networks share.
    """
    for linear, gain in ((first, 2.0), (last, 1.0)):
        nn.init.normal_(linear.weight, std=(gain / linear.in_features) ** 0.5)
        nn.init.zeros_(linear.bias)


def begin_as_identity(module: EdgeFunction | StateUpdate) -> None:
    """Set the last layer of a residual function to zero."""
    nn.init.zeros_(module.last.weight)
    nn.init.zeros_(module.last.bias)
