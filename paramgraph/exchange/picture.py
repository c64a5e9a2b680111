"""Pictures of a graph's sets, drawn with matplotlib: boxes in rows of dataflow, arrows labelled with their parameters, coloured by type."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from paramgraph.errors import MissingDependencyError
from paramgraph.exchange.diagram import Arrow, Box, Diagram, diagram
from paramgraph.exchange.files import written_whole
from paramgraph.graph import EdgeSet, ParamGraph

# Inches.
WIDTH, HEIGHT, GAP, ROW = 3.1, 0.6, 0.5, 1.08
LANE = 0.16
MARGIN = 0.4
# Light fills on which black text reads well; neighbours differ in hue.
FILLS = (
    *("#cfe2f3", "#fce5cd", "#d9ead3", "#f4cccc", "#d9d2e9", "#fff2cc", "#d0e0e3", "#ead1dc", "#dce6b8", "#f9d5bf"),
    *("#c9daf8", "#e6e0d4", "#c6e7dd", "#f3c9e0", "#e2d6f5", "#f7e6a6"),
)
PARAMETER, STRUCTURE = "#274e86", "#8a8a8a"
MAX_PIXELS = 30_000


def save(graph: ParamGraph, path: str | Path, *, format: str = "png", collapse: bool = True, dpi: int = 110) -> None:
    """Draw a graph's sets to a PNG or SVG file.

    Args:
        graph: the graph.
        path: the file to write.
        format: `"png"` or `"svg"`.
        collapse: whether to draw repeated blocks once, with the number of repetitions.
        dpi: pixels per inch of a PNG; lowered where the picture would exceed 30,000 pixels in height.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        FileFormatError: the path cannot be written.
    """
    figure = draw(diagram(graph, collapse))
    with written_whole(path) as temporary:
        figure.savefig(temporary, format=format, dpi=min(dpi, MAX_PIXELS / max(figure.get_size_inches())))


def draw(content: Diagram) -> Any:
    """A matplotlib figure of a diagram; no global state of pyplot is touched."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("pictures need matplotlib. Install it: pip install 'paramgraph[pictures]'.") from error
    places = _places(content)
    routes = _lanes(content)
    fills = _colours(content)
    half = max((abs(x) for x, _ in places.values()), default=0.0) + WIDTH / 2
    lanes = max((lane for lane in routes.values()), default=-1) + 1
    legend = len(fills)
    left, right = -half - MARGIN - 0.9, half + MARGIN + lanes * LANE + 0.4
    bottom, top = -len(content.rows) * ROW - 0.3 - 0.24 * math.ceil(legend / 2), 0.75
    right = max(right, left + 7.5)
    figure = Figure(figsize=(right - left, top - bottom), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.axis("off")
    note = f"   ({content.left_out})" if content.left_out else ""
    axes.text(left + 0.15, top - 0.15, _wrap(content.title + note, right - left), fontsize=9, fontweight="bold", va="top")
    entering = Counter(arrow.target for arrow in content.arrows if id(arrow) not in routes)
    for repeat in content.repeats:
        _draw_repeat(axes, repeat.first, repeat.last, repeat.times, half)
    for arrow in content.arrows:
        if id(arrow) in routes:
            _draw_side(axes, arrow, content, places, half + MARGIN + (routes[id(arrow)] + 0.5) * LANE, routes[id(arrow)])
        else:
            _draw_down(axes, arrow, places, near_target=entering[arrow.target] == 1)
    for name, box in content.boxes.items():
        _draw_box(axes, box, *places[name], fills[box.nodes.type])
    _draw_legend(axes, fills, left + 0.2, -len(content.rows) * ROW - 0.1, (right - left) / 2)
    return figure


def _places(content: Diagram) -> dict[str, tuple[float, float]]:
    """Centre of each box."""
    out = {}
    for number, row in enumerate(content.rows):
        for i, name in enumerate(row):
            out[name] = ((i - (len(row) - 1) / 2) * (WIDTH + GAP), -number * ROW - HEIGHT / 2)
    return out


def _lanes(content: Diagram) -> dict[int, int]:
    """A lane beside the boxes for each arrow that does not simply lead to the next row, so that no two overlap."""
    busy: list[list[tuple[int, int]]] = []
    out = {}
    spans = []
    for arrow in content.arrows:
        first, last = content.boxes[arrow.source].row, content.boxes[arrow.target].row
        if last - first != 1:
            spans.append((abs(last - first), min(first, last), max(first, last), arrow))
    for _, first, last, arrow in sorted(spans, key=lambda span: span[:3]):
        for lane, taken in enumerate(busy):  # noqa: B007  used after the loop
            if all(last < a or first > b for a, b in taken):
                break
        else:
            lane, taken = len(busy), []
            busy.append(taken)
        taken.append((first, last))
        out[id(arrow)] = lane
    return out


def _colours(content: Diagram) -> dict[str, str]:
    types = list(dict.fromkeys(box.nodes.type for box in content.boxes.values()))
    return {kind: FILLS[i % len(FILLS)] for i, kind in enumerate(types)}


def _draw_box(axes: Any, box: Box, x: float, y: float, fill: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    nodes = box.nodes
    shape = FancyBboxPatch((x - WIDTH / 2, y - HEIGHT / 2), WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.08", zorder=3)
    shape.set(facecolor=fill, edgecolor="#444444", linewidth=1.6 if nodes.order is not None else 0.8)
    axes.add_patch(shape)
    parts = [f"{nodes.size:,} nodes" if nodes.size != 1 else "1 node"]
    if nodes.activation:
        parts.append(nodes.activation)
    if nodes.order is not None:
        parts.append("pinned")
    high, middle = (0.17, 0.0) if box.folded else (0.09, -0.09)
    axes.text(x, y + high, _short(nodes.name, 42), fontsize=8, fontweight="bold", ha="center", va="center", zorder=4)
    axes.text(x, y + middle, _short(f"{nodes.type} · {' · '.join(parts)}", 52), fontsize=7, ha="center", va="center", zorder=4)
    if box.folded:
        text = "+ " + ", ".join(_last(kind) + (f" ×{n}" if n > 1 else "") for kind, n in box.folded.items())
        axes.text(x, y - 0.18, _short(text, 60), fontsize=6, ha="center", va="center", color="#333333", zorder=4)


def _draw_down(axes: Any, arrow: Arrow, places: dict[str, tuple[float, float]], near_target: bool) -> None:
    (x0, y0), (x1, y1) = places[arrow.source], places[arrow.target]
    start, end = (x0, y0 - HEIGHT / 2), (x1, y1 + HEIGHT / 2)
    style = _style(arrow.edges)
    axes.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, **style}, zorder=2)
    # Where arrows fan out or in, their labels stay apart at the wide end.
    along = 0.5 if x0 == x1 else 0.8 if near_target else 0.2
    _write_label(axes, x0 + along * (x1 - x0) + 0.06, start[1] + along * (end[1] - start[1]), arrow.edges, "center")


def _draw_side(axes: Any, arrow: Arrow, content: Diagram, places: dict[str, tuple[float, float]], lane: float, number: int) -> None:
    """From below the source to the lane, along it, and back to above the target."""
    (x0, y0), (x1, y1) = places[arrow.source], places[arrow.target]
    style = _style(arrow.edges)
    # Ports and levels differ by lane, so that arrows that share a box stay apart.
    shift = 0.35 + 0.13 * (number % 8)
    x0, x1 = x0 + min(shift, WIDTH / 2 - 0.1), x1 + min(shift, WIDTH / 2 - 0.1)
    low, high = y0 - HEIGHT / 2 - 0.08 - 0.03 * (number % 4), y1 + HEIGHT / 2 + 0.14 + 0.03 * (number % 4)
    xs = [x0, x0, lane, lane, x1]
    ys = [y0 - HEIGHT / 2, low, low, high, high]
    axes.plot(xs, ys, color=style["color"], linewidth=style["linewidth"], linestyle=style["linestyle"], zorder=1, solid_joinstyle="round")
    end = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, **style, "linestyle": "-"}
    axes.annotate("", xy=(x1, y1 + HEIGHT / 2), xytext=(x1, high), arrowprops=end, zorder=1)
    if any(edges.parameter is not None for edges in arrow.edges):
        _write_label(axes, x1 + 0.08, high + 0.04, arrow.edges, "bottom")


def _draw_repeat(axes: Any, first: int, last: int, times: int, half: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    top, bottom = -first * ROW + 0.2, -last * ROW - HEIGHT - 0.2
    x = -half - MARGIN / 2
    back = FancyBboxPatch((x, bottom), 2 * half + MARGIN, top - bottom, boxstyle="round,pad=0,rounding_size=0.15", zorder=0)
    back.set(facecolor="#f5f5f5", edgecolor="#bbbbbb", linewidth=1.0, linestyle="--")
    axes.add_patch(back)
    axes.text(x - 0.1, (top + bottom) / 2, f"× {times}", fontsize=16, fontweight="bold", ha="right", va="center", color="#555555")


def _draw_legend(axes: Any, fills: dict[str, str], x: float, y: float, column: float) -> None:
    from matplotlib.patches import Rectangle

    for i, (kind, fill) in enumerate(fills.items()):
        left, top = x + (i % 2) * column, y - (i // 2) * 0.24
        axes.add_patch(Rectangle((left, top - 0.16), 0.3, 0.16, facecolor=fill, edgecolor="#444444", linewidth=0.6))
        axes.text(left + 0.4, top - 0.08, kind, fontsize=7, va="center")


def _style(edges: Iterable[EdgeSet]) -> dict[str, Any]:
    carries = any(e.parameter is not None for e in edges)
    return {"color": PARAMETER if carries else STRUCTURE, "linewidth": 1.3 if carries else 0.9, "linestyle": "-" if carries else "--"}


def _write_label(axes: Any, x: float, y: float, edges: Iterable[EdgeSet], anchor: str) -> None:
    colour = _style(edges)["color"]
    veil = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.4}
    axes.text(x, y, _label(edges), fontsize=6, va=anchor, color=colour, zorder=5, linespacing=1.1, bbox=veil)


def _label(edges: Iterable[EdgeSet]) -> str:
    lines = []
    for e in edges:
        groups, m, k, positions = e.shape
        if e.parameter is None:
            lines.append(f"{e.type} ({e.connectivity})")
            continue
        size = " × ".join(str(n) for n in ((groups, m, k, positions) if groups > 1 else (m, k, positions)) if n > 1 or n == m)
        lines.append(f"{_short(e.parameter.name, 36)}  {size}")
    return "\n".join(lines[:3]) + (f"\n+ {len(lines) - 3} more" if len(lines) > 3 else "")


def _last(kind: str) -> str:
    return kind.rpartition(".")[2]


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit // 2 - 1]}…{text[-(limit // 2) :]}"


def _wrap(text: str, inches: float) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, max(40, int(inches * 12))))
