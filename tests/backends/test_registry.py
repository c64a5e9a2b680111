"""Backends by name."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
import torch

from paramgraph.backends import backend_names, get_backend, register_backend, registry
from paramgraph.backends.torch import TorchBackend
from paramgraph.errors import MissingDependencyError, RuleError, UnknownNameError


@pytest.fixture(autouse=True)
def restored_registry(monkeypatch):
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))


def plug_in(monkeypatch, **values):
    points = [EntryPoint(name, value, registry.ENTRY_POINT_GROUP) for name, value in values.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)


def test_known_names():
    assert {"dgl", "pyg", "torch"} <= set(backend_names())
    assert get_backend("torch").name == "torch"


def test_an_instance_is_handed_through():
    backend = TorchBackend()
    assert get_backend(backend) is backend


def test_unknown_names_are_answered_with_those_known():
    with pytest.raises(UnknownNameError, match="unknown backend 'jax'; known are dgl, pyg, torch"):
        get_backend("jax")
    with pytest.raises(UnknownNameError, match="combine"):
        get_backend(3)


def test_registering_and_duplicates():
    register_backend("mine", TorchBackend)
    assert isinstance(get_backend("mine"), TorchBackend)
    for taken in ("mine", "dgl"):
        with pytest.raises(RuleError, match=f"backend '{taken}' is registered already"):
            register_backend(taken, TorchBackend)


def test_entry_points(monkeypatch):
    plug_in(monkeypatch, theirs="paramgraph.backends.torch:TorchBackend")
    assert "theirs" in backend_names()
    assert isinstance(get_backend("theirs"), TorchBackend)
    with pytest.raises(RuleError, match="registered already"):
        register_backend("theirs", TorchBackend)


def test_an_entry_point_cannot_take_a_name(monkeypatch):
    plug_in(monkeypatch, torch="somewhere:Else")
    with pytest.raises(RuleError, match="somewhere:Else claims the name too"):
        get_backend("torch")


@pytest.mark.parametrize("name, module", [("dgl", "dgl"), ("pyg", "torch_geometric")])
def test_engine_missing(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'paramgraph\[{name}\]'.*backend='torch'"):
        get_backend(name)


def test_dgl_without_cuda():
    dgl = pytest.importorskip("dgl")
    try:
        dgl.graph(([0], [0])).to("cuda")
    except Exception:
        with pytest.raises(MissingDependencyError, match="cannot run on cuda.*backend='torch'"):
            get_backend("dgl").check_device(torch.device("cuda"))


@pytest.mark.parametrize("module", ["paramgraph.backends", "paramgraph.metanets", "paramgraph.backends.registry"])
def test_imports_are_light(module):
    code = f"import sys, {module}; heavy = [m for m in ('torch', 'dgl') if m in sys.modules]; assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True)
