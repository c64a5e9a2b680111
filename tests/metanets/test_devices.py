"""Everything that metanets make lies on their own device. A device that computes nothing stands for the one that this machine may lack: tensors on
it meet those of the processor in no operation, as on a GPU."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import paramgraph as pg
from paramgraph.metanets import GMN, ScaleGMN, Stack, baselines, batch

ELSEWHERE = "meta"
CASES: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (GMN, {}),
    (GMN, {"recompute": True, "direction": "both"}),
    (GMN, {"recompute": True, "head": "edge", "residual": True}),
    (GMN, {"direction": "both", "attention": 2, "pack_edges": 40}),
    (GMN, {"norm": "batch", "bias_layout": "features"}),
    (GMN, {"keep_edges": 0, "pack_edges": 40, "updates": "edges-first"}),
    (GMN, {"head": "node"}),
    (ScaleGMN, {"direction": "both"}),
    (ScaleGMN, {"recompute": True, "direction": "both"}),
    (ScaleGMN, {"recompute": True, "head": "edge"}),
    (ScaleGMN, {"keep_edges": 0, "pack_edges": 40}),
    (ScaleGMN, {"head": "node"}),
    (baselines.NGGNN, {}),
    (baselines.DeepSets, {"layers": None}),
]


class Recurrent(nn.Module):
    """Tokens, two layers of LSTM, and a last linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.lstm, self.last = nn.Embedding(20, 8), nn.LSTM(8, 8, 2, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.lstm(self.tokens(x))[0][:, -1])


@pytest.fixture(scope="module")
def networks() -> list[Any]:
    convolutions = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    graph = pg.compile(convolutions, torch.zeros(1, 1, 8, 8))
    stack = Stack.of(graph, [convolutions.state_dict()] * 3)
    tokens = torch.zeros(1, 5, dtype=torch.long)
    return [stack, pg.compile(Recurrent(), tokens), pg.compile(attention, torch.zeros(1, 5, 8))]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    """Tensors without numbers. What reads numbers, or asks for what is particular to a real device, is left out."""
    monkeypatch.setattr(batch.Batch, "_check_finite", lambda self: None)
    monkeypatch.setattr(batch, "check_values", lambda *arguments: None)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device=None: False)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device=None: torch.bfloat16)
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: contextlib.nullcontext())
    return FakeTensorMode(allow_non_fake_inputs=True)


def moved(network: Any) -> Any:
    """A network with values elsewhere."""
    values = {name: empty_like(value, True) for name, value in network.values.items()}
    return Stack(network.graph, values) if isinstance(network, Stack) else network.with_values(values)


def empty_like(tensor: torch.Tensor, needs_gradient: bool) -> torch.Tensor:
    """Of the same shape, elsewhere."""
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=ELSEWHERE)
    return empty.requires_grad_(needs_gradient and tensor.is_floating_point())


def total(predictions: Any) -> torch.Tensor:
    """One number of all predictions."""
    if isinstance(predictions, torch.Tensor):
        return predictions.sum()
    return torch.stack([value.sum() for one in predictions for value in one.values()]).sum()


def passes(metanet: nn.Module, networks: list[Any], mode: FakeTensorMode) -> torch.Tensor:
    """A forward and backward pass of the metanet elsewhere."""
    with mode:
        parameters = {name: empty_like(tensor, True) for name, tensor in metanet.named_parameters()}
        buffers = {name: empty_like(tensor, False) for name, tensor in metanet.named_buffers()}
        there = [moved(network) for network in networks]
        found = total(torch.func.functional_call(metanet, {**parameters, **buffers}, (there,)))
        found.backward()
    assert sum(tensor.grad is not None for tensor in parameters.values()) > len(parameters) // 2
    return found


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize(("make", "options"), CASES, ids=lambda case: case.__name__ if isinstance(case, type) else "-".join(case) or "plain")
def test_one_device(make: type[nn.Module], options: dict[str, Any], networks: list[Any], elsewhere: FakeTensorMode) -> None:
    layers = {} if "layers" in options else {"layers": 2}
    given = {name: value for name, value in options.items() if name != "layers"}
    metanet = make(8, backend="torch", **layers, **given)
    metanet(networks)  # learns the types
    assert passes(metanet.eval(), networks, elsewhere).device.type == ELSEWHERE


def test_tensors_elsewhere_are_noticed(networks: list[Any], elsewhere: FakeTensorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    metanet = GMN(8, 2, backend="torch")
    metanet(networks)
    here = torch.ones(8)
    encode = metanet.node_encoder.forward
    monkeypatch.setattr(metanet.node_encoder, "forward", lambda *arguments: encode(*arguments) + here)
    with pytest.raises(RuntimeError, match="devices, meta and cpu"):
        passes(metanet.eval(), networks, elsewhere)
