"""Alignment: the time of moving one random network toward another by every kind of symmetry, and how much closer it comes.

    python benchmarks/alignment_speed.py                        resnet18 and resnet50
    python benchmarks/alignment_speed.py torchvision:vit_b_16   another network

Target: two ResNet-50s within 60 s on two cores. On a machine that does other things too, the processor time says more than the clock.
"""

from __future__ import annotations

import argparse
import time
import warnings

import torch
from rich.console import Console
from rich.table import Table

import paramgraph as pg
from paramgraph.models import resolve
from paramgraph.symmetries import align

NETWORKS = ("torchvision:resnet18", "torchvision:resnet50")
TARGET = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    table = Table("network", "kinds", "clock", "processor", "distance", "aligned")
    for name in options.networks:
        resolved = resolve(name)
        graph = pg.compile(resolved.model, resolved.inputs)
        a, b = (graph.with_values(random_state(graph, seed)) for seed in range(2))
        for kinds in (["permutation"], None):
            clock, processor = time.perf_counter(), time.process_time()
            found = align(a, b, kinds=kinds)
            seconds = time.perf_counter() - clock, time.process_time() - processor
            words = "all" if kinds is None else ", ".join(kinds)
            table.add_row(name, words, *(f"{s:.1f} s" for s in seconds), f"{found.before:.1f}", f"{found.after:.1f}")
    console = Console(width=120)
    console.print(table)
    console.print(f"target for resnet50, all kinds: {TARGET} s", highlight=False)


def random_state(graph: pg.ParamGraph, seed: int) -> dict[str, torch.Tensor]:
    """Weights of unit gain; gains, offsets and statistics about 1."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, value in graph.state_dict().items():
        if not value.is_floating_point():
            out[name] = value.clone()
        elif value.ndim > 1:
            out[name] = torch.randn(value.shape, generator=generator) * (value.shape[0] / value.numel()) ** 0.5
        else:
            out[name] = torch.rand(value.shape, generator=generator) + 0.5
    return out


if __name__ == "__main__":
    main()
