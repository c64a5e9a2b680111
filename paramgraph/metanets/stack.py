"""Many networks of one structure as one object: the structure once, and values with a leading axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from paramgraph.errors import MetanetError
from paramgraph.graph import EdgeSet, ParameterView, ParamGraph


@dataclass(frozen=True)
class Stack:
    """Networks of one architecture, e.g. a population of implicit neural representations.

    Metanets take a stack in the place of its graphs. Nothing is copied per network.

    Attributes:
        graph: one of the networks, for its structure; its own values are not looked at.
        values: per base name of `graph.values`, `(networks, *shape)`.
    """

    graph: ParamGraph
    values: Mapping[str, torch.Tensor]

    def __post_init__(self) -> None:
        if not self.graph.values:
            raise MetanetError(f"graph {self.graph.name!r} has no parameters, so that there is nothing to stack; metanets take it as a graph.")
        if set(self.values) != set(self.graph.values):
            raise MetanetError(
                f"a stack over graph {self.graph.name!r}: expected values for {sorted(self.graph.values)[:5]}…, got {sorted(self.values)[:5]}…."
            )
        lengths = {value.shape[0] if value.ndim else -1 for value in self.values.values()}
        for name, value in self.values.items():
            shape = tuple(self.graph.values[name].shape)
            if len(lengths) != 1 or tuple(value.shape[1:]) != shape:
                raise MetanetError(
                    f"a stack over graph {self.graph.name!r}: expected {name!r} of shape {('networks', *shape)}, with one number of networks "
                    f"for all names; got {tuple(value.shape)}."
                )

    @classmethod
    def of(cls, graph: ParamGraph, state_dicts: Sequence[Mapping[str, torch.Tensor]]) -> Stack:
        """A stack from state dicts of networks that have the structure of `graph`.

        Raises:
            StateDictError: a state dict does not fit the graph.
            MetanetError: there are none.
        """
        if not state_dicts:
            raise MetanetError("expected at least one state dict, got none.")
        checked = [graph.with_values(state).values for state in state_dicts]
        return cls(graph, {name: torch.stack([values[name].detach() for values in checked]) for name in graph.values})

    def __len__(self) -> int:
        return int(next(iter(self.values.values())).shape[0])

    def __getitem__(self, number: int) -> ParamGraph:
        """One of the networks; its values are views."""
        return replace(self.graph, values={name: value[number] for name, value in self.values.items()})

    def __iter__(self) -> Iterator[ParamGraph]:
        return (self[number] for number in range(len(self)))

    def take(self, numbers: Sequence[int] | torch.Tensor | slice) -> Stack:
        """Some of the networks: by number, or by a mask that says of each whether.

        Raises:
            MetanetError: the numbers are none, or a mask is of another length.
        """
        index = numbers if isinstance(numbers, slice) else as_numbers(numbers, len(self))
        return replace(self, values={name: value[index] for name, value in self.values.items()})

    def to(self, *args: Any, **options: Any) -> Stack:
        """Values on another device or in another floating-point type; integers keep theirs. Arguments of `torch.Tensor.to`."""
        moved = {}
        for name, value in self.values.items():
            to = value.to(*args, **options)
            moved[name] = to if to.is_floating_point() == value.is_floating_point() else value.to(to.device)
        return replace(self, values=moved)

    def pin_memory(self) -> Stack:
        """Values in page-locked memory, as `DataLoader(pin_memory=True)` asks for."""
        return replace(self, values={name: value.pin_memory() for name, value in self.values.items()})

    def edge_values(self, edges: EdgeSet) -> torch.Tensor:
        """Values of an edge set with a parameter, `(networks, *edges.shape)`."""
        assert edges.parameter is not None
        return read_stacked(edges.parameter, self.values[edges.parameter.name], edges.shape)

    def state_dicts(self) -> list[dict[str, torch.Tensor]]:
        """The networks' own state dicts."""
        return [graph.state_dict() for graph in self]

    def __repr__(self) -> str:
        return f"Stack of {len(self)} × {self.graph.name} ({self.graph.num_parameters:,} parameters each)"


def as_numbers(numbers: Sequence[int] | torch.Tensor | np.ndarray[Any, Any], count: int) -> torch.Tensor:
    """Numbers of networks, int64, from numbers or from a mask over all `count` of them."""
    given = torch.as_tensor(numbers)
    if given.dtype == torch.bool:
        if given.shape != (count,):
            raise MetanetError(f"expected a mask of {count} networks, got one of shape {tuple(given.shape)}.")
        return given.nonzero()[:, 0]
    if given.ndim != 1 or (given.numel() and (given.is_floating_point() or given.is_complex())):
        raise MetanetError(f"expected a list of numbers of networks, or a mask; got {given.dtype} of shape {tuple(given.shape)}.")
    return given.long()


def read_stacked(view: ParameterView, base: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """`ParameterView.read` of every network: `(networks, *base shape)` to `(networks, *shape)`."""
    count = base.shape[0]
    if view.index is not None:
        index = torch.as_tensor(np.ascontiguousarray(view.index).reshape(-1), device=base.device)
        return base.reshape(count, -1)[:, index].reshape(count, *shape)
    part = base.reshape(count, *view.split)[(slice(None), *(slice(*bounds) for bounds in view.slices))]
    return part.permute(0, *(axis + 1 for axis in view.order)).reshape(count, *shape)


def write_stacked(view: ParameterView, values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The transpose of `read_stacked`: `(networks, *shape of the base)` with `values` where the view reads, zero elsewhere."""
    count = values.shape[0]
    if view.index is not None:
        index = torch.as_tensor(np.ascontiguousarray(view.index).reshape(-1), device=values.device)
        empty = values.new_zeros(count, int(np.prod(shape, dtype=np.int64)))
        return empty.index_add(1, index, values.reshape(count, -1)).reshape(count, *shape)
    empty = values.new_zeros(count, *view.split)
    slices = (slice(None), *(slice(*bounds) for bounds in view.slices))
    permuted = [empty[slices].shape[1 + axis] for axis in view.order]
    back = [0, *(1 + int(axis) for axis in np.argsort(view.order))]
    empty[slices] = values.reshape(count, *permuted).permute(*back)
    return empty.reshape(count, *shape)
