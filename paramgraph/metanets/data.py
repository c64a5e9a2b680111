"""Populations of networks as data sets for torch's `DataLoader`, with workers or without."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch.utils.data import Dataset

from paramgraph.errors import MetanetError
from paramgraph.exchange.codec import encode
from paramgraph.graph import ParamGraph
from paramgraph.metanets.stack import Stack, as_numbers
from paramgraph.metanets.structure import StructureCache

# Structures by a name that all processes share: what a worker sends back names them instead of holding them.
_STRUCTURES: WeakValueDictionary[str, ParamGraph] = WeakValueDictionary()


class Population(Dataset[Any]):
    """Networks of any architectures with their labels.

        loader = DataLoader(population, batch_size=128, shuffle=True, num_workers=2, collate_fn=paramgraph.metanets.collate)
        for graphs, labels in loader:
            loss = criterion(metanet(graphs), labels)

    Within a batch, networks of one architecture stand together, as one stack; labels follow them.

    Args:
        networks: stacks and graphs; graphs of one structure and one annotation are stacked.
        labels: `(networks, …)`, in the same order; None gives the networks' numbers as labels.

    Raises:
        MetanetError: there are no networks, or not as many labels.
    """

    def __init__(self, networks: Sequence[ParamGraph | Stack], labels: torch.Tensor | Sequence[Any] | None = None) -> None:
        if isinstance(networks, ParamGraph) or not networks:
            raise MetanetError(f"expected at least one network, in a list; got {'none' if not networks else 'a graph alone'}.")
        self.stacks, places = _stacked(networks)
        self._places = places
        count = len(places)
        self.labels = torch.arange(count) if labels is None else torch.as_tensor(labels)
        if self.labels.ndim == 0 or self.labels.shape[0] != count:
            raise MetanetError(f"expected {count} labels, one per network; got {tuple(self.labels.shape)}.")
        self._tokens = [uuid.uuid4().hex for _ in self.stacks]
        self._register()

    def _register(self) -> None:
        _STRUCTURES.update((token, stack.graph) for token, stack in zip(self._tokens, self.stacks, strict=True))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._register()

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> tuple[ParamGraph, torch.Tensor]:
        """One network and its label."""
        stack, row = self._places[number]
        return self.stacks[stack][row], self.labels[number]

    def __getitems__(self, numbers: Sequence[int]) -> Drawn:
        """A batch; `DataLoader` asks for whole batches."""
        rows: dict[int, list[int]] = {}
        members: dict[int, list[int]] = {}
        for number in numbers:
            stack, row = self._places[number]
            rows.setdefault(stack, []).append(row)
            members.setdefault(stack, []).append(number)
        order = [number for stack in rows for number in members[stack]]
        return Drawn([(self._tokens[stack], self.stacks[stack].take(rows[stack])) for stack in rows], self.labels[torch.as_tensor(order)])

    def subset(self, numbers: Sequence[int] | torch.Tensor) -> Population:
        """Some of the networks as a population of its own, e.g. a split. Networks are grouped by architecture.

        Args:
            numbers: of the networks, or a mask that says of each whether it is one.

        Raises:
            MetanetError: there are none, or a mask is of another length.
        """
        chosen: list[int] = as_numbers(numbers, len(self)).tolist()
        if not chosen:
            raise MetanetError("expected at least one network in a subset, got none.")
        drawn = self.__getitems__(chosen)
        return Population([stack for _, stack in drawn.stacks], drawn.labels)

    def graphs(self) -> list[ParamGraph]:
        """One graph per architecture, e.g. for `Vocabulary.from_graphs`."""
        return [stack.graph for stack in self.stacks]


@dataclass(frozen=True)
class Drawn:
    """What a population gives for a batch: stacks with the names of their structures, and labels."""

    stacks: list[tuple[str, Stack]]
    labels: torch.Tensor


class _Sent(Stack):
    """A stack that travels between processes without its structure, which the receiver has."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self.token, dict(self.values))

    @property
    def token(self) -> str:
        token: str = self.__dict__["_token"]
        return token


def _sent(token: str, stack: Stack) -> Stack:
    sent = _Sent(stack.graph, stack.values)
    sent.__dict__["_token"] = token
    return sent


def _received(token: str, values: dict[str, torch.Tensor]) -> Stack:
    graph = _STRUCTURES.get(token)
    if graph is None:
        raise MetanetError("a batch came from a population that this process does not hold; keep the Population as long as its loader.")
    return _sent(token, Stack(graph, values))


def collate(items: Any) -> tuple[list[Any], torch.Tensor]:
    """For `DataLoader(collate_fn=…)`: networks as a list that metanets take, and a tensor of labels.

    Args:
        items: what a `Population` draws, or `(ParamGraph, label)` pairs of a data set of your own.
    """
    if isinstance(items, Drawn):
        return [_sent(token, stack) for token, stack in items.stacks], items.labels
    graphs, labels = zip(*items, strict=True)
    return list(graphs), torch.stack([torch.as_tensor(label) for label in labels])


def _stacked(networks: Sequence[ParamGraph | Stack]) -> tuple[list[Stack], list[tuple[int, int]]]:
    """Stacks, one per structure among the graphs, and the place of each network: number of its stack, and row."""
    structures, annotations = StructureCache(), _Annotations()
    stacks: list[Stack] = []
    kept: list[int] = []
    groups: dict[Any, list[ParamGraph]] = {}
    where: list[tuple[Any, int]] = []
    for network in networks:
        if isinstance(network, Stack):
            where += [(len(stacks), row) for row in range(len(network))]
            kept.append(len(stacks))
            stacks.append(network)
        elif isinstance(network, ParamGraph):
            kinds = tuple((name, value.dtype, value.device) for name, value in network.values.items())
            alike = (structures(network), kinds, tuple(network.names), tuple(sorted(network.aliases.items(), key=lambda item: item[0])))
            key = (alike, annotations(alike, network.symmetry))
            members = groups.setdefault(key, [])
            where.append((key, len(members)))
            members.append(network)
        else:
            raise MetanetError(f"a population holds ParamGraphs and Stacks; got {type(network).__name__}.")
    numbers: dict[Any, int] = {number: number for number in kept}
    for key, members in groups.items():
        numbers[key] = len(stacks)
        stacks.append(Stack(members[0], {name: torch.stack([g.values[name].detach() for g in members]) for name in members[0].values}))
    return stacks, [(numbers[key], row) for key, row in where]


class _Annotations:
    """Numbers of annotations among networks that are alike but for it; equal ones of separately compiled networks have one number.

    Networks can look alike and have different groups: hardtanh(−1, 1) is odd, hardtanh(−1, 2) is not; sin(x) and sin(30 x) have other periods.
    """

    def __init__(self) -> None:
        # By identity, each held so that its id stays its own; and by content, looked into only where two have to be compared.
        self._seen: dict[Any, dict[int, tuple[Any, int]]] = {}
        self._contents: dict[Any, dict[bytes, int]] = {}

    def __call__(self, alike: Any, symmetry: Any) -> int:
        seen, contents = self._seen.setdefault(alike, {}), self._contents.setdefault(alike, {})
        if id(symmetry) not in seen:
            if len(seen) == 1:
                contents.update((_content(first), number) for first, number in seen.values())
            number = contents.setdefault(_content(symmetry), len(contents)) if seen else 0
            seen[id(symmetry)] = symmetry, number
        return seen[id(symmetry)][1]


def _content(symmetry: Any) -> bytes:
    def put(array: np.ndarray) -> int:
        return int.from_bytes(_digest(repr((array.shape, array.dtype.str)).encode() + array.tobytes()))

    return _digest(json.dumps(encode(symmetry, put), sort_keys=True).encode())


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
