"""What the readers give: a population, a table of what is known of each network, and the modules that run them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from paramgraph.errors import MetanetError
from paramgraph.metanets.data import Population
from paramgraph.metanets.stack import Stack, as_numbers


class Zoo(Population):
    """Networks that were read from files, in the files' order, of one or more architectures.

    A population like others: index it, load it, split it. `zoo.subset(numbers)` is a zoo again.

    Attributes:
        stacks: the networks, one stack per architecture.
        models: per stack, a module that computes its networks: `run(zoo.models[0], zoo.stacks[0], inputs)`.
        labels: one per network.
        table: columns by name, one entry per network in its order: paths, hyperparameters, accuracies.
        classes: names of the labels, where files give them as text.
        skipped: of each file or row that was left out, its name and why.
    """

    def __init__(
        self,
        stacks: Sequence[Stack],
        places: Sequence[tuple[int, int]],
        labels: torch.Tensor | Sequence[Any] | None,
        table: Mapping[str, np.ndarray[Any, Any]] | None = None,
        models: Sequence[nn.Module] = (),
        classes: Sequence[str] = (),
        skipped: Sequence[str] = (),
    ) -> None:
        """See the readers.

        Args:
            stacks: the networks by architecture.
            places: per network, the number of its stack and its row there.
            labels: per network; None gives the networks' numbers.
            table: columns, one entry per network.
            models: one per stack.
            classes: names of labels.
            skipped: what was left out, and why.
        """
        super().__init__(stacks)
        if sorted(places) != sorted(self._places):
            raise MetanetError(f"expected a place for each of {len(self._places)} networks, got {len(places)} places.")
        self._places = list(places)
        if labels is not None:
            self.labels = torch.as_tensor(labels)
        self.table = dict(table or {})
        lengths = {"labels": len(self.labels), **{name: len(column) for name, column in self.table.items()}}
        for name, length in lengths.items():
            if length != len(places):
                raise MetanetError(f"{name}: expected {len(places)} entries, one per network; got {length}.")
        self.models = list(models)
        self.classes = tuple(classes)
        self.skipped = tuple(skipped)

    def subset(self, numbers: Sequence[int] | torch.Tensor | np.ndarray[Any, Any]) -> Zoo:
        """Some of the networks, in the order given, by number or by a mask; their table and labels with them. Values are copied."""
        index: list[int] = as_numbers(numbers, len(self)).tolist()
        if not index:
            raise MetanetError("expected at least one network, got none.")
        rows: dict[int, list[int]] = {}
        places = []
        for number in index:
            stack, row = self._places[number]
            members = rows.setdefault(stack, [])
            places.append((stack, len(members)))
            members.append(row)
        new = {stack: place for place, stack in enumerate(rows)}
        return Zoo(
            [self.stacks[stack].take(rows[stack]) for stack in rows],
            [(new[stack], row) for stack, row in places],
            self.labels[torch.as_tensor(index)],
            {name: column[index] for name, column in self.table.items()},
            [self.models[stack] for stack in rows] if self.models else (),
            self.classes,
            self.skipped,
        )

    def map(self, function: Callable[[Stack], Stack]) -> Zoo:
        """The same zoo with other values: `zoo.map(wrap_phases)`."""
        stacks = [function(stack) for stack in self.stacks]
        return Zoo(stacks, self._places, self.labels, self.table, self.models, self.classes, self.skipped)

    def __repr__(self) -> str:
        left_out = f", {len(self.skipped)} left out" if self.skipped else ""
        return f"Zoo of {len(self):,} networks of {len(self.stacks)} architectures{left_out}; columns {', '.join(self.table) or 'none'}"
