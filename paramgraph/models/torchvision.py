"""torchvision's networks by name, with inputs of the sizes that their own configurations state."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch
from torch import nn

from paramgraph.errors import MissingDependencyError
from paramgraph.models.resolve import unknown

# What torchvision's Python part needs to know of its compiled operations in order to be imported.
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATIONS = ("nms", "qnms")


def import_torchvision() -> Any:
    """Import torchvision, also where its compiled operations do not load, as beside a torch build that it was not compiled for.

    The schemas of the operations that its import looks for are then declared; the operations stay unavailable, the networks work. Ordinary
    installations are left alone.

    Raises:
        MissingDependencyError: torchvision is not installed, or does not load for another reason.
    """
    try:
        return importlib.import_module("torchvision")
    except ImportError as error:
        raise MissingDependencyError("torchvision is not installed. Install it: pip install 'paramgraph[models]'.") from error
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise MissingDependencyError(f"torchvision does not load beside torch {torch.__version__}: {error}.") from error
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
    for name in _OPERATIONS:
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", _SIGNATURE)
    try:
        return importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        raise MissingDependencyError(f"torchvision does not load beside torch {torch.__version__}: {error}.") from error


def build(name: str) -> nn.Module:
    """A torchvision network with random weights.

    Raises:
        UnknownNameError: torchvision has no such network.
    """
    models = import_torchvision().models
    known = models.list_models()
    if name not in known:
        raise unknown(name, "torchvision model", known, "torchvision:")
    options: dict[str, Any] = {"weights": None}
    if _family(name) in ("segmentation", "detection"):
        options["weights_backbone"] = None  # otherwise it is downloaded
    model: nn.Module = models.get_model(name, **options)
    return model


def inputs(name: str, model: nn.Module, batch: int) -> tuple[Any, ...]:
    """Example inputs of the sizes that the network's configuration states."""
    family = _family(name)
    if family == "optical_flow":
        return torch.randn(batch, 3, 128, 128), torch.randn(batch, 3, 128, 128)
    if family == "detection":
        return ([torch.rand(3, 224, 224) for _ in range(batch)],)
    size = _size(name, model)
    if family == "video":
        return (torch.randn(batch, 3, 16, size, size),)
    return (torch.randn(batch, 3, size, size),)


def _family(name: str) -> str:
    """`"resnet"`, `"segmentation"`, `"detection"`, `"video"`, `"optical_flow"`, …"""
    module: str = import_torchvision().models.get_model_builder(name).__module__
    return module.split(".")[2]


def _size(name: str, model: nn.Module) -> int:
    """Height and width: what the network was built for, else what its published weights were evaluated at."""
    built_for = getattr(model, "image_size", None)
    if isinstance(built_for, int):
        return built_for
    for weights in import_torchvision().models.get_model_weights(name):
        crop = getattr(weights.transforms, "keywords", {}).get("crop_size")
        if crop is not None:
            return int(crop if isinstance(crop, int) else crop[0])
    return 224
