"""The CNN Wild Park of Kofinas et al. 2024: convolutional networks that differ in depth, width, kernels, activations and residual connections.

Each file holds a state dict `model` with `layers.{i}` and `fc`, and the `config` that it was built from, beside the optimiser's state. What pickles
say of the configuration is read without its classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from paramgraph.compiler import compile
from paramgraph.errors import FileFormatError, StateDictError
from paramgraph.graph import ParamGraph
from paramgraph.zoos.checkpoints import Checkpoints, plain, state_dict
from paramgraph.zoos.gather import Found, gather, unlike
from paramgraph.zoos.paths import folder_of, split_files
from paramgraph.zoos.population import Zoo
from paramgraph.zoos.tables import Rows, Where, chosen, taken

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "leaky_relu": F.leaky_relu,
    "none": lambda x: x,
}

PER_LAYER = ("kernel_size", "stride", "padding", "activation", "residual")
SPLITS = "cnn_park_splits.json"


class WildCNN(nn.Module):
    """Convolutions, each with an activation and perhaps a residual source, the mean over the image, and a linear layer.

    A residual source is the output of an earlier layer. It is added before the activation, to as many channels as both have.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        """A network with random values.

        Args:
            config: `channels`, of the image and of each layer; per layer `kernel_size`, `stride`, `padding`, `activation`, and `residual`: the
                number of its source, or -1; `n_classes`.

        Raises:
            FileFormatError: entries are missing or do not fit.
        """
        super().__init__()
        self.config = checked(config)
        channels = self.config["channels"]
        self.layers = nn.ModuleList(
            nn.Conv2d(channels[number], channels[number + 1], *sizes)
            for number, sizes in enumerate(zip(*(self.config[name] for name in PER_LAYER[:3]), strict=True))
        )
        self.fc = nn.Linear(channels[-1], self.config["n_classes"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images `(batch, channels, height, width)` to scores `(batch, classes)`."""
        outputs: list[torch.Tensor] = []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            source = self.config["residual"][number]
            if source >= 0:
                both = min(x.shape[1], outputs[source].shape[1])
                added = x[:, :both] + outputs[source][:, :both]
                x = added if both == x.shape[1] else torch.cat([added, x[:, both:]], dim=1)
            x = ACTIVATIONS[self.config["activation"][number]](x)
            outputs.append(x)
        out: torch.Tensor = self.fc(x.mean(dim=(2, 3)))
        return out


def checked(config: Any) -> dict[str, Any]:
    """The entries of a configuration that make the network.

    Raises:
        FileFormatError: entries are missing or do not fit.
    """
    wanted = ("channels", *PER_LAYER)
    if not isinstance(config, Mapping) or any(not isinstance(config.get(name), Sequence) for name in wanted):
        got = f"keys {list(config)[:12]}" if isinstance(config, Mapping) else type(config).__name__
        raise FileFormatError(f"config: expected lists {', '.join(wanted)}; got {got}.")
    found = {name: tuple(config[name]) for name in wanted}
    depth = len(found["channels"]) - 1
    if depth < 1 or any(len(found[name]) != depth for name in PER_LAYER) or config.get("n_layers", depth) != depth:
        raise FileFormatError(f"config: expected one entry per layer, and one channel more; got {found}.")
    numbers = [item for name in wanted if name != "activation" for item in found[name]]
    sources = found["residual"]
    classes = config.get("n_classes", 10)
    whole = all(isinstance(item, int) for item in (*numbers, classes))
    sizes = (*found["channels"], *found["kernel_size"], *found["stride"], classes)
    if not whole or min(sizes) < 1 or min(found["padding"]) < 0 or any(source >= number for number, source in enumerate(sources)):
        raise FileFormatError(f"config: expected sizes, and residual sources among the layers before; got {found}, n_classes {classes}.")
    if unknown := set(found["activation"]) - set(ACTIVATIONS):
        raise FileFormatError(f"config: expected activations among {', '.join(ACTIVATIONS)}; got {sorted(map(str, unknown))}.")
    return {**found, "n_classes": classes}


def read_wild_park(
    folder: str | Path,
    *,
    splits: str | Path | None = None,
    split: str | None = None,
    pattern: str | Sequence[str] | None = "**/checkpoint.pt",
    label: Callable[[str], Any] | bool | None = None,
    rows: Rows | None = None,
    where: Where | None = None,
    on_error: str = "raise",
    progress: bool | None = None,
) -> Zoo:
    """Networks of the CNN Wild Park, with their accuracies.

        zoo = paramgraph.zoos.read_wild_park("dataset", split="train", where=lambda table: table["step"] == max(table["step"]))

    The table has `path`, `step` and `score` (from the splits, else from the files), and the configurations as text. An architecture is compiled
    when its first network comes.

    Args:
        folder: of the files, at any depth.
        splits: a JSON file: per split lists `path`, `score` and `step`; by default `cnn_park_splits.json` where a split is asked for.
        split: which of them; by default all.
        pattern: of the files, where there are no splits.
        label: a function of the path, or False for none; by default the score.
        rows: some of the files: a slice, numbers or a mask.
        where: a function of the table that says which files to read: what the splits say.
        on_error: "raise", or "skip" files that are damaged; `zoo.skipped` lists them, and a warning counts them.
        progress: a bar on standard error; by default where that is a terminal.

    Raises:
        FileFormatError: a file is damaged or foreign, or has no score; it says which.
        UnknownNameError: no such split, or rows that do not fit.
    """
    root = folder_of(folder)
    files, table = split_files(root, SPLITS if splits is None and split is not None else splits, split, pattern)
    numbers = chosen(len(files), table, rows, where)
    table = taken(table, numbers)
    checkpoint = Checkpoints()

    def read(path: Path, number: int) -> Found:
        content = checkpoint(path)
        if not isinstance(content, Mapping) or "config" not in content:
            got = f"keys {[str(name) for name in content][:8]}" if isinstance(content, Mapping) else type(content).__name__
            raise FileFormatError(f"expected a checkpoint with model and config, got {got}.")
        state = state_dict(content, "model")
        config = plain(content["config"])
        if isinstance(config, dict) and "fc.bias" in state:
            config.setdefault("n_classes", len(state["fc.bias"]))
        config = checked(config)
        _check_shapes(state, config)
        result = content.get("last_result")
        result = result if isinstance(result, Mapping) else {}
        row = {
            "score": table["score"][number] if "score" in table else result.get("test/acc"),
            "step": table["step"][number] if "step" in table else content.get("iteration", result.get("training_iteration")),
            "n_layers": len(config["channels"]) - 1,
            **{name: " ".join(map(str, config[name])) for name in ("channels", *PER_LAYER)},
        }
        if label is None and not isinstance(row["score"], Real):
            raise FileFormatError("expected a score in the splits, or in last_result; none is there. Give `splits`, `label`, or label=False.")
        found = label(str(table["path"][number])) if callable(label) else None if label is False else float(row["score"])
        return Found(tuple(config.items()), lambda: _built(config), state, found, row)

    return gather([files[number] for number in numbers], table, read, on_error, progress, "CNNs")


def _check_shapes(state: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> None:
    """Before anything is made in the sizes of the configuration: weights that are not of those sizes.

    Raises:
        StateDictError: a weight has another shape.
    """
    channels = config["channels"]
    expected = {
        f"layers.{number}.weight": (channels[number + 1], channels[number], kernel, kernel) for number, kernel in enumerate(config["kernel_size"])
    }
    for name, shape in {**expected, "fc.weight": (config["n_classes"], channels[-1])}.items():
        got = tuple(state[name].shape) if name in state else "none"
        if got != shape:
            raise StateDictError(f"{name}: expected shape {shape} by its config, got {got}.")


def _built(config: Mapping[str, Any]) -> tuple[ParamGraph, nn.Module]:
    model = WildCNN(config).eval()
    batch = unlike({*config["channels"], *config["kernel_size"], config["n_classes"]})
    return compile(model, torch.zeros(batch, config["channels"][0], 29, 29), name="wild cnn"), model
