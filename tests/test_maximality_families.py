"""Continuous symmetries counted by the Jacobian on reduced twins of families of analytic networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.verification.report import Maximality
from tests.support import families, twins
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
    (families.Mixer, torch.randn(4, 3, 5), 45),
    (families.ConvNeXt, torch.randn(3, 4, 4, 4), 39),
    (families.SetAttention, torch.randn(4, 3, 4), 40),
    (families.Bert, TOKENS, 89),
    (twins.Swin, torch.randn(4, 4, 5), 172),
    (twins.LayerScale, torch.randn(5, 3, 5), 113),
    (twins.Perceiver, torch.randn(4, 3, 6), 101),
    (twins.lstm, torch.randn(5, 4, 4), 12),  # two biases, merely added
    (twins.projected_lstm, torch.randn(5, 4, 4), 16),  # and GL(2) along what is projected
    (twins.bidirectional_gru, torch.randn(5, 4, 4), 8),  # two biases in two of three gates, in both directions
    (twins.UNet, torch.randn(3, 4, 4, 4), 5),  # biases, the same within each group that is normalised
    (twins.LoRA, torch.randn(9, 5), 18),  # 2 · (5 + 4): either factor, made up for by the weight beside; GL(2) is within
    (twins.Graph, torch.randn(3, 5, 4), 0),
    (twins.Dense, torch.randn(3, 2, 4, 4), 36),
    (twins.ResNet, torch.randn(3, 2, 4, 4), 43),
    (twins.EfficientNet, torch.randn(3, 4, 4, 4), 45),
    (twins.weight_norm, torch.randn(4, 3, 6), 3),  # a magnitude for each tap
    (twins.HashGrid, torch.randn(40, 2), 12),  # GL(2) and two additions, of each table
    (twins.TriPlane, torch.randn(40, 3), 4),  # GL(2)
    (twins.without_gain, torch.randn(4, 3, 6), 8),  # bias and mean; variance, rows, bias and mean
    (twins.spectral_norm, torch.randn(4, 2, 3, 3), 3 + 7 + 2 + 15 + 4),  # what is orthogonal, and two scales for each layer
    (twins.OneMore, torch.randn(9, 5), 10),  # O(4), and the gains' scales
    # The same, and what is the same for all keys in a mask that is a buffer.
    (lambda: twins.PackedAttention(masked=True), torch.randn(7, 5, 6), 48 + 5),
    (twins.TabledWindows, torch.randn(7, 4, 4, 6), 4 * 4 + 4 + 4 + 2 * 6),  # matrices, biases of keys and values, and of the table's rows
    # Gains; O(3); what the mean takes away; offsets; readers, divided by the gain.
    (twins.WrittenNorm, torch.randn(9, 6), 4 + 3 + 7 + 4 + 5),
    (twins.PackedAttention, torch.randn(7, 5, 6), 48),  # 2 · 9 of queries and keys, 2 · 9 of values, and the biases of keys and of values
])  # fmt: skip
def test_all_are_declared(build: Callable[[], nn.Module], inputs: torch.Tensor, nullity: int) -> None:
    torch.manual_seed(0)
    found = counted(build(), inputs)
    assert found.complete and found.nullity == nullity


def test_a_state_space_layer_has_its_scales_alone() -> None:
    model, (x,) = SCALES["state-space layer"].build()
    found = counted(model, x)
    assert found.complete and found.nullity == 3


def test_norms_on_queries_and_keys() -> None:
    found = counted(SCALES["llama block, norms on queries and keys"].build()[0], TOKENS)
    assert found.complete and found.nullity == 54


# What no factor declares, by how many dimensions there are and which tensors they move: docs/symmetries.md says why.
@pytest.mark.parametrize(("build", "inputs", "left", "moved"), [
    (twins.normalised_behind, torch.randn(4, 3, 6), 4, {"2.running_mean", "3.bias"}),  # a mean that the bias of a later layer makes up for
])  # fmt: skip
def test_what_is_left_is_named(build: Callable[[], nn.Module], inputs: torch.Tensor, left: int, moved: set[str]) -> None:
    torch.manual_seed(0)
    found = counted(build(), inputs)
    assert found.nullity - found.declared == left
    assert moved <= set(found.missing)


@pytest.mark.parametrize("build", [twins.vgg, lambda: twins.ResNet(nn.ReLU()), lambda: twins.EfficientNet(nn.ReLU6()),
                                   lambda: twins.EfficientNet(nn.Hardswish())], ids=["vgg", "resnet", "mobilenet", "hard-swish"])  # fmt: skip
def test_piecewise_networks_have_no_fewer(build: Callable[[], nn.Module]) -> None:
    """All that is declared lies in the null space; there may be more in it that belongs to no group."""
    torch.manual_seed(0)
    model = build()
    found = counted(model, torch.randn(3, next(model.parameters()).shape[1], 4, 4))
    assert 0 < found.declared <= found.nullity and found.change < 1e-9
