"""Both front ends give the same group, and the same typed graph, for the same network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import paramgraph as pg
from tests.compiler.onnx.exporting import exported, moved_together, types
from tests.support import attention, gathered, indexing, layers, layouts, merging, pairing, values  # noqa: F401  register the cases
from tests.support.cases import CASES

pytest.importorskip("onnx_ir", reason="the extra `onnx` is not installed")
pytest.importorskip("onnxscript", reason="torch's exporter needs onnxscript")

# Cases of every kind whose export keeps the network's own operations, so that the graphs agree type by type.
SAME = ["mlp", "residual stream", "two-head attention", "grouped-query attention", "gru", "grouped convolution", "p4 group convolution", "deep sets",
        "set attention", "stream of heads", "windows, shifts and merging"]
# Cases whose export writes an operation as several: the group is the same, the graph has nodes for what the export adds.
SAME_GROUP = ["gated", "group norm", "bidirectional two-layer lstm", "weight norm", "overlapping slices", "residual stages with group norm"]


@pytest.mark.parametrize("name", SAME + SAME_GROUP)
def test_small_networks(name: str) -> None:
    model, inputs = CASES[name].build()
    ours, theirs = pg.compile(model, inputs), pg.compile(exported(model, inputs))
    assert theirs.symmetry.log_order == pytest.approx(CASES[name].log_order)
    assert moved_together(theirs) == moved_together(ours)
    assert theirs.symmetry.dimension == ours.symmetry.dimension
    # What is decomposed says less of signs: of a normalisation by groups, written as one by instances of flattened groups.
    assert theirs.symmetry.num_signs <= ours.symmetry.num_signs
    if name in SAME:
        assert theirs.symmetry.num_signs == ours.symmetry.num_signs
        assert types(theirs) == types(ours)


def test_pooling_to_several_positions() -> None:
    """Adaptive averages are exported as averages over windows: they have one name."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 2)).eval()
    inputs = (torch.randn(5, 3, 10, 10),)
    assert types(pg.compile(exported(model, inputs))) == types(pg.compile(model, inputs))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vit_b_16"])
def test_torchvision(name: str, torchvision: Any) -> None:
    model = getattr(torchvision.models, name)().eval()
    inputs = (torch.randn(3, 3, 224 if name == "vit_b_16" else 64, 224 if name == "vit_b_16" else 64),)
    ours, theirs = pg.compile(model, inputs), pg.compile(exported(model, inputs))
    assert theirs.symmetry.log_order == pytest.approx(ours.symmetry.log_order)
    assert moved_together(theirs) == moved_together(ours)


@pytest.mark.parametrize("optimize", [False, True])
def test_transformer_and_recurrent_layers(optimize: bool) -> None:
    """The group is that of the torch front end, also where the exporter has transposed and folded initialisers."""
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    layer = nn.TransformerEncoderLayer(8, 2, 16).eval()
    inputs: tuple[Any, ...] = (torch.randn(5, 3, 8),)
    message = exported(layer, inputs, optimize)
    theirs = pg.compile(message)
    assert theirs.symmetry.log_order == pytest.approx(pg.compile(layer, inputs).symmetry.log_order)
    assert pg.verify(theirs, message, elements=1, inputs=1).passed


def test_what_the_exporter_calls_a_constant_is_one() -> None:
    """A table that is no parameter pins what it varies along; an initialiser of which nothing is known would not."""

    class Tabled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
            self.register_buffer("table", torch.randn(6), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(x)) * self.table)

    graph = pg.compile(exported(Tabled(), (torch.randn(5, 4),)))
    assert set(graph.values) == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert graph.symmetry.log_order == 0


@pytest.mark.parametrize("name", ["bidirectional two-layer lstm", "group norm", "gru"])
def test_numbers_that_layers_share_link_nothing(name: str) -> None:
    """The optimiser makes one initialiser of all zeros that layers start from, and of all ones of normalisations that it writes out."""
    model, inputs = CASES[name].build()
    both = nn.ModuleList([model, CASES[name].make()])

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both = both

        def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(layer(*given) for layer in self.both)

    network = Two().eval()
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    graph = pg.compile(exported(network, inputs, optimize=True))
    assert graph.symmetry.log_order == pytest.approx(2 * CASES[name].log_order)
