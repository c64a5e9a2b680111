"""Time and memory of everything after tracing (lowering, typing, group, graph), beside those of torch.export in the same run.

    make bench                                      all networks
    make bench ARGS="--repeats 9 resnet50"          some of them, more often

Targets: time within 10% of torch.export's (of the whole trace for models on the meta device), memory no more than 20 MB beyond the
model. Tracing is torch.export and then its
`run_decompositions({})`, which makes the program functional. Every number is the median of the repeats; one run before them warms up.
Memory is measured in a run of its own, since tracing allocations takes time: `held` is what the graph holds when it is done, `peak` the
most that was held on the way (Python and numpy, by tracemalloc), `RSS` the growth of the whole process.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
import tracemalloc
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from llama import Llama
from rich.console import Console
from rich.table import Table
from torch import nn

from paramgraph.compiler.pipeline import compile_trace
from paramgraph.compiler.trace import trace
from paramgraph.graph import ParamGraph
from paramgraph.models import resolve

TIME, MEMORY = 0.10, 20.0
MB = 1e6
COLUMNS = ("parameters", "operations", "torch.export", "decompose", "after tracing", "of export", "of trace", "held", "peak", "RSS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ", ".join(NETWORKS)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), help=f"of {known}, or any torchvision:NAME or timm:NAME")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--check", action="store_true", help="exit 1 if a target is missed")
    options = parser.parse_args()
    console = Console(width=150)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, medians of {options.repeats}", highlight=False)
    table = Table("network", *COLUMNS)
    for column in table.columns[1:]:
        column.justify = "right"
    missed = []
    for name in options.networks:
        with console.status(name):
            ratio, memory, row = measure(name, options.repeats)
        table.add_row(name, *row)
        console.print(f"{name}: " + ", ".join(f"{title} {cell}" for title, cell in zip(COLUMNS, row, strict=True)), highlight=False)
        if ratio > TIME or memory > MEMORY:
            missed.append(name)
    console.print(table)
    verdict = f"missed by {', '.join(missed)}" if missed else "met"
    console.print(f"targets: after tracing ≤ {TIME:.0%} of torch.export (on meta: of the trace), held ≤ {MEMORY:.0f} MB: {verdict}", highlight=False)
    if missed and options.check:
        raise SystemExit(1)


def measure(name: str, repeats: int) -> tuple[float, float, list[str]]:
    """Ratio of times, MB held, and a row of the table."""
    model, inputs = NETWORKS[name]() if name in NETWORKS else _resolved(name)
    exports, decompositions, rests = [], [], []
    for repeat in range(repeats + 1):
        seconds, exported = _timed(lambda: torch.export.export(model, inputs, strict=False))
        both, traced = _timed(lambda: trace(model, inputs))
        del exported
        rest, graph = _timed(partial(compile_trace, traced))
        if repeat:
            exports.append(seconds)
            decompositions.append(max(both - seconds, 0.0))
            rests.append(rest)
    export, decompose, rest = (statistics.median(times) for times in (exports, decompositions, rests))
    held, peak, rss = _memory(lambda: compile_trace(traced))
    row = [
        f"{graph.num_parameters:,}",
        f"{sum(node.op == 'call_function' for node in traced.exported.graph.nodes):,}",
        f"{export * 1e3:,.0f} ms",
        f"{decompose * 1e3:,.0f} ms",
        f"{rest * 1e3:,.0f} ms",
        f"{rest / export:.1%}",
        f"{rest / (export + decompose):.1%}",
        f"{held:.1f} MB",
        f"{peak:.1f} MB",
        f"{rss:.1f} MB",
    ]
    on_meta = any(p.device.type == "meta" for p in model.parameters())
    return rest / (export + decompose if on_meta else export), held, row


def _timed(function: Callable[[], object]) -> tuple[float, object]:
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        result = function()
        return time.perf_counter() - start, result


def _memory(function: Callable[[], ParamGraph]) -> tuple[float, float, float]:
    """MB held at the end, at the peak, and growth of the process."""
    gc.collect()
    before = _rss()
    kept = function()
    grown = _rss() - before
    del kept
    gc.collect()
    tracemalloc.start()
    kept = function()
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return held / MB, peak / MB, max(grown, 0) / MB


def _rss() -> int:
    """Resident bytes of this process; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0


def _resolved(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    resolved = resolve(name)
    assert isinstance(resolved.model, nn.Module) and resolved.inputs is not None
    return resolved.model, resolved.inputs


def _llama(kv_heads: int) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    with torch.device("meta"):
        return Llama(kv_heads=kv_heads).eval(), (torch.zeros(2, 17, dtype=torch.int64),)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]] = {
    "resnet50": lambda: _resolved("torchvision:resnet50"),
    "vit_b_16": lambda: _resolved("torchvision:vit_b_16"),
    "llama 7B, on meta": lambda: _llama(32),
    "llama 6B grouped queries, on meta": lambda: _llama(8),
}

if __name__ == "__main__":
    main()
