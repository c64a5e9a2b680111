"""The main job from end to end: compile two real networks, verify their groups, and run a graph metanetwork over both at once.

    make demo

Compiles torchvision's resnet50 and vit_b_16 with random weights (nothing is downloaded), checks their permutation groups numerically, runs
a GMN over both graphs in one batch on the DGL backend, prints a report, and writes both graphs and a picture of each into out/.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import torch
from rich.columns import Columns
from rich.console import Console
from rich.table import Table

import paramgraph as pg
from paramgraph.models import resolve
from paramgraph.report import factors_table, summary_table, types_table

console = Console()


def main() -> None:
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    times = Table("step", *options.models, title="Times in seconds", title_justify="left", title_style="bold")
    rows: dict[str, list[str]] = {}
    graphs, passed = [], True
    for name in options.models:
        graph, report, steps = compile_and_verify(name, options)
        graphs.append(graph)
        passed = passed and report.passed
        for step, seconds in steps.items():
            rows.setdefault(step, []).append(f"{seconds:.1f}")
    scores, seconds = run_metanet(graphs, options)
    for step, cells in rows.items():
        times.add_row(step, *cells)
    times.add_row("GMN over both", f"{seconds:.1f}", *[""] * (len(graphs) - 1))
    console.print(times)
    for graph, score in zip(graphs, scores, strict=True):
        console.print(f"GMN score of {graph.name}: {score:+.4f} (an untrained metanet: the number only shows that it ran)", highlight=False)
    written = ", ".join(str(path) for path in sorted(options.out.iterdir()))
    console.print(f"written: {written}", highlight=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    console.print(f"peak memory {peak:.1f} GiB, {time.perf_counter() - start:.0f} s in all", highlight=False)
    if not passed:
        raise SystemExit("verification failed: see the problems above")


def compile_and_verify(name: str, options: argparse.Namespace) -> tuple[pg.ParamGraph, Any, dict[str, float]]:
    """Compile, verify, print, write; gives the graph, the verification's report, and seconds per step."""
    steps: dict[str, float] = {}
    short = name.rpartition(":")[2]
    console.rule(f"[bold]{name}", align="left")
    with _timed(steps, "build model"):
        resolved = resolve(name)
    with _timed(steps, "compile"):
        graph = pg.compile(resolved.model, resolved.inputs, name=short)
    console.print(summary_table(graph))
    tables = [types_table(graph.node_sets.values(), "Nodes by type"), types_table(graph.edge_sets.values(), "Edges by type")]
    console.print(Columns(tables, padding=(0, 3)))
    console.print(factors_table(graph))

    with _timed(steps, "verify"), console.status("verifying") as status:
        report = pg.verify(
            graph,
            resolved.model,
            resolved.inputs,
            elements=options.elements,
            inputs=options.inputs,
            leave_one_out=options.leave_one_out,
            progress=lambda done, total, what: status.update(f"verifying {short}: {done}/{total} {what}"),
        )
    checks = Table("check", "covered", "result", title="Verification in float64", title_justify="left", title_style="bold")
    for row in report.rows():
        checks.add_row(*row)
    console.print(checks)
    verdict = "[bold green]passed[/]" if report.passed else "[bold red]FAILED[/]"
    console.print(f"{verdict}: worst relative deviation {report.max_deviation:.1e}, tolerance {report.tolerance:.0e}", highlight=False)
    for problem in report.problems:
        console.print(f"problem: {problem}", style="red", markup=False)

    with _timed(steps, "save and draw"):
        graph.save(options.out / f"{short}.pgraph")
        pg.export(graph, options.out / f"{short}.png")
    return graph, report, steps


def run_metanet(graphs: list[pg.ParamGraph], options: argparse.Namespace) -> tuple[list[float], float]:
    """A GMN over all graphs in one batch: one number per network."""
    console.rule(f"[bold]GMN over {' and '.join(g.name for g in graphs)}, backend {options.backend}", align="left")
    torch.manual_seed(0)
    start = time.perf_counter()
    metanet = pg.metanets.GMN(hidden=options.hidden, layers=options.layers, backend=options.backend)
    edges = sum(graph.num_edges for graph in graphs)
    with torch.no_grad(), console.status(f"running {options.layers} layers of width {options.hidden} over {edges:,} edges"):
        scores = metanet(graphs)
    return scores.reshape(-1).tolist(), time.perf_counter() - start


class _timed:
    """Adds the seconds that a block takes to a dict."""

    def __init__(self, steps: dict[str, float], step: str) -> None:
        self.steps, self.step = steps, step

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.steps[self.step] = time.perf_counter() - self.start


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for graphs and pictures")
    parser.add_argument("--models", nargs="+", default=["torchvision:resnet50", "torchvision:vit_b_16"])
    parser.add_argument("--backend", default="dgl")
    parser.add_argument("--hidden", type=int, default=8)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--elements", type=int, default=1, help="random group elements per factor and input")
    parser.add_argument("--inputs", type=int, default=1, help="random inputs")
    parser.add_argument("--leave-one-out", type=int, default=4, help="tensors left out of the action, one at a time")
    return parser.parse_args()


if __name__ == "__main__":
    main()
