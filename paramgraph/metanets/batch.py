"""From a list of graphs to a checked batch: graphs grouped by structure, and the values of each job."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from paramgraph.errors import MetanetError
from paramgraph.graph import EdgeSet, ParamGraph
from paramgraph.metanets.layout import Job, Layout, Limits
from paramgraph.metanets.stack import Stack
from paramgraph.metanets.structure import Structure, StructureCache
from paramgraph.metanets.vocabulary import Vocabulary

Networks = Sequence[ParamGraph | Stack]


@dataclass(frozen=True)
class Group:
    """Networks of one structure: a stack, or separate graphs.

    Attributes:
        graph: one of them, for its structure.
        stack: the networks, if they are one stack.
        graphs: the networks, if they are not.
    """

    graph: ParamGraph
    stack: Stack | None
    graphs: tuple[ParamGraph, ...]

    @property
    def count(self) -> int:
        return len(self.graphs) if self.stack is None else len(self.stack)

    def read(self, edges: EdgeSet) -> list[torch.Tensor]:
        """Values of an edge set: one tensor `(networks, *shape)` of a stack, else one of `shape` per graph."""
        if self.stack is not None:
            return [self.stack.edge_values(edges)]
        return [graph.edge_values(edges) for graph in self.graphs]

    def bases(self) -> Mapping[str, list[torch.Tensor]]:
        """Base tensors by name, in the order of the graph: a stack's may have been given in any."""
        if self.stack is not None:
            return {name: [self.stack.values[name]] for name in self.graph.values}
        return {name: [graph.values[name] for graph in self.graphs] for name in self.graph.values}


class Batch:
    """Networks with their layout and values.

    Attributes:
        groups: the networks, numbered by the layout: those of one structure stand together.
        order: `order[i]` is the number of the i-th network as given.
        layout: structure in memory.
        values: per job, `(networks, *edge_set.shape)`, or one flat tensor if packed, or None if structural. Those of a stack and of a single network
            are views. Integers of block jobs are converted tile by tile.
    """

    def __init__(self, groups: Sequence[Group], order: Sequence[int], layout: Layout, dtype: torch.dtype) -> None:
        self.groups = groups
        self.order = list(order)
        self.layout = layout
        self.dtype = dtype
        self._group_of = [number for number, group in enumerate(groups) for _ in range(group.count)]
        self.values = [self._read_packed(job) if job.packed else self._read(job) for job in layout.jobs]
        self._check_finite()

    def group_of(self, graph: int) -> Group:
        """The group that a network belongs to, by its number in the layout."""
        return self.groups[self._group_of[graph]]

    def _read(self, job: Job) -> torch.Tensor | None:
        if job.parts[0].edges.parameter is None:
            return None
        group = self.group_of(job.parts[0].graph)
        values = group.read(job.parts[0].edges)
        if group.stack is not None:
            return values[0]
        return values[0][None] if len(values) == 1 else torch.stack(values)

    def _read_packed(self, job: Job) -> torch.Tensor:
        zero = torch.zeros(1, dtype=self.dtype, device=self.layout.device)
        pieces = []
        for first, edges in _runs(job, self):
            group = self.group_of(first)
            if edges.parameter is None:
                pieces.append(zero.expand(group.count * edges.num_edges))
            else:
                pieces += [value.reshape(-1).to(self.dtype) for value in group.read(edges)]
        return torch.cat(pieces)

    def _check_finite(self) -> None:
        """One pass over the values and one synchronisation: a sum is finite only if all its terms are. Traces have no values to look at."""
        if torch.compiler.is_exporting():
            return
        sums = [values.detach().sum(dtype=self.dtype) for values in self.values if values is not None]
        if not sums or bool(torch.isfinite(torch.stack(sums)).all()):
            return
        for group in self.groups:
            for edges in group.graph.edge_sets.values():
                if edges.parameter is None:
                    continue
                for number, value in enumerate(group.read(edges)):
                    # A sum of huge values can overflow, so what is reported is looked at element by element.
                    refuse_not_finite(group, number, edges, edges.parameter.name, value.detach().to(self.dtype))


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

    def __call__(self, networks: Networks, vocabulary: Vocabulary, limits: Limits, dtype: torch.dtype, device: torch.device) -> Batch:
        """A checked batch of networks for a metanet of `dtype` on `device`."""
        groups, order = self.grouped(networks)
        for group, _ in groups:
            vocabulary.check(group.graph)
            check_values(group, dtype, device)
        layout = self._layout([(structure, group.count) for group, structure in groups], vocabulary, limits, device)
        return Batch([group for group, _ in groups], order, layout, dtype)

    def grouped(self, networks: Networks) -> tuple[list[tuple[Group, Structure]], list[int]]:
        """Networks by structure, and the number that each gets as `Batch.order`."""
        members: dict[Structure, list[tuple[int, ParamGraph | Stack]]] = {}
        first = 0
        for network in networks:
            structure = self._structures(network.graph if isinstance(network, Stack) else network)
            members.setdefault(structure, []).append((first, network))
            first += len(network) if isinstance(network, Stack) else 1
        groups: list[tuple[Group, Structure]] = []
        given: list[int] = []
        for structure, found in members.items():
            only = found[0][1]
            if len(found) == 1 and isinstance(only, Stack):
                groups.append((Group(only.graph, only, ()), structure))
            else:
                graphs = tuple(graph for _, network in found for graph in (network if isinstance(network, Stack) else [network]))
                groups.append((Group(graphs[0], None, graphs), structure))
            for start, network in found:
                given += range(start, start + (len(network) if isinstance(network, Stack) else 1))
        order = [0] * len(given)
        for position, number in enumerate(given):
            order[number] = position
        return groups, order

    def _layout(self, groups: list[tuple[Structure, int]], vocabulary: Vocabulary, limits: Limits, device: torch.device) -> Layout:
        key = (*groups, vocabulary, limits, str(device))
        if key not in self._layouts:
            self._layouts[key] = Layout(groups, vocabulary, limits, device)
        self._layouts.move_to_end(key)
        if len(self._layouts) > self._kept:
            self._layouts.popitem(last=False)
        return self._layouts[key]


def check_graphs(graphs: object) -> list[ParamGraph | Stack]:
    """The networks of a batch as a list; `MetanetError` if there are none or they are something else."""
    if isinstance(graphs, Stack):
        graphs = [graphs]
    if isinstance(graphs, ParamGraph) or not isinstance(graphs, Sequence):
        raise MetanetError(f"expected a list of ParamGraphs, got {type(graphs).__name__}; call the metanet with `[graph]`.")
    for number, graph in enumerate(graphs):
        if not isinstance(graph, ParamGraph | Stack):
            raise MetanetError(f"item {number} of the batch is a {type(graph).__name__}, not a ParamGraph; use `paramgraph.compile` first.")
    if not any(len(graph) if isinstance(graph, Stack) else 1 for graph in graphs):
        raise MetanetError("expected at least one ParamGraph, got an empty batch; leave empty batches out of the loader.")
    return [graph for graph in graphs if not isinstance(graph, Stack) or len(graph)]


def count_graphs(networks: Networks) -> int:
    """Number of networks, those of stacks included."""
    return sum(len(network) if isinstance(network, Stack) else 1 for network in networks)


def count_edges(networks: Networks) -> int:
    """Edges of all networks together."""
    return sum(len(n) * n.graph.num_edges if isinstance(n, Stack) else n.num_edges for n in networks)


def structures_of(networks: Networks) -> list[ParamGraph]:
    """A graph per network or stack, for what follows from structure alone."""
    return [network.graph if isinstance(network, Stack) else network for network in networks]


def check_values(group: Group, dtype: torch.dtype, device: torch.device) -> None:
    """Raise `MetanetError` naming graph and set unless all values are on `device` and are `dtype` or integers."""
    bases = group.bases()
    for edges in group.graph.edge_sets.values():
        if edges.parameter is None:
            continue
        name = edges.parameter.name
        for number, value in enumerate(bases[name]):
            if value.device.type == "meta":
                raise MetanetError(
                    f"{_where(group, number, edges)}: {name!r} is on the meta device and has no values; "
                    "compile the network with its weights, or pass them with `graph.with_values(state_dict)`."
                )
            if value.device != device:
                raise MetanetError(
                    f"{_where(group, number, edges)}: {name!r} is on {value.device}, the metanet on {device}; move one to the other."
                )
            if value.is_complex() or (value.is_floating_point() and value.dtype != dtype):
                raise MetanetError(
                    f"{_where(group, number, edges)}: {name!r} is {value.dtype}, the metanet {dtype}; convert the metanet with "
                    "`.to(dtype)` or the values with `graph.with_values`. Integers are converted by themselves."
                )


def refuse_not_finite(group: Group, number: int, edges: EdgeSet | None, name: str, value: torch.Tensor) -> None:
    """Raise `MetanetError` naming graph and set if a tensor has NaN or infinite values.

    Args:
        group: the networks.
        number: of the network that the tensor is of; of a stack's, the first with such values is found.
        edges: the edge set that reads it; None if none does.
        name: of the tensor.
        value: the tensor, of a stack with a leading axis.
    """
    finite = torch.isfinite(value)
    if bool(finite.all()):
        return
    if group.stack is not None:
        number = int((~finite.reshape(finite.shape[0], -1).all(1)).nonzero()[0, 0])
    raise MetanetError(
        f"{_where(group, number, edges)}: {name!r} has NaN or infinite values; a metanet cannot read them. "
        "Replace them first, e.g. `graph.with_values({... torch.nan_to_num(value) ...})`."
    )


def _runs(job: Job, batch: Batch) -> Iterator[tuple[int, EdgeSet]]:
    """The edge sets of a packed job, each once for all networks of its group: number of the first network, and the set."""
    number = 0
    while number < len(job.parts):
        part = job.parts[number]
        yield part.graph, part.edges
        number += batch.group_of(part.graph).count


def _where(group: Group, number: int, edges: EdgeSet | None) -> str:
    graph = f"graph {group.graphs[number].name!r}" if group.stack is None else f"graph {group.graph.name!r} (number {number} of a stack)"
    return graph if edges is None else f"{graph}, edge set {edges.name!r}"
