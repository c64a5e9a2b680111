"""ONNX files on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from paramgraph.cli import main
from tests.compiler.onnx.handmade import model, node, weights

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")


def test_verify_runs_an_onnx_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    path = tmp_path / "model.onnx"
    nodes = [node("MatMul", "x a", "h"), node("Relu", "h", "r"), node("MatMul", "r c", "y")]
    onnx.save(model(nodes, {"x": (5, 4)}, weights(a=(4, 6), c=(6, 3))), str(path))
    with pytest.raises(SystemExit) as exit_:
        main(["verify", str(path), "--elements", "1", "--inputs", "1"])
    assert exit_.value.code == 0
    assert "passed" in capsys.readouterr().out


def test_a_bad_file_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(SystemExit) as exit_:
        main(["compile", str(path), "-o", str(tmp_path / "out.pgraph")])
    assert exit_.value.code == 1
