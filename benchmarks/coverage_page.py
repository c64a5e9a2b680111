"""docs/coverage.md from the results of the sweep."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]

HEAD = """# Coverage

Written by `make sweep` (`benchmarks/sweep.py`): architectures from several libraries with random weights, one small instance each.

- *factors*, *ln order*: of the annotated permutation group. *unknown*: operations without a rule. *pinned*: operations whose rule did not fit
  their operands (all: typing did not settle, and the group is trivial; families: nothing was taken to vary between the parts of an axis).
  What either touches does not move.
- *symmetry*: how the exported graph's automorphisms act on parameters, against the annotated group. "equal": as many, counted by igraph.
  "orbits": too large to count; colour refinement finds the annotated orbits, and no fewer. "n of m orbits" with n < m: refinement cannot tell
  (it is weaker than automorphisms). A number: ln of how many more. Empty: too large for either.
- *deviation*: the worst relative deviation of the outputs in `pg.verify` (float64, tolerance 1e-10). "large": compiled on the meta device, not run.
- *export*: CPU seconds of `torch.export`. *rest*: of lowering, typing, group and graph. *verify*: of the verification. Single runs with one thread
  (`make bench` measures).
"""
# Families of which only what is not as it should be is listed.
BRIEF = {"timm names"}
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "torch_geometric", "peft")


def write_page(results: Results, path: Path) -> None:
    """Write the page: a summary by family, a table for each, and what was refused."""
    families: dict[str, list[str]] = {}
    for name in results:
        families.setdefault(name.partition(":")[0], []).append(name)
    lines = [HEAD, f"Versions: {', '.join(_versions())}.", ""]
    lines += ["| family | architectures | compiled | nothing unknown or pinned | symmetry shown | verified |", "|---|---|---|---|---|---|"]
    for family, names in families.items():
        rows = [results[name] for name in names if "compile" in results[name]]
        done = [row for row in rows if "error" not in row["compile"]]
        clean = [row for row in done if not any(row["compile"].get(what) for what in ("unknown", "failed_rules", "unsettled", "unsolved"))]
        shown = [row for row in done if row["compile"].get("automorphisms") in ("equal", "orbits")]
        passed = [row for row in done if row.get("verify", {}).get("passed")]
        lines.append(f"| {family} | {len(rows)} | {len(done)} | {len(clean)} | {len(shown)} | {len(passed)} |")
    for family, names in families.items():
        lines += ["", f"## {family}", ""]
        if family in BRIEF:
            lines += [_spread([results[name]["compile"] for name in names if "error" not in results[name].get("compile", {"error": ""})]), ""]
            names = [name for name in names if _is_odd(results[name])]
        lines += ["| architecture | parameters | factors | ln order | unknown | pinned | symmetry | deviation | export | rest | verify |",
                  "|---|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
        lines += [_row(name, results[name]) for name in sorted(names) if "error" not in results[name].get("compile", {"error": ""})]
        refused = [(name, results[name]["compile"]["error"]) for name in sorted(names) if "error" in results[name].get("compile", {})]
        if refused:
            lines += ["", "Not compiled:", "", *(f"- {name.partition(':')[2]}: {_plain(error)}" for name, error in refused)]
    lines += ["", "## Unknown operations", "", *_unknown(results)]
    path.write_text("\n".join(lines) + "\n")


def _is_odd(stages: Mapping[str, Mapping[str, Any]]) -> bool:
    compiled = stages.get("compile", {"error": ""})
    return "error" in compiled or any(compiled.get(what) for what in ("unknown", "failed_rules", "unsettled", "unsolved", "coarser"))


def _spread(rows: list[Mapping[str, Any]]) -> str:
    """One line on many compilations."""
    if not rows:
        return "None compiled yet."
    sizes, seconds = sorted(row["parameters"] for row in rows), sorted(row["seconds"] for row in rows)
    share = sorted(row["rest"] / row["export"] for row in rows)
    middle = len(rows) // 2
    return (
        f"Each name, on the meta device: {sizes[0]:,} to {sizes[-1]:,} parameters; {seconds[middle]:.1f} s at the median and "
        f"{seconds[-1]:.0f} s at most, the trace included; *rest* is {share[middle]:.0%} of *export* at the median, {share[-1]:.0%} at most. "
        "Listed is only what did not compile, has unknown or pinned operations, or leaves families out."
    )


def _versions() -> list[str]:
    found = []
    for library in LIBRARIES:
        try:
            found.append(f"{library} {version(library).partition('+')[0]}")
        except PackageNotFoundError:
            continue
    return found


def _row(name: str, stages: Mapping[str, Mapping[str, Any]]) -> str:
    c = stages["compile"]
    v = stages.get("verify", {})
    title = name.partition(":")[2] + (f" ({c['instance']})" if c["instance"] else "")
    deviation = "large" if c["meta"] else _plain(v["error"], 40) if "error" in v else "" if not v else f"{v['deviation']:.0e}"
    if v and "error" not in v and not v["passed"]:
        deviation = f"**failed** ({deviation})"
    whole = next((said for what, said in (("unsettled", "all"), ("unsolved", "scales"), ("coarser", "families")) if c.get(what)), None)
    cells = [
        title, f"{c['parameters']:,}", str(c["factors"]), f"{c['log_order']:,.1f}", _count(sum(c["unknown"].values())),
        whole or _count(len(c["failed_rules"])), c.get("automorphisms", ""), deviation,
        f"{c['export']:.2f} s", f"{c['rest']:.2f} s", f"{v['seconds']:.0f} s" if "seconds" in v else "",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _count(number: int) -> str:
    return str(number) if number else ""


def _plain(text: str, width: int = 160) -> str:
    text = re.sub(r"\(\S*/(\w+\.py)", r"(\1", text)  # no paths of the machine
    text = text.replace("|", "/").replace("<", "").replace(">", "").replace("Check that the example inputs run through the model.", "").strip()
    return text if len(text) <= width else text[: width - 1] + "…"


def _unknown(results: Results) -> list[str]:
    networks: Counter[str] = Counter()
    for stages in results.values():
        networks.update(stages.get("compile", {}).get("unknown", {}).keys())
    return [f"- `{name}`: in {count} architectures" for name, count in networks.most_common()] or ["None."]
