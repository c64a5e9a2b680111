"""The Small CNN Zoo of Unterthiner et al. 2020: one matrix of weights, one table of metrics, one of the layout.

`weights.npy` has a row per checkpoint, `layout.csv` says which columns are which tensor, in TensorFlow's order of axes, and `metrics.csv.gz` has
the hyperparameters and accuracies of each row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from paramgraph.compiler import compile
from paramgraph.errors import FileFormatError, first_line
from paramgraph.graph import ParamGraph
from paramgraph.metanets.stack import Stack
from paramgraph.zoos.gather import check_on_error, numbered, report, unlike
from paramgraph.zoos.paths import folder_of
from paramgraph.zoos.population import Zoo
from paramgraph.zoos.progress import tracked
from paramgraph.zoos.tables import Rows, Where, chosen, column_of, read_csv, taken

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "selu": torch.selu}

# Rows of the matrix that are in memory beside the tensors they become: 20 MB.
_AT_ONCE = 1024

# Axes of a tensor in torch's order, of many networks: kernels are HWIO, dense layers (in, out).
_AXES = {5: (0, 4, 3, 1, 2), 3: (0, 2, 1), 2: (0, 1)}


class SmallCNN(nn.Module):
    """Convolutions without padding, the mean over the image, and a linear layer."""

    def __init__(
        self, channels: Sequence[int] = (1, 16, 16, 16), outputs: int = 10, activation: str = "relu", kernel: int = 3, stride: int = 2
    ) -> None:
        """A network with random values.

        Args:
            channels: of the image and of each convolution.
            outputs: of the linear layer.
            activation: relu, tanh, sigmoid or selu, after each convolution.
            kernel: height and width of the kernels.
            stride: of the convolutions.
        """
        super().__init__()
        self.activation = activation
        pairs = zip(channels[:-1], channels[1:], strict=True)
        self.convs = nn.ModuleList(nn.Conv2d(inputs, outs, kernel, stride) for inputs, outs in pairs)
        self.dense = nn.Linear(channels[-1], outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images `(batch, channels, height, width)` to scores `(batch, outputs)`."""
        for conv in self.convs:
            x = ACTIVATIONS[self.activation](conv(x))
        out: torch.Tensor = self.dense(x.mean(dim=(2, 3)))
        return out


@dataclass(frozen=True)
class _Part:
    """One tensor: its name in the network, its columns, and its shape in TensorFlow's order."""

    name: str
    start: int
    end: int
    shape: tuple[int, ...]

    def read(self, block: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Of some rows, in torch's order."""
        values = block[:, self.start : self.end].reshape(len(block), *self.shape)
        return values.transpose(_AXES[values.ndim])


def read_small_cnns(
    folder: str | Path,
    *,
    step: int | None = 86,
    activation: str | None = None,
    rows: Rows | None = None,
    where: Where | None = None,
    label: str | None = "test_accuracy",
    stride: int = 2,
    on_error: str = "raise",
    progress: bool | None = None,
) -> Zoo:
    """Networks of the Small CNN Zoo (MNIST, Fashion-MNIST, CIFAR-10, SVHN in shades of grey), with their accuracies.

        zoo = paramgraph.zoos.read_small_cnns("cifar10", where=lambda table: table["test_accuracy"] > 0.4)

    The matrix is mapped, and only the rows that are chosen are read. The table has the columns of `metrics.csv.gz`, and `row`, the row in
    `weights.npy`. Each activation is an architecture of its own.

    Args:
        folder: with `weights.npy`, `metrics.csv.gz` and `layout.csv`.
        step: epoch of the checkpoints, 0 to 86; None for all.
        activation: "relu" or "tanh"; None for all.
        rows: some of the rows that meet the other conditions: a slice, numbers or a mask.
        where: a function of the table of all rows that says which to read.
        label: column of the labels; None for none.
        stride: of the convolutions, which the files do not tell.
        on_error: "raise", or "skip" rows that are not finite; `zoo.skipped` lists them, and a warning counts them.
        progress: a bar on standard error; by default where that is a terminal.

    Raises:
        FileFormatError: a file is missing, damaged, or does not fit the others.
        UnknownNameError: no such column, or rows that do not fit.
    """
    check_on_error(on_error)
    root = folder_of(folder)
    table = read_csv(next((root / name for name in ("metrics.csv.gz", "metrics.csv") if (root / name).is_file()), root / "metrics.csv.gz"), progress)
    table.pop("", None)  # the index that pandas writes
    count = len(next(iter(table.values())))
    parts, channels, kernel = _layout(root / "layout.csv", _mapped(root / "weights.npy", count).shape[1])
    table["row"] = np.arange(count)
    activations = column_of(table, "config.activation", "metrics.csv.gz")
    met = np.ones(count, bool)
    if step is not None:
        met &= column_of(table, "step", "metrics.csv.gz") == step
    if activation is not None:
        met &= activations == activation
    if where is not None:
        met[np.setdiff1d(np.arange(count), chosen(count, table, None, where))] = False
    numbers = chosen(count, table, rows, lambda _: met)
    if not len(numbers):
        found = f"steps {np.unique(table['step']).tolist()}, " if "step" in table else ""
        raise FileFormatError(f"{root}: expected rows that meet the conditions, found none of {count}; there are {found}{set(activations.tolist())}.")
    labels = None if label is None else column_of(table, label, "metrics.csv.gz")

    if unknown := set(activations[numbers].tolist()) - set(ACTIVATIONS):
        raise FileFormatError(f"metrics.csv.gz: expected activations among {', '.join(ACTIVATIONS)}; got {sorted(map(str, unknown))}.")

    stacks: list[Stack] = []
    models: list[nn.Module] = []
    skipped: list[str] = []
    place_of: dict[int, tuple[int, int]] = {}
    for kind in sorted(set(activations[numbers].tolist())):
        model = SmallCNN(channels, parts[-1].shape[-1], kind, kernel, stride).eval()
        batch = unlike({*channels, kernel, stride})
        graph = compile(model, torch.zeros(batch, channels[0], 29, 29), name=f"small cnn, {kind}")
        wanted = numbers[activations[numbers] == kind]
        values, kept = _read(root / "weights.npy", parts, graph, wanted, tracked(_blocks(wanted), f"reading small CNNs, {kind}", progress))
        bad = np.setdiff1d(wanted, kept).tolist()
        if bad and on_error == "raise":
            raise FileFormatError(f"{_unfit(root, bad[0])} Pass on_error='skip' to leave such networks out.")
        skipped += [_unfit(root, row) for row in bad]
        if kept:
            place_of.update((row, (len(stacks), place)) for place, row in enumerate(kept))
            stacks.append(Stack(graph, values))
            models.append(model)
    report(skipped, len(numbers), "rows")
    order = np.array([row for row in numbers.tolist() if row in place_of])
    given, classes = (None, []) if labels is None else numbered(labels[order].tolist())
    return Zoo(stacks, [place_of[row] for row in order.tolist()], given, taken(table, order), models, classes, skipped)


def _read(
    path: Path, parts: Sequence[_Part], graph: ParamGraph, wanted: np.ndarray[Any, Any], blocks: Iterable[np.ndarray[Any, Any]]
) -> tuple[dict[str, torch.Tensor], list[int]]:
    """Values of the networks whose weights are finite, and the rows of those."""
    values = {name: torch.empty(len(wanted), *value.shape) for name, value in graph.values.items()}
    kept: list[int] = []
    for block in blocks:
        # Mapped anew: what a map has touched counts as this process's memory as long as it is open.
        content = np.load(path, mmap_mode="r")[block]
        finite = np.isfinite(content).all(axis=1)
        if not finite.all():
            content, block = content[finite], block[finite]
        for part in parts:
            values[part.name][len(kept) : len(kept) + len(block)].copy_(torch.from_numpy(part.read(content)))
        kept += block.tolist()
    return {name: value[: len(kept)] for name, value in values.items()}, kept


def _unfit(root: Path, row: int) -> str:
    return f"{root / 'weights.npy'}, row {row}: expected finite weights, got NaN or infinities."


def _blocks(numbers: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    return [numbers[start : start + _AT_ONCE] for start in range(0, len(numbers), _AT_ONCE)]


def _mapped(path: Path, count: int) -> np.ndarray[Any, Any]:
    try:
        weights: np.ndarray[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FileFormatError(f"{path}: expected a matrix in numpy's format, but it cannot be read ({first_line(error)}).") from error
    if weights.ndim != 2 or weights.dtype.kind != "f" or len(weights) != count:
        raise FileFormatError(
            f"{path}: expected a matrix of floating-point numbers with the {count} rows of metrics.csv.gz, got {weights.dtype} of shape "
            f"{weights.shape}. Are the files of one data set?"
        )
    return weights


def _layout(path: Path, width: int) -> tuple[list[_Part], list[int], int]:
    """The tensors, kernels and biases of convolutions and then of a dense layer; channels; and the size of the kernels."""
    table = read_csv(path)
    names, starts, ends, shapes = (column_of(table, name, "layout.csv") for name in ("varname", "start_idx", "end_idx", "shape"))
    if starts.dtype.kind != "i" or ends.dtype.kind != "i":
        raise FileFormatError(f"{path}: expected numbers of columns in start_idx and end_idx, got {starts[:3].tolist()} and {ends[:3].tolist()}.")
    entries = []
    for varname, start, end, text in zip(names, starts, ends, shapes, strict=True):
        shape = tuple(int(size) for size in re.findall(r"\d+", str(text)))
        layer, _, kind = str(varname).split(":")[0].rpartition("/")
        if prod(shape) != end - start or kind not in ("kernel", "bias"):
            raise FileFormatError(f"{path}: expected a kernel or bias as large as its columns, got {varname} of {shape}, {start} to {end}.")
        entries.append((int(start), int(end), layer, kind, shape))
    entries.sort()
    bounds = [0, *(end for _, end, *_ in entries)]
    if [start for start, *_ in entries] != bounds[:-1] or bounds[-1] != width:
        raise FileFormatError(f"{path}: expected tensors that cover the {width} columns of weights.npy without gaps, got bounds {bounds}.")
    kernels = {layer: shape for _, _, layer, kind, shape in entries if kind == "kernel"}
    if len(kernels) < 2:
        raise FileFormatError(f"{path}: expected kernels of convolutions and of a dense layer, got {kernels}.")
    *convs, dense = kernels.values()
    channels = [convs[0][2] if convs and len(convs[0]) == 4 else 0, *(shape[-1] for shape in convs)]
    sizes = {size for shape in convs for size in shape[:2]}
    chained = all(len(shape) == 4 and shape[2] == inputs for shape, inputs in zip(convs, channels, strict=False)) and dense[:-1] == (channels[-1],)
    biased = {layer: shape for _, _, layer, kind, shape in entries if kind == "bias"} == {layer: shape[-1:] for layer, shape in kernels.items()}
    if not (convs and chained and biased and len(sizes) == 1):
        raise FileFormatError(f"{path}: expected square convolutions and one dense layer, with biases, in a chain; got {kernels}.")
    new = {layer: f"convs.{number}" for number, layer in enumerate(kernels)} | {list(kernels)[-1]: "dense"}
    parts = [
        _Part(f"{new[layer]}.{'weight' if kind == 'kernel' else 'bias'}", start, end, shape) for start, end, layer, kind, shape in entries
    ]
    return parts, channels, sizes.pop()
