"""Whole networks: nothing unknown, the order that is known by hand, and a group that leaves the function unchanged."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import paramgraph as pg
from paramgraph.compiler.pipeline import compile_trace
from paramgraph.compiler.trace import trace
from tests.support.cases import lam

OPTIONS: dict[str, dict[str, Any]] = {"googlenet": {"init_weights": False}}
# Input sizes for verification: small, where the network allows it.
SIZES = {"alexnet": 96, "swin_t": 224}

RESIDUAL_50 = lam(256) + lam(512) + lam(1024) + lam(2048)


def swin() -> float:
    """Stream of each stage; per block its MLP, heads (with their position tables), and two sets of 32 dimensions per head."""
    order = 0.0
    for width, heads, depth in ((96, 3, 2), (192, 6, 2), (384, 12, 6), (768, 24, 2)):
        order += lam(width) + depth * (lam(4 * width) + lam(heads) + 2 * heads * lam(32))
    return order


# ln orders by hand; None where there is no derivation: those are checked for soundness alone.
TORCHVISION: dict[str, float | None] = {
    "alexnet": lam(64) + lam(192) + lam(384) + 2 * lam(256) + 2 * lam(4096),
    "vgg11_bn": lam(64) + lam(128) + 2 * lam(256) + 4 * lam(512) + 2 * lam(4096),
    "resnet18": 13664.67,
    "resnet50": 59034.35,
    "wide_resnet50_2": RESIDUAL_50 + lam(64) + 6 * lam(128) + 8 * lam(256) + 12 * lam(512) + 6 * lam(1024),
    "resnext50_32x4d": 55775.66,
    "densenet121": 38076.8,
    "googlenet": None,
    "squeezenet1_1": None,
    "mobilenet_v2": 48622.4,
    "mobilenet_v3_small": None,
    "shufflenet_v2_x1_0": None,
    "efficientnet_b0": None,
    "regnet_y_400mf": None,
    "convnext_tiny": 178587.98,
    "vit_b_16": 322883.19,
    "swin_t": swin(),
}


# Verified by `make sweep` only (resnet50 and vit_b_16 by `make demo`, too), for the time it takes: their orders are tested, and smaller ones of their
# families are verified.
LARGE = ["vgg11_bn", "wide_resnet50_2", "resnet50", "resnext50_32x4d", "vit_b_16"]


def check(model: torch.nn.Module, inputs: Any, log_order: float | None) -> None:
    traced = trace(model, inputs)
    graph = compile_trace(traced)
    assert [str(d) for d in graph.diagnostics if d.kind == "unknown-operation"] == []
    if log_order is not None:
        assert graph.symmetry.log_order == pytest.approx(log_order, abs=0.06)
    report = pg.verify(graph, model, inputs, elements=1, inputs=1, bundles=3, leave_one_out=2, traced=traced)
    assert report.passed, str(report)
    assert report.outside_changed
    assert report.exported is not None
    assert report.exported < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TORCHVISION if name not in LARGE])
def test_torchvision(name: str, torchvision: Any) -> None:
    model = getattr(torchvision.models, name)(**OPTIONS.get(name, {})).eval()
    size = SIZES.get(name, 64)
    check(model, torch.randn(1, 3, size, size), TORCHVISION[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_meta_at_full_size(name: str, torchvision: Any) -> None:
    with torch.device("meta"):
        model = getattr(torchvision.models, name)().eval()
    graph = pg.compile(model, torch.randn(3, 3, 224, 224, device="meta"))
    assert graph.symmetry.log_order == pytest.approx(TORCHVISION[name], abs=0.06)
    assert all(value.device.type == "meta" for value in graph.values.values())


@pytest.mark.slow
def test_timm_vit() -> None:
    import timm

    from paramgraph.models.torchvision import import_torchvision

    import_torchvision()
    check(timm.create_model("vit_tiny_patch16_224").eval(), torch.randn(1, 3, 224, 224), 67678.66)
