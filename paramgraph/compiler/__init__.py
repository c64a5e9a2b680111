"""From a network to its typed parameter graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paramgraph.graph import ParamGraph


def compile(model: Any, example_inputs: Any = None, kwargs: Any = None, *, name: str | None = None) -> ParamGraph:
    """Compile a network into its typed parameter graph, annotated with its permutation group.

    Time and memory depend on the number of operations, not of parameters: a network on the meta device compiles too. Values are held
    by reference, never copied.

    Args:
        model: an `nn.Module` in eval or train mode (an `fx.GraphModule` is one), a `torch.export.ExportedProgram`, or a path to a
            `.pt2` file.
        example_inputs: one tensor, a sequence of positional arguments, or a mapping of keyword arguments. Give them batch and
            sequence sizes that occur nowhere else in the network.
        kwargs: keyword arguments beside positional ones.
        name: the graph's name; by default the model's class.

    Returns:
        The graph; `graph.symmetry` is its group, `graph.diagnostics` says what was pinned and why.

    Raises:
        TraceError: the network cannot be traced, or the inputs do not fit it.
        RuleError: a registered rule is wrong.
    """
    from paramgraph.compiler.pipeline import compile_trace
    from paramgraph.compiler.trace import trace

    return compile_trace(trace(model, example_inputs, kwargs), name)
