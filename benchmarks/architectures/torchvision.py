"""torchvision: every classifier, segmentation network, video network and optical flow network; its detectors must be refused."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from architectures.base import BATCH, Architecture, Network, image_network, installed


def architectures() -> Iterator[Architecture]:
    if not installed("torchvision"):
        return
    from paramgraph.models import torchvision as library

    models = library.import_torchvision().models
    for name in models.list_models():
        if name.startswith("quantized_"):  # weights are no tensors
            continue
        family = models.get_model_builder(name).__module__.split(".")[2]
        yield Architecture(f"torchvision:{name}", partial(_build, name, family), refused=family == "detection")


def _build(name: str, family: str) -> Network:
    from paramgraph.models import torchvision as library

    make = partial(library.build, name)
    if family == "detection":
        return Network(make().eval(), ([torch.rand(3, 96, 96) for _ in range(BATCH)],))
    if family == "optical_flow":
        return Network(make().eval(), (torch.randn(BATCH, 3, 128, 128), torch.randn(BATCH, 3, 128, 128)))
    if family == "video":
        return image_network(make, (64, 112, 224), lambda n: (torch.randn(BATCH, 3, 16, n, n),))
    return image_network(make, (64, 96, 224, 256, 384, 518), lambda n: (torch.randn(BATCH, 3, n, n),))
