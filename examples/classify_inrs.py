"""Which digit does a network draw? Metanets classify implicit neural representations of images by their weights alone.

Networks of layout 2-32-32-1 are fitted to images of MNIST, each from an initialisation of its own, and kept on disk. GMN, ScaleGMN and two
baselines are then trained on the same splits with the same number of steps. None of them ever sees a pixel. Phases are wrapped first: by the
annotation, a sine's bias may be moved by half periods, and all metanets read the representative that is nearest to zero.

    python examples/classify_inrs.py path/to/mnist                       a folder with MNIST's IDX files (gzip)
    python examples/classify_inrs.py path/to/mnist --networks 20000 --epochs 40 --hidden 64 --layers 3        hours; towards what is published
    python examples/classify_inrs.py path/to/mnist --raw-phases          biases as they are fitted
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from inrs import population
from torch import nn
from torch.utils.data import DataLoader

import paramgraph as pg
from paramgraph.metanets import GMN, Population, ScaleGMN, Stack, collate, wrap_phases
from paramgraph.metanets.baselines import NFN, FlatMLP

QUICK = ("MLP on all weights", "NFN (NP)", "GMN", "ScaleGMN")


def metanets(graph: pg.ParamGraph, hidden: int, layers: int, backend: str) -> dict[str, Callable[[], nn.Module]]:
    return {
        "MLP on all weights": lambda: FlatMLP(graph, 10, 256, dropout=0.2),
        "NFN (NP)": lambda: NFN(graph, 10, hidden),
        "GMN": lambda: GMN(hidden, layers, backend=backend, out=10, residual=True, direction="both", readout_norm=True),
        "ScaleGMN": lambda: ScaleGMN(hidden, layers, backend=backend, out=10, readout_norm=True),
        "ScaleGMN, both ways": lambda: ScaleGMN(hidden, layers, backend=backend, out=10, direction="both", readout_norm=True),
    }


def accuracy(net: nn.Module, stack: Stack, labels: torch.Tensor) -> float:
    net.eval()
    with torch.no_grad():
        hits = [(net(stack.take(slice(n, n + 250))).argmax(1) == labels[n : n + 250]).sum() for n in range(0, len(stack), 250)]
    return float(torch.stack(hits).sum()) / len(stack)


def calibrate(net: nn.Module, loader: DataLoader[Any]) -> None:
    """Take the statistics of batch normalisation anew: those that were kept in training are of the weights some steps before, and networks of one
    architecture differ by less than those have moved."""
    torch.optim.swa_utils.update_bn(islice(loader, 5), net)


def train(make: Callable[[], nn.Module], splits: dict[str, tuple[Stack, torch.Tensor]], options: argparse.Namespace, seed: int) -> float:
    """Test accuracy at the first epoch of the best validation accuracy."""
    torch.manual_seed(seed)
    data = Population([splits["train"][0]], splits["train"][1])
    batch = min(options.batch, len(data))
    loader = DataLoader(data, batch_size=batch, shuffle=True, drop_last=True, collate_fn=collate, num_workers=options.workers)
    net = make()
    net(next(iter(loader))[0])  # a first batch teaches it the types
    optimiser = torch.optim.AdamW(net.parameters(), options.rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.rate, total_steps=options.epochs * len(loader))
    best = tested = 0.0
    for _ in range(options.epochs):
        net.train()
        for stacks, labels in loader:
            optimiser.zero_grad()
            F.cross_entropy(net(stacks), labels).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 10.0)
            optimiser.step()
            schedule.step()
        calibrate(net, loader)
        if (found := accuracy(net, *splits["valid"])) > best:
            best, tested = found, accuracy(net, *splits["test"])
    return tested


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("out"), help="folder for the fitted networks")
    parser.add_argument("--networks", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=16)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--workers", type=int, default=0, help="of the data loader")
    parser.add_argument("--only", nargs="*", default=QUICK, metavar="NAME", help="metanets to train; also 'ScaleGMN, both ways'")
    parser.add_argument("--raw-phases", action="store_true", help="leave biases of sines as they are, several periods from zero")
    options = parser.parse_args()
    stack, labels, _ = population(options.data, options.cache, options.networks)
    stack = stack if options.raw_phases else wrap_phases(stack)
    tenth = options.networks // 10
    cuts = {"test": slice(0, tenth), "valid": slice(tenth, 2 * tenth), "train": slice(2 * tenth, None)}
    splits = {name: (stack.take(cut), labels[cut]) for name, cut in cuts.items()}
    print(f"{len(splits['train'][0])} networks to train on, {tenth} each to validate and test; {options.epochs} epochs, {options.seeds} seeds")
    for name, make in metanets(stack.graph, options.hidden, options.layers, options.backend).items():
        if name not in options.only:
            continue
        start = time.perf_counter()
        found = []
        for seed in range(options.seeds):
            found.append(100 * train(make, splits, options, seed))
            print(f"    {name}, seed {seed}: {found[-1]:.1f}%   {time.perf_counter() - start:.0f} s", flush=True)
        net = make()
        net(splits["test"][0].take(slice(0, 2)))
        count = sum(p.numel() for p in net.parameters())
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        seconds = time.perf_counter() - start
        print(f"  {name:22s} {count:9,} parameters   test accuracy {statistics.mean(found):5.1f}% ± {spread:.1f}   {seconds:6.0f} s", flush=True)


if __name__ == "__main__":
    main()
