"""What every front end does to a program that it has lowered, before it is typed."""

from __future__ import annotations

from paramgraph.compiler.attention_names import name_attention
from paramgraph.compiler.constants import fold_layouts, mark_padding
from paramgraph.compiler.lineage import Lineage
from paramgraph.compiler.program import Program
from paramgraph.compiler.rewrite import split_packed
from paramgraph.compiler.uniform import thin_constants


def tidy(program: Program, lineage: Lineage) -> None:
    """Drop what no output needs, and write what is the same in one way, in place.

    Args:
        program: a program as a front end lowered it.
        lineage: the calls that it was lowered from.
    """
    program.lowered, program.lineage = list(program.ops), lineage
    program.drop_dead()
    split_packed(program)
    name_attention(program)
    fold_layouts(program)
    thin_constants(program)
    mark_padding(program)
