"""timm's networks by name, with inputs of the sizes that their own configurations state."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from paramgraph.errors import MissingDependencyError, UnknownNameError
from paramgraph.models.resolve import unknown
from paramgraph.models.torchvision import import_torchvision


def build(name: str) -> nn.Module:
    """A timm network with random weights. A tag of published weights (`name.tag`) chooses their configuration.

    Raises:
        UnknownNameError: timm has no such network.
    """
    timm = _timm()
    plain, _, tag = name.partition(".")
    if not timm.is_model(plain):
        raise unknown(plain, "timm model", timm.list_models(), "timm:")
    try:
        model: nn.Module = timm.create_model(name, pretrained=False)
    except RuntimeError as error:
        if not tag:
            raise
        raise UnknownNameError(f"timm model {plain!r} has no configuration {tag!r} ({error}).") from error
    return model


def inputs(model: nn.Module, batch: int) -> tuple[Any, ...]:
    """Example inputs of the sizes that the network's configuration states."""
    config = getattr(model, "pretrained_cfg", None) or {}
    return (torch.randn(batch, *config.get("input_size", (3, 224, 224))),)


def _timm() -> Any:
    import_torchvision()  # timm imports it
    try:
        import timm
    except ImportError as error:
        raise MissingDependencyError("timm is not installed. Install it: pip install 'paramgraph[models]'.") from error
    return timm
