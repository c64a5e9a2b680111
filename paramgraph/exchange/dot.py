"""A graph's sets as DOT text, for those who have graphviz: `dot -Tsvg graph.dot -o graph.svg`."""

from __future__ import annotations

from pathlib import Path

from paramgraph.exchange.diagram import diagram
from paramgraph.exchange.files import written_whole
from paramgraph.exchange.picture import FILLS
from paramgraph.graph import ParamGraph


def to_dot(graph: ParamGraph, *, collapse: bool = True) -> str:
    """DOT text with a box per node set and an arrow per edge set.

    Args:
        graph: the graph.
        collapse: whether to write repeated blocks once, as a cluster with the number of repetitions.
    """
    content = diagram(graph, collapse)
    types = list(dict.fromkeys(box.nodes.type for box in content.boxes.values()))
    lines = [
        f"digraph {_quote(graph.name)} {{",
        f"  label={_quote(content.title)}; labelloc=t; rankdir=TB;",
        '  node [shape=box, style="rounded,filled", fontname=Helvetica, fontsize=10];',
        "  edge [fontname=Helvetica, fontsize=8];",
    ]
    for name, box in content.boxes.items():
        folded = "\n+ " + ", ".join(box.folded) if box.folded else ""
        text = f"{name}\n{box.nodes.type} · {box.nodes.size:,}{f' · {box.nodes.activation}' if box.nodes.activation else ''}{folded}"
        lines.append(f"  {_quote(name)} [label={_quote(text)}, fillcolor={_quote(FILLS[types.index(box.nodes.type) % len(FILLS)])}];")
    for number, repeat in enumerate(content.repeats):
        inside = " ".join(f"{_quote(name)};" for row in content.rows[repeat.first : repeat.last + 1] for name in row)
        lines.append(f"  subgraph cluster_{number} {{ label={_quote(f'× {repeat.times}')}; style=dashed; {inside} }}")
    for arrow in content.arrows:
        for edges in arrow.edges:
            carries = edges.parameter is not None
            label = f"{edges.parameter.name}\n{edges.num_edges:,}" if edges.parameter is not None else edges.type
            look = "color=navy" if carries else "style=dashed, color=gray"
            lines.append(f"  {_quote(arrow.source)} -> {_quote(arrow.target)} [label={_quote(label)}, {look}];")
    return "\n".join([*lines, "}"]) + "\n"


def save(graph: ParamGraph, path: str | Path, *, collapse: bool = True) -> None:
    """Write `to_dot(graph)`."""
    text = to_dot(graph, collapse=collapse)
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
