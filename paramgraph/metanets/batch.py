"""From a list of graphs to a checked batch: graphs grouped by structure, and the values of each job."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch

from paramgraph.errors import MetanetError
from paramgraph.graph import EdgeSet, ParamGraph
from paramgraph.metanets.layout import Job, Layout, Limits
from paramgraph.metanets.structure import Structure, StructureCache
from paramgraph.metanets.vocabulary import Vocabulary


class Batch:
    """Graphs with their layout and values.

    Attributes:
        graphs: the graphs, numbered by the layout: those of one structure stand together.
        order: `order[i]` is the number of the i-th graph as given.
        layout: structure in memory.
        values: per job a tensor of `edge_set.shape` for each graph, or one flat tensor if packed, or None if structural. Integers of block
            jobs are converted tile by tile.
    """

    def __init__(self, graphs: Sequence[ParamGraph], order: Sequence[int], layout: Layout, dtype: torch.dtype) -> None:
        self.graphs = graphs
        self.order = list(order)
        self.layout = layout
        self.dtype = dtype
        self.values = [self._read_packed(job) if job.packed else self._read(job) for job in layout.jobs]
        self._check_finite()

    def _read(self, job: Job) -> list[torch.Tensor] | None:
        if job.parts[0].edges.parameter is None:
            return None
        return [self.graphs[part.graph].edge_values(part.edges) for part in job.parts]

    def _read_packed(self, job: Job) -> list[torch.Tensor]:
        zero = torch.zeros(1, dtype=self.dtype, device=self.layout.device)
        pieces = []
        for part in job.parts:
            if part.edges.parameter is None:
                pieces.append(zero.expand(part.edges.num_edges))
            else:
                pieces.append(self.graphs[part.graph].edge_values(part.edges).reshape(-1).to(self.dtype))
        return [torch.cat(pieces)]

    def _check_finite(self) -> None:
        """One pass over the values and one synchronisation: a sum is finite only if all its terms are."""
        sums = [value.detach().sum(dtype=self.dtype) for values in self.values if values is not None for value in values]
        if not sums or bool(torch.isfinite(torch.stack(sums)).all()):
            return
        for graph in self.graphs:
            for edges in graph.edge_sets.values():
                # A sum of huge values can overflow, so what is reported is looked at element by element.
                if edges.parameter is not None and not bool(torch.isfinite(graph.edge_values(edges).detach().to(self.dtype)).all()):
                    raise MetanetError(
                        f"{_where(graph, edges)}: {edges.parameter.name!r} has NaN or infinite values; a metanet cannot read them. "
                        "Replace them first, e.g. `graph.with_values({... torch.nan_to_num(value) ...})`."
                    )


class Planner:
    """Makes batches; keeps structures and the last few layouts.

    Args:
        kept: layouts to keep. Batches from a population of one architecture reuse one layout throughout.
    """

    def __init__(self, kept: int = 8) -> None:
        self._kept = kept
        self._structures = StructureCache()
        self._layouts: OrderedDict[tuple[Any, ...], Layout] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._kept,)  # copies and pickles start empty

    def __call__(
        self, graphs: Sequence[ParamGraph], vocabulary: Vocabulary, limits: Limits, dtype: torch.dtype, device: torch.device
    ) -> Batch:
        """A checked batch of `graphs` for a metanet of `dtype` on `device`."""
        for graph in graphs:
            vocabulary.check(graph)
            check_values(graph, dtype, device)
        members: dict[Structure, list[int]] = {}
        for number, graph in enumerate(graphs):
            members.setdefault(self._structures(graph), []).append(number)
        layout = self._layout([(structure, len(numbers)) for structure, numbers in members.items()], vocabulary, limits, device)
        given = [number for numbers in members.values() for number in numbers]
        order = [0] * len(graphs)
        for position, number in enumerate(given):
            order[number] = position
        return Batch([graphs[number] for number in given], order, layout, dtype)

    def _layout(self, groups: list[tuple[Structure, int]], vocabulary: Vocabulary, limits: Limits, device: torch.device) -> Layout:
        key = (*groups, vocabulary, limits, str(device))
        if key not in self._layouts:
            self._layouts[key] = Layout(groups, vocabulary, limits, device)
        self._layouts.move_to_end(key)
        if len(self._layouts) > self._kept:
            self._layouts.popitem(last=False)
        return self._layouts[key]


def check_graphs(graphs: object) -> list[ParamGraph]:
    """The graphs of a batch as a list; `MetanetError` if there are none or they are something else."""
    if isinstance(graphs, ParamGraph) or not isinstance(graphs, Sequence):
        raise MetanetError(f"expected a list of ParamGraphs, got {type(graphs).__name__}; call the metanet with `[graph]`.")
    if not graphs:
        raise MetanetError("expected at least one ParamGraph, got an empty batch; leave empty batches out of the loader.")
    for number, graph in enumerate(graphs):
        if not isinstance(graph, ParamGraph):
            raise MetanetError(f"item {number} of the batch is a {type(graph).__name__}, not a ParamGraph; use `paramgraph.compile` first.")
    return list(graphs)


def check_values(graph: ParamGraph, dtype: torch.dtype, device: torch.device) -> None:
    """Raise `MetanetError` naming graph and set unless all values are on `device` and are `dtype` or integers."""
    for edges in graph.edge_sets.values():
        if edges.parameter is None:
            continue
        value = graph.values[edges.parameter.name]
        if value.device.type == "meta":
            raise MetanetError(
                f"{_where(graph, edges)}: {edges.parameter.name!r} is on the meta device and has no values; "
                "compile the network with its weights, or pass them with `graph.with_values(state_dict)`."
            )
        if value.device != device:
            raise MetanetError(
                f"{_where(graph, edges)}: {edges.parameter.name!r} is on {value.device}, the metanet on {device}; move one to the other."
            )
        if value.is_complex() or (value.is_floating_point() and value.dtype != dtype):
            raise MetanetError(
                f"{_where(graph, edges)}: {edges.parameter.name!r} is {value.dtype}, the metanet {dtype}; convert the metanet with "
                "`.to(dtype)` or the values with `graph.with_values`. Integers are converted by themselves."
            )


def _where(graph: ParamGraph, edges: EdgeSet) -> str:
    return f"graph {graph.name!r}, edge set {edges.name!r}"
