"""Networks by name: what resolves, with inputs of which sizes, and what unknown names say."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from paramgraph.errors import UnknownNameError
from paramgraph.models import parse_shape, resolve


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("torchvision:resnet18", [(2, 3, 224, 224)]),
        ("torchvision:inception_v3", [(2, 3, 299, 299)]),
        ("torchvision:vit_h_14", [(2, 3, 224, 224)]),
        ("torchvision:efficientnet_b3", [(2, 3, 300, 300)]),
        ("torchvision:regnet_y_400mf", [(2, 3, 224, 224)]),
        ("torchvision:fcn_resnet50", [(2, 3, 224, 224)]),
        ("torchvision:r3d_18", [(2, 3, 16, 112, 112)]),
        ("torchvision:raft_small", [(2, 3, 128, 128)] * 2),
        ("timm:vit_tiny_patch16_224", [(2, 3, 224, 224)]),
        ("timm:inception_v4", [(2, 3, 299, 299)]),
    ],
)
def test_input_sizes_come_from_the_models_configuration(name: str, shapes: list[tuple[int, ...]]) -> None:
    resolved = resolve(name, meta=True)
    assert isinstance(resolved.model, nn.Module) and resolved.inputs is not None
    assert [tuple(x.shape) for x in resolved.inputs] == shapes
    assert all(x.device.type == "meta" for x in [*resolved.inputs, *resolved.model.parameters()])
    assert not resolved.model.training


def test_options() -> None:
    shapes = [parse_shape("3,3,64,64")]
    resolved = resolve("torchvision:resnet18", shapes=shapes, train=True)
    assert isinstance(resolved.model, nn.Module) and resolved.inputs is not None
    assert resolved.model.training and resolved.inputs[0].shape == (3, 3, 64, 64)
    assert resolve("torchvision:resnet18", meta=True, batch=5).inputs[0].shape[0] == 5  # type: ignore[index]


def test_weights_are_random_and_repeatable_and_leave_the_generator_alone() -> None:
    state = torch.get_rng_state()
    models = [resolve("timm:resnet10t", seed=seed).model for seed in (0, 0, 1)]
    first, again, other = (m.state_dict()["conv1.0.weight"] for m in models if isinstance(m, nn.Module))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("userpackage")
    module.network = lambda: nn.Linear(3, 4)  # type: ignore[attr-defined]
    module.pair = lambda: (nn.Linear(3, 4), torch.zeros(2, 3))  # type: ignore[attr-defined]
    module.instance = nn.Linear(3, 4)  # type: ignore[attr-defined]
    module.wrong = lambda: 5  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "userpackage", module)
    return module


def test_factories(package: ModuleType) -> None:
    shape = [parse_shape("2,3")]
    assert isinstance(resolve("userpackage:network", shapes=shape).model, nn.Linear)
    assert resolve("userpackage:pair").inputs[0].shape == (2, 3)  # type: ignore[index]
    assert resolve("userpackage:instance", shapes=shape).model is package.instance
    assert isinstance(resolve("torch.nn:Identity", shapes=shape).model, nn.Identity)


def test_a_module_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_nets.py").write_text("from torch import nn\ndef net():\n    return nn.Linear(3, 4)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert isinstance(resolve("my_own_nets:net", shapes=[parse_shape("2,3")]).model, nn.Linear)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.pt2"
    torch.export.save(torch.export.export(nn.Linear(3, 4), (torch.zeros(2, 3),)), path)
    resolved = resolve(str(path))
    assert resolved.model == path and resolved.inputs is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnet5", r"unknown torchvision model 'resnet5'\. Did you mean .*torchvision:resnet50"),
        ("timm:vit_tinny_patch16_224", r"unknown timm model .*Did you mean .*timm:vit_tiny_patch16_224"),
        ("timm:resnet50.no_such_tag", "no configuration 'no_such_tag'"),
        ("resnet50", "unknown model 'resnet50': expected torchvision:NAME.*For example torchvision:resnet50"),
        ("torchvision:", "unknown model 'torchvision:'"),
        ("nosuchpackage.nets:net", "there is no module 'nosuchpackage'"),
        ("torch.nn:Linnear", "Did you mean torch.nn:Linear"),
        ("userpackage:wrong", "expected an nn.Module.*got int"),
        ("userpackage:network", "pass --input-shape"),
        ("nothing.pt2", "there is no such file"),
        ("nothing/here", "there is no such file"),
    ],
)
def test_unknown_names(name: str, message: str, package: ModuleType) -> None:
    with pytest.raises(UnknownNameError, match=message):
        resolve(name)


def test_files_of_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"")
    with pytest.raises(UnknownNameError, match=r"expected a \.pt2 file .*\.onnx file"):
        resolve(str(tmp_path / "a.pth"))


def test_shapes() -> None:
    assert parse_shape("2,3,224,224") == ((2, 3, 224, 224), torch.float32)
    assert parse_shape("2x16:int64") == ((2, 16), torch.int64)
    assert parse_shape("7:bool") == ((7,), torch.bool)
    for wrong in ("2,b", "2:float99", "0,3", "-1"):
        with pytest.raises(UnknownNameError, match="unknown input shape"):
            parse_shape(wrong)


def test_integer_inputs_are_small() -> None:
    tokens = resolve("torch.nn:Identity", shapes=[parse_shape("2,9:int64")]).inputs[0]  # type: ignore[index]
    assert tokens.dtype == torch.int64 and set(tokens.unique().tolist()) <= {0, 1}
