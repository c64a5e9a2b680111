"""Recurrent layers: the same typed graph as from torch, in every layout; and the file of a layer that ONNX does not have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import paramgraph as pg
from tests.compiler.onnx.exporting import exported, moved_together, types
from tests.compiler.onnx.handmade import check, model, node, weights
from tests.support.cases import lam

pytest.importorskip("onnx_ir", reason="the extra `onnx` is not installed")
pytest.importorskip("onnxscript", reason="torch's exporter needs onnxscript")


class Recurrent(nn.Module):
    def __init__(self, kind: Any, final: bool = False, **options: Any) -> None:
        super().__init__()
        self.layer, self.final = kind(4, 6, **options), final
        self.out = nn.Linear(6 * (2 if options.get("bidirectional") and not final else 1), 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out, last = self.layer(x)
        return self.out((last[0] if isinstance(last, tuple) else last)[-1] if self.final else out)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("options", [{"num_layers": 2, "bidirectional": True, "batch_first": True}, {"num_layers": 2, "bias": False},
                                     {"bidirectional": True, "final": True}], ids=["two layers", "no biases", "last state"])  # fmt: skip
def test_the_same_graph_as_from_torch(kind: Any, options: dict[str, Any]) -> None:
    network, inputs = Recurrent(kind, **options).eval(), (torch.randn(5, 3, 4),)
    ours, theirs = pg.compile(network, inputs), pg.compile(exported(network, inputs))
    assert theirs.symmetry.log_order == pytest.approx(ours.symmetry.log_order)
    assert moved_together(theirs) == moved_together(ours)
    assert types(theirs) == types(ours)


def test_a_projected_state_is_refused_with_the_reason() -> None:
    """The exporter writes no projection, and onnxruntime does not run the file: what it holds is pinned, and the diagnostics say why."""
    network = nn.LSTM(4, 6, proj_size=2).eval()
    graph = pg.compile(exported(network, (torch.randn(5, 3, 4),)))
    assert graph.symmetry.log_order == 0
    (said,) = [d for d in graph.diagnostics if d.subject == "ai.onnx::LSTM"]
    assert "no projections" in said.cause


LAYOUTS = {
    "layout 1": ("LSTM", {"layout": 1}, 24, (3, 5, 4), "h c"),
    "reverse": ("GRU", {"direction": "reverse", "linear_before_reset": 1}, 18, (5, 3, 4), "h"),
    "other activations": ("RNN", {"activations": ["Relu"]}, 6, (5, 3, 4), "h"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_directions_and_functions(name: str) -> None:
    """The cell's last state is read: `(1, batch, units)`, or `(batch, 1, units)`."""
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    operator, options, rows, shape, states = LAYOUTS[name]
    results = " ".join(["-", *states.split()])
    nodes = [node(operator, "x w r b", results, hidden_size=6, **options), node("MatMul", f"{states.split()[-1]} o", "y")]
    message = model(nodes, {"x": shape}, weights(w=(1, rows, 4), r=(1, rows, 6), b=(1, 2 * rows), o=(6, 3)))
    graph = pg.compile(message)
    assert graph.symmetry.log_order == pytest.approx(lam(6))
    if name != "layout 1":  # which onnxruntime has not
        assert pg.verify(graph, message, elements=2, inputs=1).passed


def test_states_that_are_given() -> None:
    """A layer that starts from a state computed by another, with lengths."""
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    nodes = [node("MatMul", "x0 a", "h0"), node("GRU", "x w r b lengths h0", "y1 -", hidden_size=6), node("MatMul", "y1 o", "y")]
    tensors = weights(a=(4, 6), w=(1, 18, 4), r=(1, 18, 6), b=(1, 36), o=(6, 3)) | {"lengths": np.array([5, 3, 4], np.int32)}
    message = model(nodes, {"x": (5, 3, 4), "x0": (1, 3, 4)}, tensors)
    graph = pg.compile(message)
    assert graph.symmetry.log_order == pytest.approx(lam(6))
    assert pg.verify(graph, message, elements=2, inputs=1).passed


def test_gates_of_quantised_weights_are_cut_before_they_are_dequantised() -> None:
    """Two directions of two units: the integers stand between the inputs and each gate's units, and no nodes for all of them are made."""
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {name: rng.integers(-60, 60, shape, dtype=np.int8) for name, shape in {"W": (2, 3, 8), "R": (2, 2, 8)}.items()}
    tensors |= weights(b=(2, 16), V=(4, 3)) | {name: np.full(2, 0.02, dtype=np.float32) for name in ("sw", "sr")}
    tensors |= {name: np.zeros(2, dtype=np.int8) for name in ("zw", "zr")} | {"flat": np.array([5, 3, 4])}
    operands = "x W R b - - - - sw zw sr zr"
    nodes = [node("DynamicQuantizeLSTM", operands, "all", "com.microsoft", hidden_size=2, direction="bidirectional"),
             node("Transpose", "all", "t", perm=[0, 2, 1, 3]), node("Reshape", "t flat", "h"), node("MatMul", "h V", "y")]  # fmt: skip
    message = model(nodes, {"x": (5, 3, 3)}, tensors, domains=["com.microsoft"])
    check(message, 2 * lam(2))
    graph = pg.compile(message)
    assert not any("hidden" in nodes.type for nodes in graph.node_sets.values())


def test_biases_of_two_layers_in_one_tensor() -> None:
    """The gates of a layer move alike, those of two layers do not, though one tensor holds them all."""
    nodes = [node("Slice", "B zero four axis", "lower"), node("Slice", "B four eight axis", "upper"),
             node("Unsqueeze", "lower axis", "b"), node("Unsqueeze", "upper axis", "c"),
             node("RNN", "x W R b", "first", hidden_size=2), node("Squeeze", "first one", "h"),
             node("RNN", "h V S c", "second", hidden_size=2), node("Squeeze", "second one", "k"), node("MatMul", "k U", "y")]  # fmt: skip
    tensors: dict[str, Any] = weights(W=(1, 2, 3), R=(1, 2, 2), V=(1, 2, 2), S=(1, 2, 2), B=(8,), U=(2, 2))
    tensors |= {"zero": np.array([0]), "four": np.array([4]), "eight": np.array([8]), "axis": np.array([0]), "one": np.array([1])}
    check(model(nodes, {"x": (5, 3, 3)}, tensors), 2 * lam(2))
