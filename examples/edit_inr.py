"""A metanet that edits networks: it gives implicit neural representations new weights, so that they draw their image dilated.

The metanet sees weights; the loss sees the edited networks' outputs, and its gradients pass through the edited networks into the metanet.

    python examples/edit_inr.py path/to/mnist                   a folder with MNIST's IDX files (gzip)
    python examples/edit_inr.py path/to/mnist --metanet ScaleGMN --epochs 30
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from inrs import Siren, grid, population
from torch import nn
from torch.utils.data import DataLoader

from paramgraph.metanets import GMN, Editor, Population, ScaleGMN, Stack, collate, run, wrap_phases


def dilated(pictures: torch.Tensor) -> torch.Tensor:
    """Images `(n, 28, 28)` with every place as bright as the brightest of its neighbours."""
    return F.max_pool2d(pictures[:, None], 3, stride=1, padding=1)[:, 0]


def error(model: nn.Module, stack: Stack, wanted: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the images that networks draw."""
    return (run(model, stack, grid())[..., 0] - wanted.reshape(len(wanted), -1)).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("out"), help="folder for the fitted networks")
    parser.add_argument("--networks", type=int, default=3000)
    parser.add_argument("--metanet", choices=("GMN", "ScaleGMN"), default="GMN")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--rate", type=float, default=3e-3)
    options = parser.parse_args()
    stack, _, pictures = population(options.data, options.cache, options.networks)
    stack = wrap_phases(stack)  # the same images, from biases that can be compared
    wanted, model, tenth = dilated(pictures), Siren(), options.networks // 10
    torch.manual_seed(0)
    kind = {"GMN": GMN, "ScaleGMN": ScaleGMN}[options.metanet]
    extra = {"residual": True} if kind is GMN else {}
    editor = Editor(kind(options.hidden, options.layers, backend="torch", head="edge", out=1, direction="both", **extra), scale=0.01)
    test = stack.take(slice(0, tenth)), wanted[:tenth]
    with torch.no_grad():
        editor(stack.take(slice(tenth, tenth + options.batch)))  # a first batch teaches it the types, and the sizes of their values
        print(f"mean squared error against the dilated images, unedited: {error(model, *test):.4f}")
        edited = editor(test[0])
        print(f"  with the untrained editor, which is the identity:       {error(model, edited, test[1]):.4f}")
    loader = DataLoader(Population([stack.take(slice(tenth, None))], wanted[tenth:]), options.batch, shuffle=True, collate_fn=collate)
    optimiser = torch.optim.AdamW(editor.parameters(), options.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.rate, total_steps=options.epochs * len(loader))
    start = time.perf_counter()
    for epoch in range(options.epochs):
        for (drawn,), targets in loader:
            optimiser.zero_grad()
            error(model, editor(drawn), targets).backward()
            nn.utils.clip_grad_norm_(editor.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            print(f"  epoch {epoch + 1:3d}: {error(model, editor(test[0]), test[1]):.4f}   {time.perf_counter() - start:5.0f} s", flush=True)


if __name__ == "__main__":
    main()
