"""What a metanet returns: a prediction per graph, per node or per edge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F

from paramgraph.backends.tiles import Tile
from paramgraph.metanets.batch import Batch
from paramgraph.metanets.gmn_layer import State, node_sums, per_count
from paramgraph.metanets.job_pass import Emits
from paramgraph.metanets.layout import Job, Layout
from paramgraph.metanets.passes import EdgeStates

Prediction = torch.Tensor | list[dict[str, torch.Tensor]]
# Per group of networks of one structure, from names of sets to predictions with a leading axis for the networks.
Stacked = list[dict[str, torch.Tensor]]


class GraphHead(nn.Module):
    """Invariant: an MLP of the mean edge state, the mean node state and, where there is one, the global state.

    The published head takes the mean over edges only; node means let it see graphs without edges and the last layer's messages.
    """

    def __init__(self, width: int, out: int, use_global: bool, batch_norm: bool = False) -> None:
        super().__init__()
        inputs = (3 if use_global else 2) * width
        self.norm = ReadoutNorm(inputs) if batch_norm else nn.Identity()
        self.mlp = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, out))

    def forward(self, state: State) -> torch.Tensor:
        """`(graphs, out)`, in the order of the graphs as given."""
        edges = state.edge_sums
        if edges is None:  # without layers, nothing has passed over the edges yet
            edges = state.edges.reduce(total=True).total
            assert edges is not None
        layout = state.layout
        read = [per_count(edges, layout.edges_per_graph), per_count(node_sums(state), layout.nodes_per_graph)]
        if state.globals_ is not None:
            read.append(state.globals_)
        predictions: torch.Tensor = self.mlp(self.norm(torch.cat(read, dim=-1)))
        return predictions[state.edges.batch.order]


class ReadoutNorm(nn.BatchNorm1d):
    """Batch normalisation of what is read off graphs. Networks of one architecture share most of it; what tells them apart is a small part,
    which this brings to unit variance. A batch of one graph in training is left as it is."""

    def forward(self, read: torch.Tensor) -> torch.Tensor:
        """`(graphs, width)` to the same."""
        return read if self.training and len(read) < 2 else super().forward(read)


class NodeHead(nn.Module):
    """Equivariant: a linear function of the last node states."""

    def __init__(self, width: int, out: int, use_global: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out)

    def forward(self, state: State) -> list[dict[str, torch.Tensor]]:
        """Per graph, from node set names to `(size, out)`."""
        return per_node(state.layout, self.linear(state.nodes), state.edges.batch.order)


class EdgeHead(nn.Module):
    """Equivariant: a linear function of the last edge states, per parameter element."""

    def __init__(self, width: int, out: int, use_global: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out)

    @property
    def out(self) -> int:
        """Length of each prediction."""
        return self.linear.out_features

    def begin_at_zero(self) -> None:
        """Predict nothing until trained: editors begin as the identity."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def edge_tensors(self) -> tuple[torch.Tensor, ...]:
        """See `job_pass.Emits`."""
        return self.linear.weight, self.linear.bias

    def linear_of_states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See `composed.EmitsLinear`."""
        return self.linear.weight, self.linear.bias

    def emitted(self, job: Job, tile: Tile, tensors: Sequence[torch.Tensor], state: torch.Tensor) -> torch.Tensor:
        """See `job_pass.Emits`."""
        return F.linear(state, *tensors).reshape(state.shape[0], tile.block.num_edges, -1)

    def stacked(self, state: State) -> Stacked:
        """Per group of the batch, from names of edge sets with a parameter to `(networks, *edge_set.shape, out)`."""
        return per_edge(state.edges, self)

    def forward(self, state: State) -> list[dict[str, torch.Tensor]]:
        """Per graph, from names of edge sets with a parameter to `(*edge_set.shape, out)`."""
        return separate(self.stacked(state), state.edges.batch)


def per_node(layout: Layout, rows: torch.Tensor, order: Sequence[int]) -> list[dict[str, torch.Tensor]]:
    """Rows of all nodes of a batch, `(rows, out)`, per graph as given and node set: `(size, out)`."""
    runs = iter(rows.split(layout.run_rows))
    predictions: list[dict[str, torch.Tensor]] = []
    for structure, batch in layout.groups:
        members: list[dict[str, torch.Tensor]] = [{} for _ in range(batch)]
        for nodes in structure.nodes:
            run = next(runs)
            for member, part in zip(members, run.reshape(batch, nodes.size, run.shape[-1]), strict=True):
                member[nodes.name] = part
        predictions += members
    return [predictions[number] for number in order]


class EdgeWiseHead(Emits, Protocol):
    """A head that predicts per edge."""

    @property
    def out(self) -> int:
        """Length of each prediction."""
        ...


def per_edge(edges: EdgeStates, head: EdgeWiseHead) -> Stacked:
    """Run an edge head over the edges; see `EdgeHead.stacked`."""
    out = head.out
    emitted = edges.reduce(emit=(head, out), keeps=False).emitted
    batch, layout = edges.batch, edges.batch.layout
    found: Stacked = [{} for _ in batch.groups]
    number_of = {id(group): number for number, group in enumerate(batch.groups)}
    for job, rows in zip(layout.jobs, emitted, strict=True):
        seen: set[tuple[int, str]] = set()
        for part in job.parts:
            group = batch.group_of(part.graph)
            key = (number_of[id(group)], part.edges.name)
            if part.edges.parameter is None or key in seen:
                continue
            seen.add(key)
            if rows is None:  # an edge set without edges
                values = head.edge_tensors()[0].new_zeros(0)
            else:
                # The networks of a group follow each other in a packed job.
                values = rows[0, part.start : part.start + group.count * part.edges.num_edges] if job.packed else rows
            found[key[0]][part.edges.name] = values.reshape(group.count, *part.edges.shape, out)
    # Jobs come packed ones last; users expect the graph's own order.
    return [{name: one[name] for name in group.graph.edge_sets if name in one} for one, group in zip(found, batch.groups, strict=True)]


def separate(stacked: Stacked, batch: Batch) -> list[dict[str, torch.Tensor]]:
    """Predictions per network, in the order given."""
    members: list[dict[str, torch.Tensor]] = []
    for found, group in zip(stacked, batch.groups, strict=True):
        parts = {name: values.unbind(0) for name, values in found.items()}
        members += [{name: values[number] for name, values in parts.items()} for number in range(group.count)]
    return [members[number] for number in batch.order]


HEADS: dict[str, Callable[[int, int, bool], nn.Module]] = {"graph": GraphHead, "node": NodeHead, "edge": EdgeHead}
