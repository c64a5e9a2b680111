"""Models larger than memory should hold: data in files of their own are mapped, and no weight is read to compile."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import pytest

import paramgraph as pg
from tests.compiler.onnx.handmade import model, node, weights
from tests.support.cases import lam

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
pytest.importorskip("onnx_ir", reason="the extra `onnx` is not installed")

WIDTH, LAYERS = 16384, 2
BYTES = 4 * WIDTH * WIDTH * LAYERS


def large(folder: Path) -> Path:
    """A perceptron of two square matrices, 2 GiB together, in a file with a hole where the data would be."""
    helper = onnx.helper
    tensors = []
    for number in range(LAYERS):
        tensor = onnx.TensorProto(name=f"w{number}", data_type=onnx.TensorProto.FLOAT, dims=[WIDTH, WIDTH], data_location=onnx.TensorProto.EXTERNAL)
        for key, value in (("location", "weights.bin"), ("offset", str(number * 4 * WIDTH * WIDTH)), ("length", str(4 * WIDTH * WIDTH))):
            tensor.external_data.add(key=key, value=value)
        tensors.append(tensor)
    graph = helper.make_graph(
        [node("Gemm", "x w0", "h"), node("Relu", "h", "r"), node("Gemm", "r w1", "y")], "large",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3, WIDTH])], [helper.make_empty_tensor_value_info("y")], tensors,
    )  # fmt: skip
    with (folder / "weights.bin").open("wb") as file:
        file.truncate(BYTES)
    path = folder / "large.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString())
    return path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of resident memory is counted in KiB on Linux alone")
def test_two_gigabytes_of_external_data_are_not_read(tmp_path: Path) -> None:
    path = large(tmp_path)
    assert os.path.getsize(tmp_path / "weights.bin") == BYTES == 1 << 31
    _log_order(pg.compile(model([node("Gemm", "x a", "y")], {"x": (3, 4)}, weights(a=(4, 6)))))  # what is imported on the way does not count
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    graph = pg.compile(path)
    assert _log_order(graph) == pytest.approx(lam(WIDTH))
    assert graph.symmetry.dimension == WIDTH
    # Pages of a mapped file that were touched count as resident: here, a tenth of the data at most.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < BYTES // 1024 // 10


def _log_order(graph: pg.ParamGraph) -> float:
    assert graph.symmetry.dimension >= 0
    return graph.symmetry.log_order
