"""Implicit neural representations: sinusoidal networks of images, one file each (MNIST, Fashion-MNIST, CIFAR-10).

Layouts: `mnist_png_training_{label}_{image}/checkpoints/model_final.pth` and `fmnist_inrs/{split}/model_{image}.pth` with keys `seq.0.weight` …,
the latter with `label` beside them; `randinit_smaller_{label}s/net{image}.pth` with keys `net.0.linear.weight` ….
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from paramgraph.compiler import compile
from paramgraph.errors import FileFormatError, StateDictError
from paramgraph.graph import ParamGraph
from paramgraph.zoos.checkpoints import Checkpoints, facts, state_dict
from paramgraph.zoos.gather import Found, as_label, gather, label_in, unlike
from paramgraph.zoos.paths import folder_of, number_in, split_files
from paramgraph.zoos.population import Zoo
from paramgraph.zoos.tables import Rows, Where, chosen, taken

Layer = tuple[str, int, int]

PATHS = (r"_(\d+)_\d+/checkpoints/", r"_(\d+)s/", r"(?:^|/)(\d+)/")
"""Where labels stand in paths: MNIST's networks, CIFAR-10's, and folders that are named after them."""


class Siren(nn.Module):
    """Sines of linear layers, and a last linear layer. Sizes and names are those of a state dict."""

    def __init__(self, layers: Sequence[Layer], w0: float = 30.0, offset: float = 0.0) -> None:
        """A network with random values.

        Args:
            layers: name, inputs and outputs of each layer, as `Siren.layers_of` reads them.
            w0: frequency of the sines.
            offset: added to the output.
        """
        super().__init__()
        self.w0, self.offset = w0, offset
        self.order = [name for name, _, _ in layers]
        for name, inputs, outputs in layers:
            *parents, last = name.split(".")
            holder: nn.Module = self
            for parent in parents:
                if parent not in holder._modules:
                    holder.add_module(parent, nn.Module())
                holder = holder.get_submodule(parent)
            holder.add_module(last, nn.Linear(inputs, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Places `(…, inputs)` to values `(…, outputs)`."""
        *hidden, last = self.order
        for name in hidden:
            x = torch.sin(self.w0 * self.get_submodule(name)(x))
        out: torch.Tensor = self.get_submodule(last)(x)
        return out + self.offset if self.offset else out

    @staticmethod
    def layers_of(state: Mapping[str, torch.Tensor]) -> tuple[Layer, ...]:
        """The layers of a state dict, in the order of the numbers in their names.

        Raises:
            StateDictError: they are not a chain of linear layers with biases.
        """
        names = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
        names.sort(key=lambda name: [int(part) for part in re.findall(r"\d+", name)])
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        if not names or set(shapes) != {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}:
            raise StateDictError(f"expected a weight and a bias of each layer, as seq.0.weight and seq.0.bias; got {list(shapes)[:8]}.")
        layers: list[Layer] = []
        for name in names:
            weight, bias = shapes[f"{name}.weight"], shapes[f"{name}.bias"]
            if len(weight) != 2 or bias != weight[:1] or (layers and weight[1] != layers[-1][2]):
                raise StateDictError(f"expected linear layers, each as wide as the next one reads; got {name} of {weight} and {bias}.")
            layers.append((name, weight[1], weight[0]))
        return tuple(layers)


def read_inrs(
    folder: str | Path,
    *,
    w0: float = 30.0,
    offset: float | None = None,
    pattern: str | Sequence[str] | None = None,
    splits: str | Path | None = None,
    split: str | None = None,
    label: str | re.Pattern[str] | Callable[[str], Any] | bool | None = None,
    rows: Rows | None = None,
    where: Where | None = None,
    on_error: str = "raise",
    progress: bool | None = None,
) -> Zoo:
    """Implicit neural representations of images, with the images' classes.

        zoo = paramgraph.zoos.read_inrs("mnist-inrs", splits="mnist_splits.json", split="train")

    The table has `path`, `image` (the last number in the path), and what the splits say.

    Args:
        folder: of the files, at any depth.
        w0: frequency of the sines.
        offset: added to the output; by default 0.5 where layers are named `seq.…` (MNIST, Fashion-MNIST), else 0.
        pattern: of the files, relative to the folder; by default all `.pt`, `.pth` and `.safetensors`.
        splits: a JSON file: per split a list of paths, or lists `path` and `label`.
        split: which of them; by default all.
        label: where the class is: a regular expression with one group, searched in the path; a function of the path; False for no labels. By
            default the splits, a `label` in the file, or the paths of the published populations.
        rows: some of the files, in natural order of their paths: a slice, numbers or a mask.
        where: a function of the table that says which files to read.
        on_error: "raise", or "skip" files that are damaged; `zoo.skipped` lists them, and a warning counts them.
        progress: a bar on standard error; by default where that is a terminal.

    Raises:
        FileFormatError: a file is damaged or foreign, or has no label; it says which.
        UnknownNameError: no such split, or rows that do not fit.
    """
    root = folder_of(folder)
    files, table = split_files(root, splits, split, pattern)
    images = [number_in(path) for path in table["path"]]
    table["image"] = np.array([-1 if image is None else image for image in images])
    numbers = chosen(len(files), table, rows, where)
    table = taken(table, numbers)
    checkpoint = Checkpoints()

    def read(path: Path, number: int) -> Found:
        content = checkpoint(path)
        beside = facts(content)
        if isinstance(content, Mapping) and isinstance(content.get("label"), torch.Tensor):
            content = dict(content)
            beside["label"] = content.pop("label").item()
        state = state_dict(content)
        layers = Siren.layers_of(state)
        known = table["label"][number] if "label" in table else beside.get("label")
        found = None if label is False else _label(str(table["path"][number]), label, known)
        return Found(layers, lambda: _built(layers, w0, offset), state, found)

    zoo = gather([files[number] for number in numbers], table, read, on_error, progress, "implicit networks")
    zoo.table.pop("label", None)
    return zoo


def _label(path: str, label: Any, known: Any) -> Any:
    if callable(label):
        return label(path)
    if isinstance(label, (str, re.Pattern)):
        return label_in(path, label)
    if known is not None:
        return as_label(known) if isinstance(known, str) else known
    for pattern in PATHS:
        if found := re.search(pattern, path):
            return as_label(found.group(1))
    raise FileFormatError("expected a label in the splits, in the file or in its path; there is none. Give `label`, or label=False for none.")


def _built(layers: tuple[Layer, ...], w0: float, offset: float | None) -> tuple[ParamGraph, nn.Module]:
    if offset is None:
        offset = 0.5 if layers[0][0].startswith("seq.") else 0.0
    model = Siren(layers, w0, offset).eval()
    batch = unlike({size for _, *sizes in layers for size in sizes})
    name = "-".join(str(size) for size in (layers[0][1], *(outputs for _, _, outputs in layers)))
    return compile(model, torch.zeros(batch, layers[0][1]), name=f"siren {name}"), model
