"""Models that ship inside packages of other publishers: they compile, and onnxruntime says that their groups are sound.

They are not this project's files: packages in the test extra bring them. What is pinned
in each (inputs, outputs, positions, alphabets, what an unknown operator touches) has its cause in the diagnostics.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

import paramgraph as pg

pytest.importorskip("onnx_ir", reason="the extra `onnx` is not installed")
pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")

TASHKEEL, ROMANIZER, SURFACES = "text2tashkeel", "arabic_name_romanizer", "surfaces_onnx_files"
# Package, path of the file within it, what the ln order of its group exceeds, operators without a rule.
FILES: list[tuple[str, str, float, set[str]]] = [
    # A classifier of bytes, converted from JAX.
    ("magika", "models/standard_v3_3/model.onnx", 2000, set()),
    # Convolutions over characters, converted from Keras with channels last.
    ("slovorez", "models/slovorez-test/slovorez-test.onnx", 4000, set()),
    # Recurrent encoders and decoders with attention, from torch's older exporter.
    (ROMANIZER, "resources/encoder.onnx", 2000, set()),
    (ROMANIZER, "resources/decoder.onnx", 2000, set()),
    (ROMANIZER, "resources/persian/encoder.onnx", 2000, set()),
    (ROMANIZER, "resources/persian/decoder.onnx", 2000, set()),
    # Dynamically quantised recurrent networks: integers move with their units.
    (TASHKEEL, "models/rawi.int8.onnx", 4000, set()),
    (TASHKEEL, "models/rawi_v2.int8.onnx", 4000, set()),
    (TASHKEEL, "models/rawi_v3.int8.onnx", 4000, set()),
    # Small regressors, converted from scikit-learn.
    (SURFACES, "gradient_boosting_regressor.onnx", 400, set()),
    (SURFACES, "k_neighbors_regressor.onnx", 400, set()),
    # The runtime's own samples: a product with a fixed matrix, and a classifier whose numbers are attributes. No group.
    ("onnxruntime", "datasets/mul_1.onnx", -1, set()),
    ("onnxruntime", "datasets/logreg_iris.onnx", -1, {"ai.onnx.ml::LinearClassifier"}),
]

def located(package: str, file: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the package {package}, which ships the model, is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / file


@pytest.mark.slow
@pytest.mark.parametrize(("package", "file", "least", "unknown"), FILES, ids=[f"{package}/{Path(file).stem}" for package, file, *_ in FILES])
def test_a_published_model(package: str, file: str, least: float, unknown: set[str]) -> None:
    path = located(package, file)
    graph = pg.compile(path)
    assert graph.symmetry.log_order > least
    assert {d.subject for d in graph.diagnostics if d.kind == "unknown-operation"} == unknown
    assert all(d.cause for d in graph.diagnostics)
    report = pg.verify(graph, path, elements=1, inputs=1, bundles=4, leave_one_out=2)
    assert report.passed, str(report)
    assert report.outside_changed or least < 0
