"""If, Loop and Scan: groups by hand, by automorphisms and by onnxruntime; tensors of subgraphs are parameters, and go back into the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import paramgraph as pg
from tests.compiler.onnx.handmade import check, model, node, weights
from tests.support.cases import lam

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
runtime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
helper = onnx.helper
FLOAT, INT64, BOOL = 1, 7, 9


def body(nodes: list[Any], inputs: dict[str, int], outputs: str, constants: dict[str, np.ndarray] | None = None, **shapes: Any) -> Any:
    """A subgraph; inputs with their element types, results by name, initialisers by value or by shape."""
    tensors = [onnx.numpy_helper.from_array(data, name) for name, data in (weights(**shapes) | (constants or {})).items()]
    given = [helper.make_tensor_value_info(name, dtype, None if dtype == FLOAT else []) for name, dtype in inputs.items()]
    return helper.make_graph(nodes, "body", given, [helper.make_empty_tensor_value_info(name) for name in outputs.split()], tensors)


def choice(constant: bool) -> Any:
    """A layer of each branch's own, under one name."""
    branches = {f"{name}_branch": body([node("MatMul", "h w", f"{name}1"), node(act, f"{name}1", f"{name}2")], {}, f"{name}2", w=(6, 7))
                for name, act in (("then", "Relu"), ("else", "Tanh"))}
    first = [] if constant else [node("ReduceMean", "x", "mean", keepdims=0), node("Greater", "mean zero", "flag")]
    tensors = {"flag": np.array(True)} if constant else {"zero": np.array(0, np.float32)}
    return model([*first, node("MatMul", "x a", "h"), node("If", "flag", "r", **branches), node("MatMul", "r c", "y")], {"x": (5, 4)},
                 weights(a=(4, 6), c=(7, 3)) | tensors)


def loop(steps: int, ends: bool = False, gathers: bool = False, act: str = "Tanh", extra: tuple[Any, ...] = (), ending: str = "n") -> Any:
    """A recurrent network whose weights are its loop's; it may end when the mean of `ending` is large."""
    nodes = [node("MatMul", "s u", "p"), node("MatMul", "x w", "q"), node("Add", "p q", "z"), node(act, "z", "n"), *extra]
    nodes += [node("ReduceMean", ending, "m", keepdims=0), node("Less", "m most", "going")] if ends else [node("Identity", "before", "going")]
    nodes += [node("MatMul", "n v", "e")] if gathers else []
    inside = body(nodes, {"i": INT64, "before": BOOL, "s": FLOAT}, "going n e" if gathers else "going n",
                  {"most": np.array(0.9, np.float32)} if ends else {}, u=(6, 6), w=(4, 6), **({"v": (6, 2)} if gathers else {}))
    tensors = weights(c=(6, 3)) | {"s0": np.zeros((5, 6), np.float32), "steps": np.array(steps), "true": np.array(True)}
    after = [node("MatMul", "last c", "y"), *([node("ReduceSum", "all", "sum", keepdims=0)] if gathers else [])]
    return model([node("Loop", "steps true s0", "last all" if gathers else "last", body=inside), *after], {"x": (5, 4)}, tensors,
                 outputs=["y", "sum"] if gathers else ["y"])


def scan(steps: int, along_layers: bool) -> Any:
    """A recurrent network over an input's steps, or layers whose weights are one tensor."""
    if along_layers:
        inside = body([node("MatMul", "s w", "z"), node("Tanh", "z", "n")], {"s": FLOAT, "w": FLOAT}, "n")
        return model([node("MatMul", "x a", "s0"), node("Scan", "s0 ws", "last", body=inside, num_scan_inputs=1), node("MatMul", "last c", "y")],
                     {"x": (5, 4)}, weights(a=(4, 6), ws=(steps, 6, 6), c=(6, 3)))
    nodes = [node("MatMul", "s u", "p"), node("MatMul", "xt w", "q"), node("Add", "p q", "z"), node("Tanh", "z", "n"), node("Identity", "n", "o")]
    inside = body(nodes, {"s": FLOAT, "xt": FLOAT}, "n o", u=(6, 6), w=(4, 6))
    return model([node("Scan", "s0 x", "last all", body=inside, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1]),
                  node("MatMul", "all c", "y"), node("MatMul", "last c", "z")], {"x": (5, steps, 4)},
                 weights(c=(6, 3)) | {"s0": np.zeros((5, 6), np.float32)}, outputs=["y", "z"])


CASES = {
    "branch taken": (choice(True), lam(6) + lam(7)),
    "branch chosen by data": (choice(False), lam(6) + lam(7)),
    "loop written out": (loop(3), lam(6)),
    # What every step gives is added up: both elements of it are outputs' alone, by one number, and change places.
    "loop written out, results gathered": (loop(3, gathers=True), lam(6) + lam(2)),
    "loop fed back": (loop(100), lam(6)),
    "loop fed back, results gathered": (loop(100, gathers=True), lam(6) + lam(2)),
    "loop that ends when data say": (loop(100, ends=True), lam(6)),
    "scan of an input": (scan(7, along_layers=False), lam(6)),
    # Each layer has units of its own.
    "scan of layers": (scan(3, along_layers=True), 4 * lam(6)),
    # Too many layers to write them out: what is common to all steps is one space.
    "scan of many layers": (scan(80, along_layers=True), lam(6)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_order_by_hand_automorphisms_and_onnxruntime(name: str) -> None:
    check(*CASES[name], inputs=2)


def test_tensors_of_subgraphs_are_parameters() -> None:
    graph = pg.compile(choice(False))
    assert {"r.then_branch.w", "r.else_branch.w"} < set(graph.values)
    assert set(pg.compile(loop(3)).values) == {"c", "s0", "u", "w"}


def test_what_decides_when_a_loop_ends_is_asked() -> None:
    """The condition reads one unit: that one stays where it is, although no result is computed from the condition."""
    extra = (node("Gather", "n one", "unit", axis=1),)
    message = loop(100, ends=True, extra=extra, ending="unit")
    message.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1), "one"))
    graph = pg.compile(message)
    assert graph.symmetry.log_order == pytest.approx(lam(5))
    assert pg.verify(graph, message, elements=2, inputs=2).passed


@pytest.mark.parametrize(("of", "act", "log_order"), [("n", "Tanh", lam(6)), ("n", "Relu", 0), ("s", "Relu", 0)])
def test_states_may_hold_equal_elements(of: str, act: str, log_order: float) -> None:
    """Which of several zeros is the largest depends on their order, also where they were made a step before."""
    extra = (node("ArgMax", of, "best", axis=1, keepdims=1), node("GatherElements", "k_rows best", "k", axis=1), node("Add", "n k", "n2"))
    message = loop(100, act=act, extra=extra)
    inside = message.graph.node[0].attribute[0].g
    inside.output[1].name = "n2"
    message.graph.initializer.append(onnx.numpy_helper.from_array(weights(k_rows=(5, 6))["k_rows"], "k_rows"))
    graph = pg.compile(message)
    assert graph.symmetry.log_order == pytest.approx(log_order)


def test_what_is_not_expressed_pins_its_weights_and_says_why() -> None:
    """A sequence that grows by as many rows as data say."""
    inside = body([node("MatMul", "s u", "n"), node("Concat", "s n", "longer", axis=0), node("Identity", "before", "going")],
                  {"i": INT64, "before": BOOL, "s": FLOAT}, "going longer", u=(6, 6))
    nodes = [node("MatMul", "x a", "h"), node("ReduceSum", "x", "total", keepdims=0), node("Cast", "total", "steps", to=INT64),
             node("Loop", "steps true h", "last", body=inside), node("ReduceSum", "last", "y", keepdims=0)]
    graph = pg.compile(model(nodes, {"x": (5, 4)}, weights(a=(4, 6)) | {"true": np.array(True)}))
    assert set(graph.values) == {"a", "u"}
    assert graph.symmetry.log_order == 0
    (said,) = [d for d in graph.diagnostics if d.subject == "ai.onnx::Loop"]
    assert "changes its shape from step to step" in said.cause
    assert [d.subject for d in graph.diagnostics if d.subject.startswith("u[")] == ["u[0]", "u[1]"]


@pytest.mark.parametrize("message", [choice(False), loop(3)], ids=["one name in two branches", "loop"])
def test_edited_values_go_back_into_subgraphs(tmp_path: Path, message: Any) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(message, str(path))
    graph = pg.compile(path)
    state = graph.state_dict()
    moved = graph.with_values(graph.symmetry.sample(seed=1).act(state)).to_onnx(tmp_path / "moved.onnx")
    x = np.random.default_rng(3).standard_normal((5, 4)).astype(np.float32)
    before, after = (runtime.InferenceSession(str(p), providers=["CPUExecutionProvider"]).run(None, {"x": s * x})[0]
                     for p in (path, moved) for s in (1,))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    doubled = graph.with_values({name: value + 1 for name, value in state.items()}).to_onnx(tmp_path / "edited.onnx")
    back = pg.compile(doubled)
    assert all(torch.equal(back.values[name], value + 1) for name, value in state.items())


def test_nested_subgraphs() -> None:
    """A choice within a loop, each with a weight of one name."""
    branches = {f"{name}_branch": body([node("MatMul", "z w", f"{name}1"), node(act, f"{name}1", f"{name}2")], {}, f"{name}2", w=(6, 6))
                for name, act in (("then", "Sigmoid"), ("else", "Tanh"))}
    nodes = [node("MatMul", "x w", "q"), node("Add", "s q", "z"), node("ReduceMean", "z", "mean", keepdims=0), node("Greater", "mean zero", "flag"),
             node("If", "flag", "n", **branches), node("Identity", "before", "going")]
    inside = body(nodes, {"i": INT64, "before": BOOL, "s": FLOAT}, "going n", {"zero": np.array(0, np.float32)}, w=(4, 6))
    tensors = weights(c=(6, 3)) | {"s0": np.zeros((5, 6), np.float32), "steps": np.array(3), "true": np.array(True)}
    message = model([node("Loop", "steps true s0", "last", body=inside), node("MatMul", "last c", "y")], {"x": (5, 4)}, tensors)
    graph = pg.compile(message)
    assert set(graph.values) == {"c", "s0", "last.body.w", "n.then_branch.w", "n.else_branch.w"}
    assert graph.symmetry.log_order == pytest.approx(lam(6))
    report = pg.verify(graph, message, elements=2, inputs=2)
    assert report.passed, str(report)


def test_a_loop_without_a_count_is_written_out_until_its_condition_ends_it() -> None:
    """As TensorFlow's converter writes recurrent layers: steps are counted by a number that is carried; how many results there are is known then."""
    nodes = [node("Add", "t one", "next"), node("Less", "next three", "going"), node("Gather", "x t", "xt", axis=0), node("MatMul", "s u", "p"),
             node("MatMul", "xt w", "q"), node("Add", "p q", "z"), node("Tanh", "z", "n"), node("MatMul", "n v", "e")]
    inside = body(nodes, {"i": INT64, "before": BOOL, "t": INT64, "s": FLOAT}, "going next n e", {"one": np.array(1), "three": np.array(3)},
                  u=(6, 6), w=(4, 6), v=(6, 5))
    tensors = weights(c=(5, 3)) | {"s0": np.zeros((5, 6), np.float32), "zero": np.array(0), "true": np.array(True)}
    loop = node("Loop", "- true zero s0", "count last all", body=inside)
    check(model([loop, node("MatMul", "all c", "y")], {"x": (3, 5, 4)}, tensors), lam(6) + lam(5))
