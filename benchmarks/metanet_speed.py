"""Metanets: time and memory of a forward and backward pass on the engines, beside each other, in one run.

    python benchmarks/metanet_speed.py                             all cases but those that take minutes
    python benchmarks/metanet_speed.py inrs resnet18 vit_b_16      some of them
    python benchmarks/metanet_speed.py --plain small_cnns          also the same metanets as one would write them with DGL or PyG (plain.py)
    python benchmarks/metanet_speed.py --backends torch torch-compiled dgl pyg     also by torch.compile, which takes a minute at first
    python benchmarks/metanet_speed.py --published                 operations and memory of ScaleGMN at the published size
    python benchmarks/metanet_speed.py --streamed resnet18         GMN of width 64 over networks too large to keep their edge states

Every engine runs in a process of its own, and their repeats take turns, so that a busy machine slows all of them alike. Time is the least
of the repeats' processor time; memory is the highest resident size of the passes, less that of the process before the first of them (one
over a small network has been made by then). Ratios are the best of other engines, of plain versions, and of the split one, over `torch`.
Where there are too many edges to keep states of, all engines go tile by tile; plain versions keep everything, as autograd does. Their
graph is made before time is taken, and counts as memory. Large tensors that are freed go back to the system, and the next ones cost page
faults, most of all on virtual machines: `--hold` compares times without those (and takes much memory: large batches on a few backends at
a time).
Targets: three times as fast in a fifth of the memory where there are over 100,000 edges, and never slower.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import paramgraph as pg
from paramgraph.metanets import GMN, ScaleGMN, Stack

BACKENDS = ("torch", "dgl", "pyg")
PLAIN, SPLIT = ("dgl-plain", "pyg-plain"), ("dgl-split",)
VERSIONS = {"dgl-plain": ("plain_dgl", "PlainDGL"), "pyg-plain": ("plain_pyg", "PlainPyG"), "dgl-split": ("split_dgl", "SplitDGL")}
COMPILED = "torch-compiled"
CASES = ("inrs", "small_cnns", "resnet18", "vit_b_16")
QUICK = ("inrs", "small_cnns")
# Operations of the released code per graph, forward and backward, and bytes of activations of a batch of 128: Kalogeropoulos et al. 2024.
RELEASED_FLOPS = {"forward": 9.26e9, "both": 16.1e9}
RELEASED_MEMORY = 11.0 * 2**30
# Environment in which glibc's allocator gives nothing back to the system.
HOLDING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


class Siren(nn.Module):
    """The layout of the MNIST representations: 2-32-32-1."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(2, 32), nn.Linear(32, 32), nn.Linear(32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.sin(30 * self.second(torch.sin(30 * self.first(x)))))


def small_cnn() -> nn.Module:
    """The layout of the Small CNN Zoo."""
    layers = [nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def networks(case: str, count: int) -> list[Any]:
    """The batch of a case."""
    torch.manual_seed(0)
    if case in ("inrs", "small_cnns"):
        make, x = (Siren, torch.zeros(2, 2)) if case == "inrs" else (small_cnn, torch.zeros(1, 1, 28, 28))
        graph = pg.compile(make(), x, name=case)
        return [Stack.of(graph, [make().state_dict() for _ in range(count)])]
    from paramgraph.models import resolve

    resolved = resolve(f"torchvision:{case}")
    return [pg.compile(resolved.model, resolved.inputs, name=case)]


def measure(case: str, metanet: str, backend: str, hidden: int, layers: int, count: int, options: dict[str, Any]) -> Iterator[dict[str, float]]:
    """One combination, in this process: each step is a forward and backward pass, and gives its seconds, the bytes so far, and the edges."""
    graphs = networks(case, count)
    edges = sum(len(g) * g.graph.num_edges if isinstance(g, Stack) else g.num_edges for g in graphs)
    torch.manual_seed(0)
    make = partial({"GMN": GMN, "ScaleGMN": ScaleGMN}[metanet], hidden, layers, "torch" if backend in (*VERSIONS, COMPILED) else backend, **options)
    small = networks("inrs", 1)
    prepared(knowing(make(), small), backend, small)().sum().backward()  # loads what any first pass loads
    net = knowing(make(), [graphs[0].take([0])] if isinstance(graphs[0], Stack) else graphs)
    if backend == COMPILED:
        net = torch.compile(net)
        net(graphs).sum().backward()
        net.zero_grad()
    before = resident("VmRSS")
    forget_peak()
    run = prepared(net, backend, graphs)
    while True:
        start = time.process_time()
        run().square().sum().backward()
        seconds = time.process_time() - start
        net.zero_grad()
        yield {"seconds": seconds, "bytes": resident("VmHWM") - before, "edges": edges}


def knowing(net: Any, graphs: list[Any]) -> Any:
    """The metanet, after it has learned the types and sizes of some networks."""
    with torch.no_grad():
        net(graphs)
    return net


def prepared(net: Any, backend: str, graphs: list[Any]) -> Callable[[], torch.Tensor]:
    """A forward pass of the metanet over networks, or of its plain version over one graph of them, which is made here."""
    if backend not in VERSIONS:
        return partial(net, graphs)
    module, name = VERSIONS[backend]
    plain = getattr(import_module(module), name)(net)
    return partial(plain, plain.prepare(graphs))


def resident(which: str) -> float:
    """Bytes of this process that are in memory: `"VmRSS"` now, `"VmHWM"` at most since the last `forget_peak`."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024.0 * int(lines[which].split()[0])


def forget_peak() -> None:
    """Compilation may have needed more memory than the passes do; Linux only."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def flops(direction: str, count: int = 2) -> float:
    """Operations per graph of ScaleGMN at the published size (width 128, 4 layers), forward and backward, recomputation included."""
    graphs = networks("inrs", count)
    net = ScaleGMN(128, 4, backend="torch", direction=direction, recompute=True)  # as a batch of 128 is by itself
    net(graphs)
    # Gradients of weights are added up in place, which the counter does not know.
    in_place = {torch.ops.aten.addmm_: lambda _, left, right, **others: 2 * left[0] * left[1] * right[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        net(graphs).sum().backward()
    return counter.get_total_flops() / count


def answer(**arguments: Any) -> None:
    """Run `measure` here, one step per line read, each answered by a line."""
    for _, found in zip(sys.stdin, measure(**arguments), strict=False):
        print(json.dumps(found), flush=True)


class Apart:
    """`measure` in a process of its own, which waits between steps.

    Args:
        environment: what to add to that of this process.
        arguments: of `measure`.
    """

    def __init__(self, environment: dict[str, str], **arguments: Any) -> None:
        self.arguments = arguments
        code = f"import sys, json; sys.path.insert(0, {str(__file__).rsplit('/', 1)[0]!r}); import metanet_speed; "
        code += f"metanet_speed.answer(**json.loads({json.dumps(arguments)!r}))"
        pipe, environment = subprocess.PIPE, {**os.environ, **environment}
        self._process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True, env=environment)

    def step(self) -> dict[str, float]:
        """One step's answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.arguments}: the process ended; its message is above.")
        found: dict[str, float] = json.loads(line)
        return found

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def in_turns(repeats: int, each: list[dict[str, Any]], hold: bool = False) -> list[dict[str, float]]:
    """Least seconds and most bytes of several combinations, whose repeats take turns; `hold`: freed memory stays with its process."""
    found: list[list[dict[str, float]]] = [[] for _ in each]
    apart = []
    for number, arguments in enumerate(each):
        # One after the other to begin with: compiling a large network needs memory.
        apart.append(Apart(HOLDING if hold else {}, **arguments))
        found[number].append(apart[-1].step())
    for _ in range(repeats - 1):
        for one, steps in zip(apart, found, strict=True):
            steps.append(one.step())
    for one in apart:
        one.close()
    return [{"seconds": min(s["seconds"] for s in steps), "bytes": steps[-1]["bytes"], "edges": steps[-1]["edges"]} for steps in found]


def ratio(rows: dict[str, dict[str, float]], names: Sequence[str], key: str) -> str:
    """The best of some over `torch`."""
    return f"{min(rows[name][key] for name in names) / max(rows['torch'][key], 1e-9):.1f}×"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(QUICK), help=f"of {', '.join(CASES)}")
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--count", type=int, default=32, help="networks per batch of small ones")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--backends", nargs="*", default=list(BACKENDS), help=f"of {', '.join([*BACKENDS, COMPILED, *VERSIONS])}, or your own")
    parser.add_argument("--plain", action="store_true", help=f"also {', '.join(VERSIONS)}")
    parser.add_argument("--hold", action="store_true", help="processes keep the memory that they free: times without page faults (glibc)")
    parser.add_argument("--metanets", nargs="*", default=["GMN", "ScaleGMN"])
    parser.add_argument("--published", action="store_true")
    parser.add_argument("--streamed", action="store_true")
    options = parser.parse_args()
    console = Console(width=160)
    if options.published:
        for direction, released in RELEASED_FLOPS.items():
            found = flops(direction)
            share = f"{found / released:.2f} of the released code (target 0.5)"
            console.print(f"{direction}: {found / 1e9:.2f} GFLOP per graph, {share}", highlight=False)
        case = {"case": "inrs", "metanet": "ScaleGMN", "backend": "torch", "hidden": 128, "layers": 4, "count": 128, "options": {}}
        used = in_turns(1, [case])[0]["bytes"]
        console.print(f"batch of 128: {used / 2**30:.2f} GiB, {used / RELEASED_MEMORY:.2f} of the released code (target 0.25)", highlight=False)
        return
    if options.streamed:
        shared = {"metanet": "GMN", "backend": "torch", "hidden": 64, "layers": 4, "count": 1}
        for case in options.cases:
            found = in_turns(1, [{"case": case, "options": {"updates": "edges-first", "keep_edges": 0}, **shared}])[0]
            said = f"{found['seconds']:.0f} s of processor time, {found['bytes'] / 2**30:.2f} GiB"
            console.print(f"{case}, GMN over {found['edges']:,.0f} edges: {said}", highlight=False)
        return
    backends = list(dict.fromkeys([*options.backends, *(VERSIONS if options.plain else ())]))
    others = {"others": [name for name in backends if name not in ("torch", COMPILED, *VERSIONS)], "plain": PLAIN, "split": SPLIT}
    compared = {title: [name for name in names if name in backends] for title, names in others.items()}
    compared = {title: names for title, names in compared.items() if names and "torch" in backends}
    keys, better = (("seconds",), "faster") if options.hold else (("seconds", "bytes"), "faster, less\nmemory")
    table = Table("case", "metanet", "edges", *backends, *(f"{better} than\n{title}" for title in compared))
    for case in options.cases:
        for metanet in options.metanets:
            shared = {"case": case, "metanet": metanet, "hidden": options.hidden, "layers": options.layers, "count": options.count}
            found = in_turns(options.repeats, [{"backend": backend, "options": {}, **shared} for backend in backends], options.hold)
            rows = dict(zip(backends, found, strict=True))
            cells = ["\n".join((f"{row['seconds']:.2f} s", f"{row['bytes'] / 2**20:,.0f} MiB")[: len(keys)]) for row in found]
            ratios = ["\n".join(ratio(rows, names, key) for key in keys) for names in compared.values()]
            table.add_row(case, metanet, f"{found[0]['edges']:,.0f}", *cells, *ratios)
    console.print(table)


if __name__ == "__main__":
    main()
