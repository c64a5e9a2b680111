"""The package as a whole: light to import, whole in its public names, and importing in one direction."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import paramgraph

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "dgl", "onnx", "torchvision", "timm", "networkx", "matplotlib", "igraph", "rich", "typer")


def modules_after(program: str) -> set[str]:
    code = f"{program}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_importing_the_package_stays_light() -> None:
    assert not modules_after("import paramgraph") & set(HEAVY)


@pytest.mark.parametrize("name", ["exchange", "metanets", "backends", "cli", "errors", "graph", "zoos"])
def test_importing_a_part_stays_light(name: str) -> None:
    assert not modules_after(f"import paramgraph.{name}") & set(HEAVY)


def test_compiling_imports_no_engine() -> None:
    loaded = modules_after("import torch, paramgraph as pg\npg.compile(torch.nn.Linear(3, 4), torch.zeros(2, 3))")
    assert not loaded & {"dgl", "onnx", "torchvision", "timm", "matplotlib", "igraph", "typer"}


def public_modules() -> list[str]:
    found = [m.name for m in pkgutil.walk_packages(paramgraph.__path__, "paramgraph.") if not m.name.endswith("__main__")]
    return ["paramgraph", *found]


@pytest.mark.parametrize("name", public_modules())
def test_every_module_imports_and_says_what_it_is(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__ and module.__doc__.strip()
    assert module.__doc__.strip().splitlines()[0].rstrip().endswith((".", ":")) or "\n" in module.__doc__


@pytest.mark.parametrize("name", [name for name in public_modules() if hasattr(importlib.import_module(name), "__all__")])
def test_every_public_name_is_there_and_documented(name: str) -> None:
    module = importlib.import_module(name)
    for public in module.__all__:
        found = getattr(module, public)
        assert public in dir(module)
        if inspect.isclass(found) or inspect.isroutine(found) or inspect.ismodule(found):
            assert inspect.getdoc(found), f"{name}.{public} has no docstring"


def test_the_names_of_the_documentation_are_public() -> None:
    assert {"compile", "verify", "load", "export", "ParamGraph", "metanets", "rule"} <= set(paramgraph.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = paramgraph.nonsense


def test_all_errors_derive_from_one() -> None:
    from paramgraph import errors

    for value in vars(errors).values():
        if inspect.isclass(value):
            assert issubclass(value, paramgraph.ParamGraphError)


LOW = [*(ROOT / "paramgraph" / "symmetries").rglob("*.py"), ROOT / "paramgraph" / "graph.py"]


@pytest.mark.parametrize("path", LOW, ids=lambda path: path.name)
def test_the_graph_and_its_symmetries_know_no_front_end(path: Path) -> None:
    banned = ("torch.export", "torch.fx", "onnx", "dgl")
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        assert not [n for n in names if any(n == b or n.startswith(f"{b}.") for b in banned)]


def test_the_declared_version_and_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert paramgraph.__version__ in (ROOT / "CHANGELOG.md").read_text()
    assert all("<" in dependency or "==" in dependency for dependency in project["dependencies"])
