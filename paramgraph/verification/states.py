"""States of a network that are computed tensor by tensor, when an operation reads one: a run holds no second copy of all parameters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial

import torch

from paramgraph.graph import Alias
from paramgraph.symmetries.group import GroupElement

# Elements that are looked at first, to see whether a tensor moves.
FEW = 1 << 14


class Changed(Mapping[str, torch.Tensor]):
    """A state with some of its tensors replaced. Nothing is stored.

    Args:
        state: the other tensors.
        aliases: names that are views of others: where these are replaced, they follow.
        names: what is replaced.
        value: gives a replaced tensor by its name.
    """

    def __init__(self, state: Mapping[str, torch.Tensor], aliases: Mapping[str, Alias], names: Collection[str],
                 value: Callable[[str], torch.Tensor]) -> None:
        self.state, self.aliases, self.names, self.value = state, aliases, names, value

    def __getitem__(self, name: str) -> torch.Tensor:
        alias = self.aliases.get(name)
        if alias is not None and alias.base in self.names:
            return alias.read(self)
        return self.value(name) if name in self.names else self.state[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


class Acted:
    """What a group element makes of the tensors of a state, one at a time; of stacks, one stack at a time.

    Args:
        element: acts.
        state: on this.
        names: the tensors that may be asked for; None for all that the group has actions of.
    """

    def __init__(self, element: GroupElement, state: Mapping[str, torch.Tensor], names: Collection[str] | None = None) -> None:
        self.element, self.state = element, state
        self.names = element.group.action_of.keys() & names if names is not None else element.group.action_of.keys()
        # Of a stack that was acted on: tensors that were not asked for yet.
        self._waiting: dict[str, torch.Tensor] = {}

    def __call__(self, name: str) -> torch.Tensor:
        if name in self._waiting:
            return self._waiting.pop(name)
        group, action = self.element.group, self.element.group.action_of[name]
        members = group.members(action)
        if action not in group.stacks:
            return self.element.act_on({action: self.state[name]})[action]
        shape = group.actions[action].shape
        moved = self.element.act_on({action: torch.stack([self.state[member] for member in members]).reshape(shape)})[action]
        self._waiting.update(zip(members, moved.reshape(-1, *group.member_shape(action)), strict=True))
        return self._waiting.pop(name)


def moved_tensors(element: GroupElement, state: Mapping[str, torch.Tensor], names: Collection[str]) -> Iterator[str]:
    """Those of some tensors that an element moves: it is acted on a few rows first, and on the whole where these stay."""
    made = Acted(element, state, ())
    for name in names:
        tensor, action = state[name], element.group.action_of.get(name)
        if action == name and tensor.numel() > FEW:
            rows = torch.linspace(0, len(tensor) - 1, max(2, FEW * len(tensor) // tensor.numel())).long().unique()
            part = element.act_on_rows(name, rows, partial(tensor.index_select, 0))
            if part is not None and not torch.equal(part, tensor.index_select(0, rows)):
                yield name
                continue
        if action is not None and not torch.equal(made(name), tensor):
            yield name
