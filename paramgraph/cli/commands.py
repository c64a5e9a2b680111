"""The commands. Each resolves names, calls the library, and prints what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import paramgraph
from paramgraph.cli.console import counted, err, out, step

app = typer.Typer(
    help="Neural networks as typed parameter graphs, with the group of their symmetries.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[str, typer.Argument(help="torchvision:NAME, timm:NAME, package.module:factory, or a .pt2 or .onnx file.", show_default=False)]
GraphFile = Annotated[Path, typer.Argument(help="A .pgraph file.", show_default=False)]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--input-shape", "-s", help="Shape of an input, such as 2,3,224,224 or 2,16:int64; once per input."),
]
Meta = Annotated[bool, typer.Option("--meta", help="Build the model on the meta device: structure and group without values.")]
Train = Annotated[bool, typer.Option("--train", help="Compile the model in train mode instead of eval mode.")]
Batch = Annotated[int, typer.Option(help="Batch size of the model's own example inputs.", min=2)]
Seed = Annotated[int, typer.Option(help="Seed of random weights and of random checks.")]


def _version(shown: bool) -> None:
    if shown:
        out.print(f"paramgraph {paramgraph.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    pass


@app.command()
def compile(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .pgraph file to write.", show_default=False)],
    input_shape: Shapes = None,
    meta: Meta = False,
    train: Train = False,
    batch: Batch = 2,
    seed: Seed = 0,
) -> None:
    """Compile a network into its parameter graph and save it."""
    resolved = _resolve(model, input_shape, meta, train, batch, seed)
    with step(f"compiling {model}"):
        graph = paramgraph.compile(resolved.model, resolved.inputs, name=model)
    with step(f"writing {output}"):
        graph.save(output)
    _summarise(graph)


@app.command()
def inspect(
    file: GraphFile,
    sets: Annotated[bool, typer.Option("--sets", help="List every edge set.")] = False,
    factors: Annotated[bool, typer.Option("--factors", help="List every factor of the group.")] = False,
    diagnostics: Annotated[bool, typer.Option("--diagnostics", help="List what was pinned and why, and unused parameters.")] = False,
) -> None:
    """Print what is in a graph: nodes and edges by type, and the group."""
    from paramgraph import report

    graph = paramgraph.load(file)
    _summarise(graph)
    out.print(report.types_table(graph.node_sets.values(), "Nodes by type"))
    out.print(report.types_table(graph.edge_sets.values(), "Edges by type"))
    if graph.symmetry is not None:
        out.print(report.factors_table(graph, each=factors, limit=None if factors else 12))
    if sets:
        out.print(report.sets_table(graph))
    if diagnostics:
        out.print(report.diagnostics_table(graph))


@app.command()
def verify(
    model: Model,
    graph_file: Annotated[Path | None, typer.Option("--graph", "-g", help="A .pgraph file of this model. Default: compile it.")] = None,
    input_shape: Shapes = None,
    train: Train = False,
    batch: Batch = 2,
    elements: Annotated[int, typer.Option(help="Random elements per factor and input.", min=1)] = 3,
    inputs: Annotated[int, typer.Option(help="Random inputs.", min=1)] = 3,
    leave_one_out: Annotated[int, typer.Option(help="How many tensors to leave out of the action, one at a time.", min=0)] = 16,
    seed: Seed = 0,
) -> None:
    """Check numerically that the group leaves the network unchanged, and that what is outside it does not. Exit 1 if it fails."""
    resolved = _resolve(model, input_shape, False, train, batch, seed)
    if graph_file is not None:
        graph = paramgraph.load(graph_file)
    else:
        with step(f"compiling {model}"):
            graph = paramgraph.compile(resolved.model, resolved.inputs, name=model)
    with counted(f"verifying {model}") as progress:
        report = paramgraph.verify(
            graph,
            resolved.model,
            resolved.inputs,
            elements=elements,
            inputs=inputs,
            seed=seed,
            leave_one_out=leave_one_out,
            progress=progress,
        )
    out.print(str(report), highlight=False, markup=False)
    raise typer.Exit(0 if report.passed else 1)


@app.command()
def export(
    file: GraphFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.", show_default=False)],
    to: Annotated[str | None, typer.Option("--to", help="dgl, networkx, graphml, dot, png, svg or pgraph. Default: by the suffix.")] = None,
    values: Annotated[bool, typer.Option("--values/--no-values", help="Whether to write parameter values.")] = True,
    max_edges: Annotated[int | None, typer.Option(help="Write networkx and graphml up to this many edges.")] = None,
) -> None:
    """Write a graph in another tool's format."""
    graph = paramgraph.load(file)
    name = to or output.suffix.removeprefix(".")
    options: dict[str, Any] = {}
    if name in ("dgl", "networkx", "graphml"):
        options["values"] = values
    if name in ("networkx", "graphml") and max_edges is not None:
        options["max_edges"] = max_edges
    with step(f"writing {output}"):
        paramgraph.export(graph, output, to, **options)


def _resolve(model: str, shapes: list[str] | None, meta: bool, train: bool, batch: int, seed: int) -> Any:
    with step(f"building {model}"):
        from paramgraph.models import parse_shape, resolve

        parsed = [parse_shape(text) for text in shapes] if shapes else None
        return resolve(model, shapes=parsed, meta=meta, train=train, batch=batch, seed=seed)


def _summarise(graph: Any) -> None:
    from paramgraph.report import summary_table

    out.print(summary_table(graph))
    unknown = [item for item in graph.diagnostics if item.kind == "unknown-operation"]
    for item in unknown:
        err.print(f"[yellow]warning:[/] {item}", highlight=False)
