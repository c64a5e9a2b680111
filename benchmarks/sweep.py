"""Compile and verify many architectures, and write what came out as a table.

    make sweep                                      everything; again after an interruption: what is missing
    make sweep ARGS="--only timm: --no-verify"      some of it, compiled only
    make sweep ARGS="--only bert --again"           once more, after a change
    make sweep ARGS="--every"                       also each network that timm has a name for, compiled on the meta device

Each is compiled, then verified, in a worker process that is replaced when it runs out of time or dies; those known to compile fast go first.
Results are appended to `out/sweep.jsonl`, the last of each kind counts; `docs/coverage.md` is made of them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import time
from pathlib import Path
from typing import Any

from architectures import table
from coverage_page import write_page
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from worker import serve

RESULTS, PAGE = Path("out/sweep.jsonl"), Path("docs/coverage.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PATTERN", default="", help="names that match this regular expression, e.g. timm: or bert")
    parser.add_argument("--every", action="store_true", help="also every network that timm has a name for, compiled only")
    parser.add_argument("--no-verify", action="store_true", help="compile only")
    parser.add_argument("--again", action="store_true", help="also what has a result already")
    parser.add_argument("--failed", action="store_true", help="also what failed, had unknown operations, or did not verify")
    parser.add_argument("--limit-seconds", type=float, default=240.0, help="time for one architecture's compilation, or verification")
    parser.add_argument("--total-seconds", type=float, default=float("inf"), help="start nothing new after this time")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    console = Console()
    names = [name for name in table(options.every) if re.search(options.only, name)]
    known = read(options.results)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    stages = ["compile"] if options.no_verify else ["compile", "verify"]
    pool = Worker()
    deadline = time.monotonic() + options.total_seconds
    columns = (TextColumn("{task.description:60}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, options.results.open("a") as file:
        todo = [name for name in names if any(wanted(stage, known.get(name, {}), options) for stage in stages)]
        todo.sort(key=lambda name: known.get(name, {}).get("compile", {}).get("seconds", 0.0))
        task = progress.add_task("", total=len(todo))
        for name in todo:
            if time.monotonic() > deadline:
                break
            done: list[str] = []
            for stage in stages:
                if not done and not wanted(stage, known.get(name, {}), options) or not possible(stage, known.get(name, {})):
                    continue
                done.append(stage)
                progress.update(task, description=f"{stage} {name}")
                result = {"name": name, "stage": stage, **pool.run(name, stage, options.limit_seconds)}
                known.setdefault(name, {})[stage] = result
                file.write(json.dumps(result) + "\n")
                file.flush()
                if problem(result):
                    progress.console.print(f"{stage} {name}: {problem(result)}", highlight=False, markup=False, soft_wrap=True)
            progress.advance(task)
    pool.stop()
    latest = read(options.results)
    write_page({name: latest[name] for name in table(every=True) if name in latest}, options.page)
    console.print(f"{options.page} written", highlight=False)


def read(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Results by name and stage; later lines replace earlier ones."""
    known: dict[str, dict[str, dict[str, Any]]] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            result = json.loads(line)
            known.setdefault(result["name"], {})[result["stage"]] = result
    return known


def wanted(stage: str, known: dict[str, dict[str, Any]], options: argparse.Namespace) -> bool:
    """Whether an architecture still has to go through a stage."""
    if "compile" in known and not possible(stage, known):
        return False
    if stage not in known or options.again:
        return True
    return options.failed and bool(problem(known[stage]))


def possible(stage: str, known: dict[str, dict[str, Any]]) -> bool:
    """Whether a stage can be run: what did not compile, or is on the meta device, is not verified."""
    compiled = known.get("compile", {"error": ""})
    return stage == "compile" or not ("error" in compiled or compiled["meta"])


def problem(result: dict[str, Any]) -> str:
    """What is wrong with a result; empty if nothing is."""
    if "error" in result:
        return "" if result.get("refused") else str(result["error"])
    if result["stage"] == "verify":
        return "" if result["passed"] else f"deviation {result['deviation']:.1e}, {'; '.join(result['problems'])}"
    unknown = ", ".join(f"{name} ×{count}" for name, count in result["unknown"].items())
    return "; ".join(part for part in (f"unknown: {unknown}" if unknown else "", *result["failed_rules"]) if part)


class Worker:
    """A process that runs one architecture after another; a new one is started when it dies or is out of time."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("spawn")
        self.process: Any = None
        self.pipe: Any = None

    def run(self, name: str, stage: str, seconds: float) -> dict[str, Any]:
        if self.process is None or not self.process.is_alive():
            self.pipe, other = self.context.Pipe()
            self.process = self.context.Process(target=serve, args=(other,), daemon=True)
            self.process.start()
            self.pipe.recv()  # it is ready: imports are not counted
        self.pipe.send((name, stage))
        try:
            if self.pipe.poll(seconds):
                return dict(self.pipe.recv())
            error = f"out of time after {seconds:.0f} s"
        except (EOFError, ConnectionResetError):
            error = f"the process died with exit code {self.process.exitcode}"
        self.stop()
        return {"error": error}

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
        self.process = None


if __name__ == "__main__":
    main()
