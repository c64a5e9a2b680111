"""timm: one small network of each of its modules, and every network that it has a name for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from architectures.base import BATCH, LARGE, Architecture, Network, image_network, installed

# Networks that are smallest by name but not what their module is about.
CHOSEN = {
    "vision_transformer": "vit_tiny_patch16_224", "resnet": "resnet26t", "efficientnet": "efficientnet_b0", "byobnet": "gernet_s",
    "convnext": "convnextv2_atto", "eva": "eva02_tiny_patch14_224", "nfnet": "dm_nfnet_f0", "regnet": "regnetz_005",
}  # fmt: skip


def architectures() -> Iterator[Architecture]:
    if not installed("timm"):
        return
    from paramgraph.models.torchvision import import_torchvision

    import_torchvision()  # timm imports it
    from timm.models import list_models, list_modules

    for module in list_modules():
        names = list_models(module=module)
        if names:
            yield Architecture(f"timm:{module}", partial(_build, module, tuple(names)))


def every() -> Iterator[Architecture]:
    """All names, to be compiled on the meta device."""
    if not installed("timm"):
        return
    from paramgraph.models.torchvision import import_torchvision

    import_torchvision()
    from timm.models import list_models

    for name in list_models():
        yield Architecture(f"timm names:{name}", partial(_named, name, -1))


def _build(module: str, names: tuple[str, ...]) -> Network:
    name = CHOSEN.get(module) or _smallest(names)
    network = _named(name, LARGE)
    network.model.__dict__["sweep_name"] = name
    return network


def _named(name: str, large: int) -> Network:
    from timm import create_model

    return image_network(partial(create_model, name), (96, 128, *_size(name)), lambda n: (torch.randn(BATCH, 3, n, n),), large)


def _size(name: str) -> tuple[int, ...]:
    """Input sizes that a network's configuration states: the least, if there is one, and its own."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    if config is None:
        return (224,)
    return tuple(int(size[-1]) for size in (config.min_input_size, config.input_size) if size)


def _smallest(names: tuple[str, ...]) -> str:
    """The network whose name promises the smallest; the first one, if none does."""
    words = ("atto", "femto", "pico", "nano", "xxs", "extra_small", "xx_small", "tiny", "mini", "_xs", "x_small", "_t", "small", "_s", "18",
             "26", "b0", "_0", "s12", "b1")  # fmt: skip
    for word in words:
        found = [name for name in names if word in name and not name.startswith("test_")]
        if found:
            return min(found, key=len)
    return names[0]
