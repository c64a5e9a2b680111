"""Multipliers written out for whole tensors: the same as those of the elements one by one, however a tensor is cut."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph import ParamGraph
from paramgraph.symmetries import multipliers
from paramgraph.symmetries.group import SymmetryGroup
from tests.support import attention, branches, gathered, indexing, layers, layouts, pairing, values  # noqa: F401  registers the cases
from tests.support.cases import CASES
from tests.support.scales import SCALES


class Crossed(nn.Module):
    """A weight whose quarters have scales of their own: a product of a function of rows and one of columns would not do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mix, self.b = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(6, 6)), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(x @ self.a.T)
        left = torch.relu(h[:, :3] @ self.mix[:3, :3].T) * torch.relu(h[:, 3:] @ self.mix[:3, 3:].T)
        right = torch.relu(h[:, :3] @ self.mix[3:, :3].T) + torch.relu(h[:, 3:] @ self.mix[3:, 3:].T)
        return self.b(torch.cat([left, right], -1))


class Joined(nn.Module):
    """A layer on two others side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.o = nn.Linear(4, 3), nn.Linear(4, 2), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.o(torch.relu(self.c(torch.cat([torch.relu(self.a(x)), torch.relu(self.b(x))], -1))))


NAMES = ("mlp", "packed attention", "channel shuffle", "shuffled concatenation", "group norm over a concatenation", "grouped-query attention",
         "tied across a transpose", "llama block", "residual block", "lora before relu", "zero-padded shortcut", "weight norm", "crossed")


@cache
def compiled(name: str) -> ParamGraph:
    torch.manual_seed(0)
    if name == "crossed":
        return pg.compile(Crossed().eval(), torch.randn(5, 4))
    model, inputs = (SCALES if name in SCALES else CASES)[name].build()
    return pg.compile(model, inputs)


def expected(group: SymmetryGroup, name: str, element: pg.symmetries.GroupElement) -> np.ndarray:
    shape = group.actions[name].shape
    places = [axis.reshape(-1) for axis in np.indices(shape)]
    logs, flips = group.scales.at(name, places, element.tables)
    return (np.exp(logs) * np.where(flips, -1.0, 1.0)).reshape(shape)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_each_element_has_its_multiplier(name: str, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipliers, "WIDEST", multipliers.WIDEST if whole else 0)
    found = compiled(name).symmetry
    group = SymmetryGroup(found.spaces, found.factors, found.actions, found.aliases, found.stacks, found.scales)
    assert group.scales.blocks
    for seed in range(2):
        element = group.sample(seed, kinds=["scale", "sign"])
        ones = {key: torch.ones(group.actions[key].shape, dtype=torch.float64) for key in group.scales.blocks}
        moved = element.act_on(ones)
        for key in group.scales.blocks:
            assert np.allclose(moved[key].numpy(), expected(group, key, element), rtol=1e-12, atol=0), key
    assert bool(group.multipliers.wide) is not whole


def test_quarters_are_told_apart() -> None:
    """The crossed weight needs an array along both axes: that case is among those above."""
    group = compiled("crossed").symmetry
    element = group.sample(0, kinds=["scale"])
    arrays = group.multipliers.of(element.tables, torch.float64).arrays["mix"]
    assert any(array.shape == (6, 6) for array in arrays)


def test_rows_and_columns_are_enough() -> None:
    """A weight over concatenated channels is multiplied by a function of the row and one of the column, whatever the columns are cut into."""
    group = pg.compile(Joined().eval(), torch.randn(5, 4)).symmetry
    assert len(group.scales.blocks["c.weight"]) == 2
    arrays = group.multipliers.of(group.sample(0, kinds=["scale"]).tables, torch.float64).arrays
    assert sorted(array.shape for array in arrays["c.weight"]) == [(1, 5), (4, 1)]


def test_one_factor_leaves_the_other_tensors_alone() -> None:
    group = compiled("residual block").symmetry
    number = next(n for n, factor in enumerate(group.factors) if factor.kind == "scale")
    arrays = group.multipliers.of(group.sample(0, factors=[number]).tables, torch.float32).arrays
    assert set(arrays) == set(group.acted_on_by(number)) != set(group.scales.blocks)
    assert {array.dtype for held in arrays.values() for array in held} == {torch.float32}
