"""Models that ship inside packages of other publishers: they compile, and onnxruntime says that their groups are sound."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

import paramgraph as pg

pytest.importorskip("onnx_ir", reason="the extra `onnx` is not installed")
pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")

# Package, path of the file within it, and the least ln order of its group.
FILES = [
    ("magika", "models/standard_v3_3/model.onnx", 2000.0),
    ("nudenet", "320n.onnx", 10000.0),
    ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx", 10000.0),
]


def located(package: str, file: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the package {package}, which ships the model, is not installed")
    path = Path(next(iter(spec.submodule_search_locations))) / file
    if not path.is_file():
        pytest.skip(f"this version of {package} does not ship {file}")
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("package", "file", "least"), FILES, ids=[f"{package}/{file}" for package, file, _ in FILES])
def test_a_published_model(package: str, file: str, least: float) -> None:
    path = located(package, file)
    graph = pg.compile(path)
    assert graph.symmetry.log_order > least
    assert [str(d) for d in graph.diagnostics if d.kind == "unknown-operation"] == []
    report = pg.verify(graph, path, elements=1, inputs=1, bundles=4, leave_one_out=2)
    assert report.passed, str(report)
    assert report.outside_changed
