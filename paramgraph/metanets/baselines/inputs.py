"""Parameters of networks as plain tensors with a leading axis, for baselines that know no graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from paramgraph.errors import MetanetError
from paramgraph.graph import ParamGraph
from paramgraph.metanets.batch import Group, Networks, Planner, check_graphs, check_values, refuse_not_finite
from paramgraph.metanets.options import Remembers
from paramgraph.metanets.stack import Stack

Values = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Parameters:
    """Networks of one structure.

    Attributes:
        name: of the networks, for messages.
        values: per base name, `(networks, *shape)`, floating-point tensors only.
    """

    name: str
    values: Values

    @property
    def flat(self) -> torch.Tensor:
        """All parameters after each other, `(networks, parameters)`."""
        if not self.values:
            raise MetanetError(f"graph {self.name!r} has no parameters for this metanet to read; leave it out, or choose GMN or ScaleGMN.")
        return torch.cat([value.flatten(1) for value in self.values.values()], dim=1)


class Baseline(Remembers):
    """A map from networks to vectors that reads tensors; subclasses give `predict`.

    Attributes:
        layout: names and shapes of the tensors that it reads, if it reads networks of one layout; None: of any.
    """

    layout: dict[str, tuple[int, ...]] | None = None

    def __init__(self) -> None:
        super().__init__()
        self._planner = Planner()

    def forward(self, networks: Networks | Stack) -> torch.Tensor:
        """`(networks, out)`, in the order given.

        Raises:
            MetanetError: the batch is empty, a network does not fit, or values are not finite, on another device or of another dtype.
        """
        return self.mapped(networks, self.predict)

    def mapped(self, networks: Networks | Stack, function: Callable[[Parameters], torch.Tensor]) -> torch.Tensor:
        """A function of networks of one structure, over all networks, in the order given: `(networks, …)`."""
        groups, order = self._planner.grouped(check_graphs(networks))
        reference = next(self.parameters())
        read = []
        # All are looked at before anything is computed: statistics would have seen the first ones.
        for group, _ in groups:
            check_values(group, reference.dtype, reference.device)
            read.append(parameters(group))
            if self.layout is not None:
                check_layout(group.graph, self.layout, type(self).__name__)
        return torch.cat([function(networks) for networks in read])[order]

    def predict(self, networks: Parameters) -> torch.Tensor:
        """`(networks, out)` of networks of one structure."""
        raise NotImplementedError


def parameters(group: Group) -> Parameters:
    """The floating-point tensors of a group; `MetanetError` if they are not finite."""
    values = {}
    for name, tensors in group.bases().items():
        if tensors[0].is_floating_point():
            values[name] = tensors[0] if group.stack is not None else torch.stack(tensors)
            if not bool(torch.isfinite(values[name].detach()).all()):
                readers = (edges for edges in group.graph.edge_sets.values() if edges.parameter is not None and edges.parameter.name == name)
                edges = next(readers, None)
                for number, value in enumerate(tensors):
                    refuse_not_finite(group, number, edges, name, value.detach())
    return Parameters(group.graph.name, values)


def check_layout(graph: ParamGraph, layout: dict[str, tuple[int, ...]], reader: str) -> None:
    """Raise `MetanetError` unless a network has the one layout that a baseline was made for."""
    found = layout_of(graph)
    if list(found.items()) == list(layout.items()):
        return
    differing = next((n for n in {**layout, **found} if layout.get(n) != found.get(n)), None)
    if differing is None:
        difference = f"expected its tensors in the order {list(layout)[:5]}…, got {list(found)[:5]}…"
    elif differing in graph.values and differing not in found:
        difference = f"{differing!r} is {graph.values[differing].dtype}, expected numbers of floating point, {layout[differing]}; convert it"
    else:
        difference = f"{differing!r} is {found.get(differing, 'absent')}, expected {layout.get(differing, 'no such tensor')}"
    raise MetanetError(
        f"graph {graph.name!r}: {reader} reads networks of one layout only; {difference}. Use a metanet that reads graphs for mixed architectures."
    )


def layout_of(example: object) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the floating-point tensors of a graph or stack."""
    graph = example.graph if isinstance(example, Stack) else check_graphs([example])[0]
    assert not isinstance(graph, Stack)
    return {name: tuple(value.shape) for name, value in graph.values.items() if value.is_floating_point()}


class UnitSizes(nn.Module):
    """Tensors of one layout divided by their usual sizes: root mean squares over the first batch in training, one per tensor.

    Args:
        count: number of tensors.
    """

    size: torch.Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("size", torch.zeros(count))

    def forward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """`(networks, *shape)` each to the same."""
        if self.training and not bool(self.size.any()):
            self.size = torch.stack([value.detach().square().mean().sqrt() for value in tensors])
        scale = torch.where(self.size > 0, self.size, 1.0).reciprocal()
        return [value * factor for value, factor in zip(tensors, scale, strict=True)]


def perceptron(widths: list[int], dropout: float = 0.0) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
        layers.append(nn.Linear(before, after))
        if number < len(widths) - 2:
            layers += [nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)
