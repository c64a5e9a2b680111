"""What a metanet returns: a prediction per graph, per node or per edge."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from paramgraph.metanets.gmn_layer import State, node_sums, per_count

Prediction = torch.Tensor | list[dict[str, torch.Tensor]]


class GraphHead(nn.Module):
    """Invariant: an MLP of the mean edge state, the mean node state and, where there is one, the global state.

    The published head takes the mean over edges only; node means let it see graphs without edges and the last layer's messages.
    """

    def __init__(self, width: int, out: int, use_global: bool) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear((3 if use_global else 2) * width, width), nn.ReLU(), nn.Linear(width, out))

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
        predictions: torch.Tensor = self.mlp(torch.cat(read, dim=-1))
        return predictions[state.edges.batch.order]


class NodeHead(nn.Module):
    """Equivariant: a linear function of the last node states."""

    def __init__(self, width: int, out: int, use_global: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out)

    def forward(self, state: State) -> list[dict[str, torch.Tensor]]:
        """Per graph, from node set names to `(size, out)`."""
        runs = iter(self.linear(state.nodes).split(state.layout.run_rows))
        predictions: list[dict[str, torch.Tensor]] = []
        for structure, batch in state.layout.groups:
            members: list[dict[str, torch.Tensor]] = [{} for _ in range(batch)]
            for nodes in structure.nodes:
                rows = next(runs)
                for member, part in zip(members, rows.reshape(batch, nodes.size, rows.shape[-1]), strict=True):
                    member[nodes.name] = part
            predictions += members
        return [predictions[number] for number in state.edges.batch.order]


class EdgeHead(nn.Module):
    """Equivariant: a linear function of the last edge states, per parameter element."""

    def __init__(self, width: int, out: int, use_global: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out)

    def forward(self, state: State) -> list[dict[str, torch.Tensor]]:
        """Per graph, from names of edge sets with a parameter to `(*edge_set.shape, out)`."""
        emitted = state.edges.reduce(emit=self.linear).emitted
        predictions: list[dict[str, torch.Tensor]] = [{} for _ in range(state.layout.num_graphs)]
        for job, rows in zip(state.layout.jobs, emitted, strict=True):
            for number, part in enumerate(job.parts):
                if part.edges.parameter is None:
                    continue
                if rows is None:  # an edge set without edges
                    values = state.nodes.new_zeros(0, self.linear.out_features)
                else:
                    values = rows[0, part.start : part.stop] if job.packed else rows[number]
                predictions[part.graph][part.edges.name] = values.reshape(*part.edges.shape, self.linear.out_features)
        ordered = [predictions[number] for number in state.edges.batch.order]
        # Jobs come packed ones last; users expect the graph's own order.
        return [
            {name: found[name] for name in graph.edge_sets if name in found}
            for found, graph in zip(ordered, (state.edges.batch.graphs[n] for n in state.edges.batch.order), strict=True)
        ]


HEADS: dict[str, Callable[[int, int, bool], nn.Module]] = {"graph": GraphHead, "node": NodeHead, "edge": EdgeHead}
