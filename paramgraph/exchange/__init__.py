"""Exchange: saving and loading graphs, and exporting them to other tools' formats.

| format     | what is written                                               | back                       |
|------------|---------------------------------------------------------------|----------------------------|
| `pgraph`   | everything, in one safetensors file                           | `paramgraph.load`          |
| `dgl`      | a heterogeneous graph, in DGL's own file format               | `exchange.dgl.load`        |
| `networkx` | a multigraph, as node-link JSON                               | `exchange.networkx.load`   |
| `graphml`  | a multigraph, as GraphML                                      | `exchange.graphml.load`    |
| `dot`      | the sets, as DOT text for graphviz                            | –                          |
| `png`, `svg` | a picture of the sets                                       | –                          |

Importing this package imports neither torch nor any of these tools.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramgraph.errors import UnknownNameError

if TYPE_CHECKING:
    from paramgraph.graph import ParamGraph

__all__ = ["FORMATS", "export", "load"]

# Per format, the function `(graph, path, **options)` that writes it.
FORMATS: dict[str, str] = {
    "pgraph": "paramgraph.exchange.pgraph:save",
    "dgl": "paramgraph.exchange.dgl:save",
    "networkx": "paramgraph.exchange.networkx:save",
    "graphml": "paramgraph.exchange.graphml:save",
    "dot": "paramgraph.exchange.dot:save",
    "png": "paramgraph.exchange.picture:save",
    "svg": "paramgraph.exchange.picture:save",
}


def load(path: str | Path, *, device: Any = "cpu") -> ParamGraph:
    """Read a `.pgraph` file. No code in it is ever executed.

    Args:
        path: a file written by `graph.save`.
        device: where the values go. Values saved from the meta device come back on the meta device.

    Raises:
        FileFormatError: the file is missing, truncated, foreign, of a newer version, or contradicts itself.
    """
    from paramgraph.exchange.pgraph import load as read

    return read(path, device=device)


def export(graph: ParamGraph, path: str | Path, to: str | None = None, **options: Any) -> Path:
    """Write a graph in another tool's format. The file is written whole or not at all.

    Args:
        graph: the graph.
        path: the file to write; an existing file is replaced.
        to: one of `FORMATS`; None takes the format from the suffix of `path`.
        options: those of the format, e.g. `values=False` or `max_edges=…` of `networkx` and `graphml`.

    Returns:
        The path written.

    Raises:
        UnknownNameError: no format has this name.
        FileFormatError: the graph cannot be written in this format, or not to this path.
        MissingDependencyError: the format's tool is not installed.
    """
    path = Path(path)
    name = to if to is not None else path.suffix.removeprefix(".")
    if name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownNameError(f"unknown export format {name!r}; known are {', '.join(FORMATS)}.{hint}")
    if name in ("png", "svg"):
        options["format"] = name
    module, function = FORMATS[name].split(":")
    getattr(import_module(module), function)(graph, path, **options)
    return path
