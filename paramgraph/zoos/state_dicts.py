"""Any population of state dicts, with what stands about each in its path, beside it in JSON or CSV files, or in the file itself."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from paramgraph.compiler import compile
from paramgraph.errors import ParamGraphError, UnknownNameError
from paramgraph.graph import ParamGraph
from paramgraph.zoos.checkpoints import Checkpoints, facts, state_dict
from paramgraph.zoos.gather import Found, gather, label_in
from paramgraph.zoos.metadata import Metadata, Source
from paramgraph.zoos.paths import folder_of, listed, relative
from paramgraph.zoos.population import Zoo
from paramgraph.zoos.progress import tracked
from paramgraph.zoos.tables import Rows, Where, chosen, column_of, columns, taken

Facts = dict[str, Any]


def read_state_dicts(
    folder: str | Path,
    model: nn.Module | ParamGraph | Callable[[Facts], nn.Module],
    inputs: Any = None,
    *,
    by: Sequence[str] = (),
    pattern: str | Sequence[str] | None = None,
    key: str | None = None,
    metadata: Source = None,
    label: str | re.Pattern[str] | Callable[[str], Any] | None = None,
    rows: Rows | None = None,
    where: Where | None = None,
    on_error: str = "raise",
    progress: bool | None = None,
) -> Zoo:
    """State dicts of a folder, e.g. a model zoo in the folders of Ray Tune.

        zoo = paramgraph.zoos.read_state_dicts(
            "tune_zoo_mnist", lambda facts: CNN(facts["model::nlin"]), torch.zeros(5, 1, 28, 28), by=["model::nlin"],
            pattern="*/checkpoint_000050/checkpoints", metadata=["params.json", "result.json"], label="test_acc",
        )

    The table has `path`, the metadata with dots between nested names, and the numbers and text in the files themselves.

    Args:
        folder: of the files.
        model: the network; or its graph; or a function that gives the network for the values of the columns `by`. It is compiled in eval mode.
        inputs: example inputs as for `paramgraph.compile`, or a function of the same values that gives them.
        by: columns that decide about the architecture.
        pattern: of the files, relative to the folder; by default all `.pt`, `.pth` and `.safetensors`.
        key: where in the files the state dict stands, with dots between nested keys; by default it is looked for.
        metadata: what is known of a file: names of JSON or CSV files beside it or in a folder above, nearest first, or a function of its path. Of
            JSON with one object per line, the one is taken whose `training_iteration` is the last number in the path. A CSV file has a column
            `path`, `file`, `filename`, `name` or `id` with the paths from its folder, or the ends of them, with or without suffix.
        label: a column; a compiled pattern with one group, searched in the path; or a function of the path. By default networks' numbers.
        rows: some of the files, in natural order of their paths: a slice, numbers or a mask.
        where: a function of the table of paths and metadata that says which files to read.
        on_error: "raise", or "skip" files that are damaged; `zoo.skipped` lists them, and a warning counts them.
        progress: a bar on standard error; by default where that is a terminal.

    Raises:
        FileFormatError: a file is damaged or does not fit the network; it says which.
        UnknownNameError: no such column, rows that do not fit, or a function without `by`.
        TraceError: the network cannot be compiled.
    """
    root = folder_of(folder)
    several = callable(model) and not isinstance(model, (nn.Module, ParamGraph))
    if several and not by:
        raise UnknownNameError("expected `by`, the columns that a function needs to give the network, e.g. by=['model::nlin'].")
    if inputs is None and not isinstance(model, ParamGraph):
        raise UnknownNameError("expected example inputs to compile the network with, as `inputs`.")
    one = None if several else _compiled(model, inputs)
    files = listed(root, pattern)
    about = _about(tracked(files, "reading metadata", progress), Metadata(root, metadata))
    table = {"path": relative(files, root), **columns([{} if isinstance(found, ParamGraphError) else found for found in about])}
    numbers = chosen(len(files), table, rows, where)
    checkpoint = Checkpoints()

    def read(path: Path, number: int) -> Found:
        known = about[numbers[number]]
        if isinstance(known, ParamGraphError):
            raise known
        content = checkpoint(path)
        row = {**facts(content), **known}
        state = state_dict(content, key)
        found = _label(table["path"][numbers[number]], label, row)
        if one is not None:
            return Found((), lambda: one, state, found, row)
        chosen_by = _Chosen((name, column_of(row, name, "the metadata")) for name in by)
        architecture = tuple(repr(value) for value in chosen_by.values())

        def build() -> tuple[ParamGraph, nn.Module | None]:
            return _compiled(model(chosen_by), inputs(chosen_by) if callable(inputs) else inputs)  # type: ignore[operator]

        return Found(architecture, build, state, found, row)

    return gather([files[number] for number in numbers], {"path": taken(table, numbers)["path"]}, read, on_error, progress, "state dicts")


class _Chosen(Facts):
    """What decides about an architecture: a function that looks at more would give one network for several."""

    def __missing__(self, name: str) -> Any:
        raise UnknownNameError(f"the function of the network looks at {name!r}, which is not among `by`, {list(self)}. Add it there.")


def _about(files: Iterable[Path], metadata: Metadata) -> list[Facts | ParamGraphError]:
    """What is known of each file; an error where that cannot be read, which counts when the file's turn comes."""
    found: list[Facts | ParamGraphError] = []
    for path in files:
        try:
            found.append(metadata(path))
        except ParamGraphError as error:
            found.append(error)
    return found


def _compiled(model: Any, inputs: Any) -> tuple[ParamGraph, nn.Module | None]:
    if isinstance(model, ParamGraph):
        return model, None
    if not isinstance(model, nn.Module):
        raise UnknownNameError(f"expected a network, a graph, or a function that gives a network; got {type(model).__name__}.")
    own = copy.deepcopy(model).eval()  # the caller's keeps its mode
    return compile(own, inputs), own


def _label(path: str, label: Any, row: Mapping[str, Any]) -> Any:
    if label is None:
        return None
    if isinstance(label, str):
        return column_of(row, label, "the metadata")
    if isinstance(label, re.Pattern):
        return label_in(path, label)
    return label(path)
