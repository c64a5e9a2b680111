"""From a network to its typed parameter graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paramgraph.graph import ParamGraph


def compile(model: Any, example_inputs: Any = None, kwargs: Any = None, *, name: str | None = None, dimensions: Any = None) -> ParamGraph:
    """Compile a network into its typed parameter graph, annotated with its permutation group.

    Time and memory depend on the number of operations, not of parameters: a network on the meta device compiles too. Values are held
    by reference, never copied.

    Args:
        model: an `nn.Module` in eval or train mode (an `fx.GraphModule` is one), a `torch.export.ExportedProgram`, a path to a
            `.pt2` or `.onnx` file, or an `onnx.ModelProto`.
        example_inputs: one tensor, a sequence of positional arguments, or a mapping of keyword arguments. Give them batch and
            sequence sizes that occur nowhere else in the network.
        kwargs: keyword arguments beside positional ones.
        name: the graph's name; by default the model's class.
        dimensions: for ONNX models whose inputs leave sizes open and without example inputs: sizes by the file's names of the dimensions, or
            shapes by the names of inputs. What is not given is chosen so that it occurs nowhere else in the model.

    Returns:
        The graph; `graph.symmetry` is its group, `graph.diagnostics` says what was pinned and why.

    Raises:
        TraceError: the network cannot be traced, or the inputs do not fit it.
        FileFormatError: a file is damaged, or its external data are missing or lie outside its folder.
        MissingDependencyError: an ONNX model was given, and `paramgraph[onnx]` is not installed.
        RuleError: a registered rule is wrong.
    """
    from paramgraph.compiler.onnx.source import is_onnx
    from paramgraph.compiler.pipeline import compile_onnx, compile_trace
    from paramgraph.compiler.trace import trace
    from paramgraph.errors import TraceError

    if is_onnx(model):
        if kwargs:
            raise TraceError("an ONNX model has no keyword arguments: pass its inputs as a mapping by name, or in order.")
        return compile_onnx(model, example_inputs, dimensions, name)
    if dimensions is not None:
        raise TraceError("`dimensions` is for ONNX models: pass example inputs of the sizes wanted.")
    return compile_trace(trace(model, example_inputs, kwargs), name)
