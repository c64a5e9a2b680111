"""What a picture of a graph's sets shows: boxes in rows, arrows between them, and repetitions drawn once.

Node sets that only hold a parameter (a bias's or gain's node) are folded into the box they point at. Rows follow the depth of the sets. A
run of rows that repeats (the blocks of a network) is drawn once, with the number of times beside it. Names play no part in any of this.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from paramgraph.graph import EdgeSet, NodeSet, ParamGraph


@dataclass
class Box:
    """A node set, or several of the same type and size where repetitions are drawn once.

    Attributes:
        nodes: the node set; the first of several.
        row: number of the row it is drawn in.
        folded: how many edge sets of each type come from sets that are folded into the box.
    """

    nodes: NodeSet
    row: int
    folded: Counter[str] = field(default_factory=Counter)


@dataclass
class Arrow:
    """All edge sets between two boxes.

    Attributes:
        source: name of the source box.
        target: name of the target box.
        edges: the edge sets; those of the first repetition.
    """

    source: str
    target: str
    edges: list[EdgeSet] = field(default_factory=list)


@dataclass(frozen=True)
class Repeat:
    """Rows `first` to `last` stand for `times` repetitions of themselves."""

    first: int
    last: int
    times: int


@dataclass
class Diagram:
    """Boxes by name, arrows, rows of box names from first to last, repetitions, and what was left out, in words."""

    title: str
    boxes: dict[str, Box]
    arrows: list[Arrow]
    rows: list[list[str]]
    repeats: list[Repeat]
    left_out: str


def diagram(graph: ParamGraph, collapse: bool = True) -> Diagram:
    """Lay out a graph's sets.

    Args:
        graph: the graph.
        collapse: whether to draw runs of equal rows once.
    """
    inward, outward = _by_end(graph)
    # A dict, for its order: the picture must not depend on hashes.
    holders = {name: None for name, nodes in graph.node_sets.items() if _only_holds_a_parameter(nodes, inward[name], outward[name])}
    unused = {name for name, nodes in graph.node_sets.items() if _is_unused(nodes, inward[name], outward[name])}
    beside = {e.source for name in unused for e in inward[name] if all(other.target in unused for other in outward[e.source])}
    shown = [n for n in graph.node_sets.values() if not (n.name in holders or n.name in unused or n.name in beside)]
    folded: dict[str, Counter[str]] = defaultdict(Counter)
    for name in holders:
        for edges in outward[name]:
            folded[edges.target][edges.type] += 1

    depths = sorted({nodes.depth for nodes in shown})
    row_of = {nodes.name: depths.index(nodes.depth) for nodes in shown}
    rows: list[list[NodeSet]] = [[] for _ in depths]
    for nodes in shown:
        rows[row_of[nodes.name]].append(nodes)

    signatures = [_signature(row, row_of, rows, inward, folded) for row in rows]
    runs = _runs(signatures) if collapse else [(i, 1, 1) for i in range(len(rows))]
    boxes: dict[str, Box] = {}
    stands_for: dict[str, str] = {}
    drawn: list[list[str]] = []
    repeats = []
    for start, period, times in runs:
        if times > 1:
            repeats.append(Repeat(len(drawn), len(drawn) + period - 1, times))
        for offset in range(period):
            for nodes in rows[start + offset]:
                boxes[nodes.name] = Box(nodes, len(drawn), folded[nodes.name])
            drawn.append([nodes.name for nodes in rows[start + offset]])
            for again in range(times):
                for first, same in zip(rows[start + offset], rows[start + again * period + offset], strict=True):
                    stands_for[same.name] = first.name
    arrows = _arrows(graph, stands_for, row_of, boxes)
    _order_rows(drawn, arrows)
    left_out = f"{len(unused)} unused parameters are not drawn" if unused else ""
    nodes_said = f"{graph.num_nodes:,} nodes in {len(graph.node_sets):,} sets"
    title = f"{graph.name}: {nodes_said}, {graph.num_edges:,} edges in {len(graph.edge_sets):,} sets"
    return Diagram(title, boxes, arrows, drawn, repeats, left_out)


def _by_end(graph: ParamGraph) -> tuple[dict[str, list[EdgeSet]], dict[str, list[EdgeSet]]]:
    inward: dict[str, list[EdgeSet]] = {name: [] for name in graph.node_sets}
    outward: dict[str, list[EdgeSet]] = {name: [] for name in graph.node_sets}
    for edges in graph.edge_sets.values():
        inward[edges.target].append(edges)
        outward[edges.source].append(edges)
    return inward, outward


def _only_holds_a_parameter(nodes: NodeSet, inward: Sequence[EdgeSet], outward: Sequence[EdgeSet]) -> bool:
    carries = all(edges.parameter is not None for edges in outward)
    return nodes.size == 1 and nodes.order is None and not inward and bool(outward) and carries


def _is_unused(nodes: NodeSet, inward: Sequence[EdgeSet], outward: Sequence[EdgeSet]) -> bool:
    """Whether a set is what an unused parameter leads to: nothing is computed there, and nothing leaves it."""
    return nodes.depth == 0 and bool(inward) and not outward and all(edges.parameter is not None for edges in inward)


def _signature(
    row: Sequence[NodeSet],
    row_of: dict[str, int],
    rows: Sequence[Sequence[NodeSet]],
    inward: dict[str, list[EdgeSet]],
    folded: dict[str, Counter[str]],
) -> tuple[object, ...]:
    """What a row looks like, apart from names: two rows with equal signatures may stand for each other."""
    out = []
    for nodes in row:
        here = row_of[nodes.name]
        arrows = []
        for edges in inward[nodes.name]:
            if edges.source in row_of:
                there = row_of[edges.source]
                place = [n.name for n in rows[there]].index(edges.source)
                arrows.append((edges.type, edges.shape, here - there, place))
        look = (nodes.type, nodes.size, nodes.activation or "", nodes.order is None, tuple(sorted(folded[nodes.name].items())))
        out.append((look, tuple(sorted(arrows))))
    return tuple(out)


def _runs(signatures: Sequence[object]) -> list[tuple[int, int, int]]:
    """Cut a sequence into runs `(start, period, times)`, taking at each place the repetition that saves most rows."""
    runs, start = [], 0
    while start < len(signatures):
        best = (0, 1, 1)
        for period in range(1, (len(signatures) - start) // 2 + 1):
            times = 1
            while signatures[start : start + period] == signatures[start + times * period : start + (times + 1) * period]:
                times += 1
            best = max(best, (period * (times - 1), -period, times))
        saved, period, times = best[0], abs(best[1]), best[2]
        if saved < 2:
            period, times = 1, 1
        runs.append((start, period, times))
        start += period * times
    return runs


def _arrows(graph: ParamGraph, stands_for: dict[str, str], row_of: dict[str, int], boxes: dict[str, Box]) -> list[Arrow]:
    arrows: dict[tuple[str, str], Arrow] = {}
    for edges in graph.edge_sets.values():
        if edges.source not in stands_for or edges.target not in stands_for:
            continue
        source, target = stands_for[edges.source], stands_for[edges.target]
        # From one repetition to the next: the arrow would run backwards. The one that enters the first repetition shows it.
        if row_of[edges.source] < row_of[edges.target] and boxes[source].row >= boxes[target].row:
            continue
        arrow = arrows.setdefault((source, target), Arrow(source, target))
        # Edge sets of later repetitions have the same types: one of each is enough.
        if (edges.source, edges.target) == (source, target) or edges.type not in {e.type for e in arrow.edges}:
            arrow.edges.append(edges)
    return list(arrows.values())


def _order_rows(rows: list[list[str]], arrows: Sequence[Arrow]) -> None:
    """Sort each row by the mean place of what points at it, so that arrows cross less."""
    sources: dict[str, list[str]] = defaultdict(list)
    for arrow in arrows:
        sources[arrow.target].append(arrow.source)
    place: dict[str, float] = {}
    for row in rows:
        wanted = {name: [place[s] for s in sources[name] if s in place] for name in row}
        row.sort(key=lambda name: sum(wanted[name]) / len(wanted[name]) if wanted[name] else 0.0)
        place.update({name: i - (len(row) - 1) / 2 for i, name in enumerate(row)})
