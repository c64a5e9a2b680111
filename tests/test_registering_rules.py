"""The guide's worked examples (docs/registering-rules.md): they work, and the guide shows their code."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import paramgraph as pg
from paramgraph.errors import RuleError
from tests.support.automorphisms import log_automorphisms

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
GUIDE = ROOT / "docs" / "registering-rules.md"


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_guide_shows_code_of_the_examples() -> None:
    sources = [path.read_text() for path in EXAMPLES.rglob("*") if path.suffix in (".py", ".toml")]
    blocks = re.findall(r"```\w+\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        assert any(block.strip("\n") in source for source in sources), block


# -- an operation ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def exponential() -> Iterator[ModuleType]:
    module = _module("matrix_exponential")
    yield module
    pg.unregister("aten.linalg_matrix_exp")


def test_operation(exponential: ModuleType) -> None:
    model, x = exponential.build(), torch.randn(5, 4)
    before = pg.compile(model, x)
    assert before.symmetry.log_order == 0
    assert "aten.linalg_matrix_exp.default" in {d.subject for d in before.diagnostics if d.kind == "unknown-operation"}
    pg.rule("aten.linalg_matrix_exp")(exponential.matrix_exponential)
    graph = pg.compile(model, x)
    assert log_automorphisms(graph) == pytest.approx(math.log(720))
    assert graph.symmetry.log_order == pytest.approx(math.log(720))
    report = pg.verify(graph, model, x, leave_one_out="all")
    assert report.passed and report.left_out.keys() == {"0.weight", "0.bias", "2.generator", "4.weight"}, report


def test_exponents_of_rows_and_columns_apart_are_found_out(exponential: ModuleType) -> None:
    """A rule that says too little: rows and columns as two indices."""
    pg.rule("aten.linalg_matrix_exp")(lambda b, a: b.elementwise("matrix_exp", a))

    class Unlinked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.matrix, self.right = torch.nn.Linear(4, 6), torch.nn.Parameter(torch.randn(6, 6)), torch.nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.right(torch.tanh(self.left(x)) @ torch.linalg.matrix_exp(self.matrix))

    model, x = Unlinked(), torch.randn(5, 4)
    assert not pg.verify(pg.compile(model, x), model, x).passed


# -- a layer that cannot be traced ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def equivariant() -> Iterator[ModuleType]:
    if importlib.util.find_spec("escnn") is None:
        pytest.skip("make setup installs escnn")
    module = _module("equivariant_convolution")
    yield module
    pg.unregister(module.escnn.nn.R2Conv)


def test_layer_kept_whole(equivariant: ModuleType) -> None:
    model, x = equivariant.Network().train(), torch.randn(2, 3, 7, 7)
    graph = pg.compile(model, x)
    order = math.log(math.factorial(4) * math.factorial(5))
    assert log_automorphisms(graph) == pytest.approx(order)
    assert graph.symmetry.log_order == pytest.approx(order)
    assert not [d for d in graph.diagnostics if d.kind == "unknown-operation"]
    report = pg.verify(graph, model, x, leave_one_out="all")
    assert report.passed, report
    assert report.left_out.keys() == {"first.weights", "first.bias", "second.weights", "second.bias", "head.weight"}
    fixed = {d.subject for d in graph.diagnostics if "belong to the function" in d.cause}
    assert any(name.endswith("sampled_basis") for name in fixed) and "first.bias_expansion" in fixed


def test_layer_without_coefficients_is_refused(equivariant: ModuleType) -> None:
    with pytest.raises(RuleError, match=r"call model\.train\(\)"):
        pg.compile(equivariant.Network().eval(), torch.randn(2, 3, 7, 7))


def test_layer_is_left_as_it_was(equivariant: ModuleType) -> None:
    model, x = equivariant.Network().train(), torch.randn(2, 3, 7, 7)
    kind, before = type(model.first._basisexpansion), model(x)
    method = kind.__hash__
    pg.compile(model, x)
    assert kind.__hash__ is method and torch.equal(model(x), before)


# -- a package of rules --------------------------------------------------------------------------------------------------------

USE = """
import torch
from torch import nn
import paramgraph as pg
from rational_activations import Rational

model, x = nn.Sequential(nn.Linear(4, 5), Rational(5), nn.Linear(5, 3)), torch.randn(7, 4)
try:
    graph = pg.compile(model, x)
except pg.errors.TraceError as error:
    print("refused", "layer.py" in str(error))
else:
    report = pg.verify(graph, model, x, leave_one_out="all")
    print(round(graph.symmetry.log_order, 4), report.passed, ",".join(report.left_out))
"""


def _run(script: str, *places: Path) -> str:
    paths = os.pathsep.join([*map(str, places), str(ROOT)])
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths})
    assert out.returncode == 0, out.stderr
    return out.stdout.strip()


def test_installed_package(tmp_path: Path) -> None:
    source, place = tmp_path / "source", tmp_path / "site"
    shutil.copytree(EXAMPLES / "rational-activations", source)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(place),
                    str(source)], check=True, capture_output=True)  # fmt: skip
    assert _run(USE, place) == f"{math.lgamma(6):.4f} True 0.weight,0.bias,1.numerator,1.denominator,2.weight"
    assert _run(USE, EXAMPLES / "rational-activations") == "refused True", "without its metadata a package adds no rule"
