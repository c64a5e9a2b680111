"""Networks that no trace can follow: the error names the line, the module, and what to do."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.errors import TraceError
from paramgraph.models import torchvision as library


class Gate(nn.Module):
    """Branches on data, in a function that its forward calls."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.chosen(x)

    def chosen(self, x: torch.Tensor) -> torch.Tensor:
        return x if bool(x.sum() > 0) else -x


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.gate, self.head = nn.Linear(4, 6), Gate(), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.gate(torch.tanh(self.backbone(x))))


def _refusal(model: nn.Module, *inputs: object, **kwargs: object) -> str:
    with pytest.raises(TraceError) as caught:
        pg.compile(model.eval(), inputs, kwargs=kwargs)
    return str(caught.value)


def test_line_module_and_advice(capfd: pytest.CaptureFixture[str]) -> None:
    text = _refusal(Gated(), torch.randn(5, 4))
    lines = text.splitlines()
    assert lines[0].startswith("Gated could not be traced with inputs (float32[5, 4])")
    assert "test_untraceable.py:" in lines[1] and "Gate.forward of gate (Gate): return self.scale * self.chosen(x)" in lines[1]
    assert "Gate.chosen" in lines[2] and "x if bool(x.sum() > 0) else -x" in lines[2]
    assert "branches on data" in lines[3] and "apart from gate: backbone, head" in lines[3] and "paramgraph.rule" in lines[3]
    assert "def forward" not in "".join(capfd.readouterr()), "torch's graph is no part of the message"


def test_parts_that_are_advised_can_be_traced() -> None:
    model = Gated().eval()
    backbone = pg.compile(model.backbone, torch.randn(5, 4))
    head = pg.compile(nn.Sequential(model.head, nn.Tanh(), nn.Linear(3, 2)), torch.randn(5, 6))
    assert backbone.num_parameters == 30
    assert head.symmetry.log_order == pytest.approx(1.791759)


def test_what_a_network_says_itself_is_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    class Talking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            print("a word", file=sys.stderr)
            return self.a(x)

    pg.compile(Talking(), torch.randn(5, 4))
    assert "a word" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "line", "module"), [
    ("ssdlite320_mobilenet_v3_large", "ssd.py:", "SSD.forward"),
    ("fasterrcnn_mobilenet_v3_large_320_fpn", "rpn.py:", "RegionProposalNetwork.forward of rpn"),
])  # fmt: skip
def test_detectors(name: str, line: str, module: str) -> None:
    """Selecting boxes makes tensors of sizes that depend on data."""
    text = _refusal(library.build(name), [torch.rand(3, 96, 96)] * 2)
    assert line in text and module in text and "backbone" in text.splitlines()[-1]


def test_attention_with_global_tokens(torchvision: Any) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LongformerConfig(vocab_size=53, hidden_size=24, num_hidden_layers=1, num_attention_heads=3, intermediate_size=37,
                                           max_position_embeddings=64, attention_window=[4])  # fmt: skip
    text = _refusal(transformers.LongformerModel(config), input_ids=torch.randint(3, 53, (2, 8)))
    assert "modeling_longformer.py:" in text and "if is_global_attn" in text
    assert "encoder.layer.0.attention.self (LongformerSelfAttention)" in text


class Converting(nn.Module):
    """Converts a layer to the precision that it has, whenever it is called, as some routers do."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.up = self.up.to(torch.float32)
        return self.down(torch.tanh(self.up(x)))


def test_conversions_that_do_nothing_can_be_traced() -> None:
    before = nn.Module._apply
    model, x = Converting().eval(), torch.randn(5, 4)
    graph = pg.compile(model, x)
    assert graph.symmetry.log_order == pytest.approx(6.579251)
    assert pg.verify(graph, model, x).passed
    assert nn.Module._apply is before


def test_methods_may_name_their_first_argument_as_they_like() -> None:
    class Other(nn.Module):
        def __init__(this) -> None:  # noqa: N805
            super().__init__()
            this.a = nn.Linear(4, 3)

        def forward(this, x: torch.Tensor) -> torch.Tensor:  # noqa: N805
            return this.a(x) if bool(x.sum() > 0) else x

    text = _refusal(Other(), torch.randn(5, 4))
    assert "Other.forward: return this.a(x) if bool(x.sum() > 0) else x" in text


def test_packed_sequences_are_refused_with_their_line() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LSTM(4, 5, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([6, 4, 3]), batch_first=True)
            return self.layer(packed)[0].data

    text = _refusal(Packed(), torch.randn(3, 6, 4))
    assert "Packed.forward: return self.layer(packed)[0].data" in text and "paramgraph.rule" in text
