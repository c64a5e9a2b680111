"""Tables about graphs, for terminals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from rich.table import Table

from paramgraph.graph import EdgeSet, NodeSet, ParamGraph


def summary_table(graph: ParamGraph) -> Table:
    """Name, sizes, order of the group."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("network", graph.name)
    table.add_row("nodes", f"{graph.num_nodes:,} in {len(graph.node_sets):,} sets")
    table.add_row("edges", f"{graph.num_edges:,} in {len(graph.edge_sets):,} sets")
    table.add_row("parameters", f"{graph.num_parameters:,} in {len(graph.values):,} tensors, buffers included")
    if graph.symmetry is not None:
        permutations = sum(factor.kind == "permutation" for factor in graph.symmetry.factors)
        table.add_row("group", f"ln order {graph.symmetry.log_order:,.2f} in {permutations:,} factors")
        table.add_row("scales", f"{graph.symmetry.dimension:,} magnitudes, {graph.symmetry.num_signs:,} signs")
    table.add_row("diagnostics", ", ".join(f"{n} {kind}" for kind, n in Counter(d.kind for d in graph.diagnostics).items()) or "none")
    return table


def types_table(sets: Iterable[NodeSet] | Iterable[EdgeSet], title: str, limit: int | None = None) -> Table:
    """Sets and elements of each type, most elements first."""
    number: Counter[str] = Counter()
    elements: Counter[str] = Counter()
    for item in sets:
        number[item.type] += 1
        elements[item.type] += item.num_edges if isinstance(item, EdgeSet) else item.size
    ranked = elements.most_common()
    table = _table(title, ("type", "left"), ("sets", "right"), (title.split()[0].lower(), "right"))
    for kind, count in ranked[:limit]:
        table.add_row(kind, f"{number[kind]:,}", f"{count:,}")
    rest = ranked[limit:] if limit is not None else []
    if rest:
        table.add_row(f"{len(rest)} more types", f"{sum(number[kind] for kind, _ in rest):,}", f"{sum(count for _, count in rest):,}")
    table.add_section()
    table.add_row("all", f"{sum(number.values()):,}", f"{sum(elements.values()):,}")
    return table


def factors_table(graph: ParamGraph, title: str = "Group", each: bool = False, limit: int | None = None) -> Table:
    """Factors of the permutation group with their part of ln order; factors of one kind together unless `each`."""
    factors = [factor for factor in graph.symmetry.factors if factor.kind == "permutation"]
    table = _table(title, ("factor", "left"), ("times", "right"), ("ln order", "right"), ("for example", "left"))
    if each:
        groups = [(factor, 1) for factor in factors]
    else:
        first = {(f.size, f.copies): f for f in reversed(factors)}
        times = Counter((f.size, f.copies) for f in factors)
        groups = [(first[key], count) for key, count in times.items()]
    groups.sort(key=lambda group: -group[0].log_order * group[1])
    for factor, count in groups[:limit]:
        power = f"^{factor.copies}" if factor.copies > 1 else ""
        table.add_row(f"S_{factor.size}{power}", f"{count:,}", f"{count * factor.log_order:,.2f}", factor.name)
    rest = groups[limit:] if limit is not None else []
    if rest:
        order = math.fsum(factor.log_order * count for factor, count in rest)
        table.add_row(f"{len(rest)} more", f"{sum(count for _, count in rest):,}", f"{order:,.2f}", "")
    table.add_section()
    table.add_row("group", f"{len(factors):,}", f"{graph.symmetry.log_order:,.2f}", "")
    return table


def sets_table(graph: ParamGraph) -> Table:
    """Every edge set, in dataflow order."""
    columns = [("edge set", "left"), ("type", "left"), ("from", "left"), ("to", "left"), ("edges", "right"), ("connectivity", "left")]
    table = _table("Edge sets", *columns)
    for edges in graph.edge_sets.values():
        table.add_row(edges.name, edges.type, edges.source, edges.target, f"{edges.num_edges:,}", edges.connectivity)
    return table


def diagnostics_table(graph: ParamGraph) -> Table:
    """Everything that the compiler had to say."""
    table = _table("Diagnostics", ("kind", "left"), ("subject", "left"), ("cause", "left"), ("where", "left"))
    of_scales = () if graph.symmetry is None else graph.symmetry.scales.diagnostics
    for item in (*graph.diagnostics, *of_scales):
        table.add_row(item.kind, item.subject, item.cause, item.where)
    return table


def _table(title: str, *columns: tuple[str, str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for name, justify in columns:
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    return table
