"""Continuous symmetries counted by the Jacobian on reduced twins of families of analytic networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.verification.report import Maximality
from tests.support import families
from tests.support.scales import SCALES

TOKENS = torch.arange(20).reshape(5, 4) % 7


def counted(model: nn.Module, x: torch.Tensor) -> Maximality:
    report = pg.verify(pg.compile(model.eval(), x), model, x, elements=1, inputs=1, leave_one_out=0, maximality=True)
    assert report.passed, str(report)
    assert report.maximality is not None and report.maximality.gap > 1e4
    return report.maximality


@pytest.mark.parametrize(("build", "inputs", "nullity"), [
    (families.siren, torch.randn(9, 2), 0),
    (families.Filters, torch.randn(9, 2), 8),  # between what is multiplied: 4 for each of two products
    (families.DeepSets, torch.randn(5, 3, 3), 0),
    (families.SoftExperts, torch.randn(9, 4), 5),  # router's weight and bias, the same for all experts
    (families.Gpt, TOKENS, 72),
    (families.T5, TOKENS, 41),
    (families.P4, torch.randn(3, 2, 5, 5), 0),
])  # fmt: skip
def test_all_are_declared(build: Callable[[], nn.Module], inputs: torch.Tensor, nullity: int) -> None:
    torch.manual_seed(0)
    found = counted(build(), inputs)
    assert found.complete and found.nullity == nullity


def test_a_state_space_layer_has_its_scales_alone() -> None:
    model, inputs = SCALES["state-space layer"].build()
    found = counted(model, inputs)
    assert found.complete and found.nullity == 3


# What no factor declares, by how many dimensions there are and which tensors they move: docs/symmetries.md says why.
@pytest.mark.parametrize(("build", "inputs", "left", "moved"), [
    (families.Mixer, torch.randn(4, 3, 5), 1, {"tokens.bias", "norms.0.bias"}),  # one number for all channels
    (families.ConvNeXt, torch.randn(3, 4, 4, 4), 7, {"down.weight", "down.bias", "gamma"}),  # through a gain, to a mean that is taken away
    (families.SetAttention, torch.randn(4, 3, 4), 4, {"seeds", "query.bias"}),  # a parameter of several axes
    (families.Bert, TOKENS, 11, {"norms.0.bias", "norms.1.bias"}),  # past a sum, to a bias within what is added
])  # fmt: skip
def test_what_is_left_is_named(build: Callable[[], nn.Module], inputs: torch.Tensor, left: int, moved: set[str]) -> None:
    torch.manual_seed(0)
    found = counted(build(), inputs)
    assert found.nullity - found.declared == left
    assert moved <= set(found.missing)
