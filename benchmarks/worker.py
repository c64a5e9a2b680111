"""The sweep's worker: compiles or verifies one architecture at a time and sends back what came out."""

from __future__ import annotations

import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from architectures import Architecture, Network, table

import paramgraph as pg
from paramgraph.compiler.pipeline import compile_trace
from paramgraph.compiler.trace import Trace, trace
from paramgraph.errors import TraceError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.automorphisms import log_action  # noqa: E402
from tests.support.orbits import orbits  # noqa: E402

# Graphs of up to this many edges: orbits are compared; automorphisms are counted.
ORBITS, COUNTED = 120_000_000, 80_000


def serve(pipe: Any) -> None:
    """Answer `(name, stage)` with a dictionary, until the pipe closes."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    known = table(every=True)
    runner = Runner()
    compiled(Network(torch.nn.Linear(3, 2), (torch.randn(5, 3),)))  # what is imported when first used is not counted
    pipe.send("ready")
    while True:
        try:
            name, stage = pipe.recv()
        except EOFError:
            return
        try:
            result = runner.run(known[name], stage)
        except TraceError as error:
            result = {"error": f"TraceError: {' '.join(str(error).split())[:600]}", "refused": known[name].refused}
        except Exception as error:  # whatever fails in one architecture must not stop the others
            result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"}
        pipe.send(result)


class Runner:
    """Runs stages; keeps what it compiled last, to be verified."""

    def __init__(self) -> None:
        self.last: tuple[str, Network, pg.ParamGraph, Trace] | None = None

    def run(self, architecture: Architecture, stage: str) -> dict[str, Any]:
        if stage == "verify" and self.last is not None and self.last[0] == architecture.name:
            (_, network, graph, traced), self.last = self.last, None
            return verified(network, graph, traced)
        self.last = None
        torch.manual_seed(0)
        network = architecture.build()
        result, graph, traced = compiled(network)
        if stage == "verify":
            return verified(network, graph, traced)
        self.last = architecture.name, network, graph, traced
        return result


def compiled(network: Network) -> tuple[dict[str, Any], pg.ParamGraph, Trace]:
    """What a compilation gave: size, group, diagnostics, and the CPU times of its parts (other work on the machine does not count)."""
    start = time.process_time()
    with export_timed() as spent:
        traced = trace(network.model, network.inputs, network.kwargs)
    after = time.process_time()
    graph = compile_trace(traced)
    end = time.process_time()
    kinds = Counter(d.kind for d in graph.diagnostics)
    found = "" if network.meta else symmetry_of(graph)
    result = {
        "instance": network.model.__dict__.get("sweep_name", ""),
        "meta": network.meta,
        "parameters": graph.num_parameters,
        "operations": sum(node.op == "call_function" for node in traced.exported.graph.nodes),
        "factors": len(graph.symmetry.factors),
        "log_order": graph.symmetry.log_order,
        "automorphisms": found,
        "unknown": dict(Counter(d.subject for d in graph.diagnostics if d.kind == "unknown-operation")),
        "failed_rules": [f"{d.subject}: {d.cause} ({d.where})" for d in graph.diagnostics if d.subject.startswith("operands of ")],
        "unsettled": [d.cause for d in graph.diagnostics if d.subject == "the whole network"],
        "coarser": [d.cause for d in graph.diagnostics if d.subject == "families"],
        "unsolved": unsolved(graph),
        "unused": kinds["unused"],
        "pins": dict(Counter(d.cause for d in graph.diagnostics if d.kind == "pinned" and not d.subject.startswith("operands of "))),
        "export": spent[0],
        "decompose": after - start - spent[0],
        "rest": end - after,
        "seconds": end - start,
    }
    return result, graph, traced


def unsolved(graph: pg.ParamGraph) -> list[str]:
    """What scales, signs and moves could not be searched for: a defect, which no verification of what was found shows."""
    graph.symmetry.moves  # noqa: B018  scales' diagnostics are complete after it
    return [f"{d.subject}: {d.cause}" for d in graph.symmetry.scales.diagnostics if "they could not be" in d.cause]


def symmetry_of(graph: pg.ParamGraph) -> str:
    """Whether the exported graph's own symmetry acts on parameters as the annotated group does: by counting, or orbits, where it is small."""
    if graph.num_edges <= COUNTED:
        difference = log_action(graph) - graph.symmetry.log_order
        return "equal" if abs(difference) < 1e-6 * max(graph.symmetry.log_order, 1.0) else f"{difference:+.2f}"
    if graph.num_edges > ORBITS:
        return ""
    classes, declared = orbits(graph)
    return "orbits" if classes == declared else f"{classes} of {declared} orbits"


def verified(network: Network, graph: pg.ParamGraph, traced: Trace) -> dict[str, Any]:
    """What a verification gave, and the process's largest memory until then."""
    start = time.process_time()
    report = pg.verify(graph, network.model, network.inputs or None, network.kwargs, elements=1, inputs=1, bundles=3, leave_one_out=2,
                       traced=traced)
    return {
        "passed": report.passed,
        "deviation": report.max_deviation,
        "exported": report.exported,
        "outside": min(report.outside.values(), default=None),
        "problems": report.problems,
        "notes": report.notes,
        "seconds": time.process_time() - start,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


@contextmanager
def export_timed() -> Iterator[list[float]]:
    """Add up the time that torch.export takes in the body, apart from making the program functional."""
    spent = [0.0]
    export = torch.export.export

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return export(*args, **kwargs)
        finally:
            spent[0] += time.process_time() - start

    with mock.patch.object(torch.export, "export", timed):
        yield spent
