"""Both front ends on the same networks: the group and the typed graph from torch, and from the file that torch's exporter writes.

    python benchmarks/front_ends.py                       all networks
    python benchmarks/front_ends.py resnet18 swin_t       some of them
    python benchmarks/front_ends.py --optimize resnet18   of files whose BatchNorm is folded and whose weights are transposed

Prints, per network, ln order from torch and from the file, whether the parameters are moved in the same orbits, and whether node and edge
sets have the same types, sizes, depths and parameters. What differs is printed below the line. An optimised file has no norms to scale, and
other names for what was folded or transposed: of it, the orbits of permutations on the tensors of both are compared, and no sets.

Parameters and buffers are random: the exporter's optimiser makes one initialiser of all that are equal (gains of ones, offsets of zeros), and
what shares an initialiser moves together.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import paramgraph as pg
from paramgraph.models import resolve

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.compiler.onnx.exporting import exported, moved_together, permuted_together, types  # noqa: E402

NETWORKS = """alexnet vgg11_bn resnet18 resnet50 wide_resnet50_2 resnext50_32x4d densenet121 googlenet inception_v3 squeezenet1_1
mobilenet_v2 mobilenet_v3_small mnasnet1_0 shufflenet_v2_x1_0 efficientnet_b0 regnet_y_400mf convnext_tiny vit_b_16 swin_t""".split()
TIMM = ["timm:vit_tiny_patch16_224"]
# Input sizes other than 64: of networks that take one size, and of those that pool adaptively to more positions than smaller inputs have.
SIZES = {"alexnet": 224, "vgg11_bn": 224, "inception_v3": 96, "vit_b_16": 224, "swin_t": 224, "timm:vit_tiny_patch16_224": 224}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS + TIMM)
    parser.add_argument("--optimize", action="store_true")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    for name in chosen.networks:
        compare(name, chosen.optimize)


def compare(name: str, optimize: bool) -> None:
    start = time.perf_counter()
    model = resolve(name if ":" in name else f"torchvision:{name}").model.eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    inputs = (torch.randn(3, 3, *[SIZES.get(name, 64)] * 2),)
    ours = pg.compile(model, inputs)
    theirs = pg.compile(exported(model, inputs, optimize))
    if optimize:
        same: list[Any] = [permuted_together(ours, theirs) == permuted_together(theirs, ours), "-", "-"]
    else:
        same = [moved_together(ours) == moved_together(theirs), *(a == b for a, b in zip(types(ours), types(theirs), strict=True))]
    unknown = sorted({d.subject for d in theirs.diagnostics if d.kind == "unknown-operation"})
    print(f"{name:28} {ours.symmetry.log_order:12.2f} {theirs.symmetry.log_order:12.2f}  orbits {same[0]!s:5}  nodes {same[1]!s:5}  "
          f"edges {same[2]!s:5}  {time.perf_counter() - start:5.0f} s  {' '.join(unknown)}", flush=True)
    if not optimize:
        for mine, other in zip(types(ours), types(theirs), strict=True):
            _differences(mine, other)


def _differences(mine: Counter[Any], other: Counter[Any]) -> None:
    for what, left in (("torch", mine - other), ("file", other - mine)):
        for item, count in list(left.items())[:6]:
            print(f"    from {what} only: {count} × {item}", flush=True)


if __name__ == "__main__":
    main()
