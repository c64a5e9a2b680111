"""Scales: the time of typing them beside that of typing permutations, and of acting on a state dict beside that of copying it.

    python benchmarks/scale_speed.py                        typing and acting, all networks
    python benchmarks/scale_speed.py torchvision:resnet50   some of them

Targets: typing scales takes at most twice as long as finding the permutations (parallel branches, typing, group, certificate), acting at most
three times as long as copying. In brackets, as a multiple of typing and group alone. Every number is the least processor time of the repeats,
which other programs on the machine change least.
"""

from __future__ import annotations

import argparse
import gc
import time
import warnings
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from paramgraph.compiler.parallel import stack_branches
from paramgraph.compiler.pipeline import Unpaired, _solved, _typed, compile_trace
from paramgraph.compiler.program import Program
from paramgraph.compiler.torch_export import Lowering
from paramgraph.compiler.trace import Trace, trace
from paramgraph.compiler.typing import type_program
from paramgraph.models import resolve

NETWORKS = ("torchvision:resnet50", "torchvision:vit_b_16", "torchvision:densenet121", "torchvision:shufflenet_v2_x1_0")
TYPING, ACTING = 2.0, 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    table = Table("network", "permutations", "scales", "ratio", "copy", "act", "ratio")
    for name in options.networks:
        table.add_row(name, *measure(name, options.repeats))
    console = Console(width=120)
    console.print(table)
    console.print(f"targets: typing ≤ {TYPING:g}, acting ≤ {ACTING:g}", highlight=False)


def measure(name: str, repeats: int) -> list[str]:
    """A row of the table."""
    resolved = resolve(name)
    traced = trace(resolved.model, resolved.inputs)
    permutations, plain, scales, copy, act = [], [], [], [], []
    for _ in range(repeats):  # in turn, so that other programs slow down all of them
        permutations.append(_seconds(_find, _lowered(traced)))
        plain.append(_seconds(_plainly, _lowered(traced)))
        graph = compile_trace(traced)
        scales.append(_seconds(lambda symmetry: symmetry.scales, graph.symmetry))
    state = graph.state_dict()
    for seed in range(repeats):
        copy.append(_seconds(lambda values: {key: value.clone() for key, value in values.items()}, state))
        act.append(_seconds(lambda element: element.act(state), graph.symmetry.sample(seed)))
    permutations, plain, scales, copy, act = (min(times) for times in (permutations, plain, scales, copy, act))
    cells = [f"{seconds * 1e3:,.0f} ms" for seconds in (permutations, scales, copy, act)]
    return [*cells[:2], f"{scales / permutations:.2f} ({scales / plain:.2f})", *cells[2:], f"{act / copy:.1f}"]


def _lowered(traced: Trace) -> tuple[Program, dict[str, Any]]:
    lowering = Lowering(traced.exported, traced.name, traced.state)
    return lowering.run(), {name: (value.dtype, value.device) for name, value in lowering.storages.values.items()}


def _find(found: tuple[Program, dict[str, Any]]) -> None:
    """What compiling does for the permutations, in its first attempt; in its second, where the first is given up."""
    program, kinds = found
    try:
        _typed(program, stack_branches(program, kinds, frozenset()), pairing=True)
    except Unpaired:
        _typed(program, [], pairing=False)


def _plainly(found: tuple[Program, dict[str, Any]]) -> None:
    """Typing and group alone."""
    program, _ = found
    _solved(program, type_program(program))


def _seconds(function: Callable[[Any], Any], item: Any) -> float:
    gc.collect()
    gc.disable()
    start = time.process_time()
    function(item)
    seconds = time.process_time() - start
    gc.enable()
    return seconds


if __name__ == "__main__":
    main()
