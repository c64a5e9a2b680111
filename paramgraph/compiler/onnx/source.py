"""Reading ONNX models: the file or message a model comes from, checked before anything of it is used.

Nothing outside the model's own folder is read, no weights are read, and nothing is executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from paramgraph.compiler.onnx.checks import check_calls, check_names, check_opsets, check_tensors, written_out
from paramgraph.compiler.onnx.keys import KEY, mark
from paramgraph.errors import FileFormatError, MissingDependencyError, TraceError, first_line

# Where the graph of an `onnx_ir` model notes what its file states of values: `onnx_ir` itself was not given it.
STATED = "paramgraph.stated"


@dataclass(frozen=True)
class OnnxSource:
    """Where a graph's ONNX model is, so that edited values can be written back into it.

    Attributes:
        path: its file; None where it was given as a message.
        message: the `ModelProto` given, or None.
    """

    path: Path | None = None
    message: Any = None

    @property
    def folder(self) -> Path | None:
        """The folder that external data lie in."""
        return None if self.path is None else self.path.parent

    def read(self) -> Any:
        """The model's message, without external data.

        Raises:
            FileFormatError: there is no such file, it is no ONNX model, or its data are missing or lie outside its folder.
        """
        return self.checked()[0]

    def checked(self) -> tuple[Any, bool]:
        """The model's message, and whether it has data in files of their own."""
        message = self.message if self.path is None else _parse(self.path)
        return message, check_tensors(message, self.folder, self.what)

    @property
    def what(self) -> str:
        """The model, for errors."""
        return "the model" if self.path is None else self.path.name


def require() -> tuple[ModuleType, ModuleType]:
    """The packages `onnx` and `onnx_ir`.

    Raises:
        MissingDependencyError: they are not installed.
    """
    try:
        import onnx
        import onnx_ir
    except ImportError as error:
        raise MissingDependencyError(f"{error.name} is not installed. Install it: pip install 'paramgraph[onnx]'.") from error
    return onnx, onnx_ir


def is_onnx(model: Any) -> bool:
    """Whether a model is an ONNX message or the path of an ONNX file; asks nothing of ONNX itself."""
    if isinstance(model, (str, Path)):
        return Path(model).suffix == ".onnx"
    return type(model).__name__ == "ModelProto" and type(model).__module__.partition(".")[0] == "onnx"


def source_of(model: Any) -> OnnxSource:
    """The source of a path or message."""
    return OnnxSource(path=Path(model)) if isinstance(model, (str, Path)) else OnnxSource(message=model)


def open_model(source: OnnxSource) -> Any:
    """The `onnx_ir.Model` of a source, with functions inlined and nodes in order.

    Raises:
        FileFormatError: the file or message is no ONNX model, or its external data are missing or lie outside its folder.
        TraceError: its operator sets are unknown, or its graph is cyclic or uses values that nothing defines.
    """
    _, ir = require()
    from onnx_ir.passes.common import InlinePass

    message, external = source.checked()
    what = source.what
    check_opsets(message, what)
    check_calls(message, what)
    sparse = {tensor.values.name for tensor in message.graph.sparse_initializer}
    if sparse:
        message = written_out(message, what)
    check_names(message, what)
    message = _without_maps(message) if source.path is None else message
    stated = {} if source.path is None else _thinned(message)
    try:
        model = ir.serde.deserialize_model(message)
        model.graph.meta[STATED] = stated
        if external and source.folder is not None:
            ir.external_data.set_base_dir(model.graph, str(source.folder))
        mark(model.graph)
        for name in sparse:  # which elements are zero belongs to the function: they are constants
            model.graph.initializers[name].meta.pop(KEY)
        if model.functions:
            model = InlinePass()(model).model
    except Exception as error:  # whatever the message holds that the format does not allow
        raise FileFormatError(
            f"{what} is no valid ONNX model ({type(_first_cause(error)).__name__}: {first_line(_first_cause(error))}). Export it again."
        ) from error
    _put_in_order(model.graph, what)
    return model


def _thinned(message: Any) -> dict[str, Any]:
    """Take out of a message, which is nobody else's, what is read of few of its values and nodes, if of any, and costs time to make objects of.

    Returns:
        What it stated of the types of values that are made by its nodes, by name.
    """
    graph = message.graph
    initialisers = {tensor.name for tensor in graph.initializer}
    stated = {value.name: value for value in graph.value_info}
    kept = [value for name, value in stated.items() if name in initialisers]  # in them torch's exporter says which are parameters
    graph.ClearField("value_info")
    graph.value_info.extend(kept)
    for value in (*graph.output, *kept):
        if _is_map(value.type):
            value.ClearField("type")
    for node in graph.node:
        node.ClearField("metadata_props")
    return stated


def stated_type(graph: Any, value: Any) -> tuple[int | None, Sequence[Any] | None]:
    """The element type that a file states for a value, and its sizes: numbers, names, or None; None for what it does not state.

    Args:
        graph: the `onnx_ir` graph of the model.
        value: an `onnx_ir` value.
    """
    if value.dtype is not None or value.name not in graph.meta.get(STATED, {}):
        return None if value.dtype is None else int(value.dtype), None if value.shape is None else [
            d if isinstance(d, int) else d.value for d in value.shape]
    kind = graph.meta[STATED][value.name].type
    if not kind.HasField("tensor_type"):
        return None, None
    tensor = kind.tensor_type
    sizes = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim]
    return tensor.elem_type or None, sizes if tensor.HasField("shape") else None


def _without_maps(message: Any) -> Any:
    """The message without the types of its outputs that are maps, as classifiers of tables give: they say nothing that is needed here."""
    if not any(_is_map(value.type) for value in (*message.graph.output, *message.graph.value_info)):
        return message
    out = type(message)()
    out.CopyFrom(message)
    for value in (*out.graph.output, *out.graph.value_info):
        if _is_map(value.type):
            value.ClearField("type")
    return out


def _is_map(kind: Any) -> bool:
    while kind.HasField("sequence_type") or kind.HasField("optional_type"):
        kind = kind.sequence_type.elem_type if kind.HasField("sequence_type") else kind.optional_type.elem_type
    return bool(kind.HasField("map_type"))


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _parse(path: Path) -> Any:
    onnx, _ = require()
    if not path.is_file():
        raise FileFormatError(f"no file {path}. Pass the path of an .onnx file.")
    try:
        message = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise FileFormatError(f"{path.name} is not a readable ONNX file ({first_line(error)}). Export or copy it again.") from error
    if not message.ir_version or not message.HasField("graph") or not message.opset_import:
        raise FileFormatError(f"{path.name} holds no ONNX model: it has no graph or no version. Export or copy it again.")
    return message


def _put_in_order(graph: Any, what: str) -> None:
    """Nodes after what they read. Files need not keep the order; cycles and values from nowhere are errors."""
    known = {*graph.inputs, *graph.initializers.values()}
    sorted_already = True
    made = set()
    for node in graph:
        for value in node.inputs:
            if value is None or value in known or value in made:
                continue
            if value.producer() is None:
                raise TraceError(f"{what}: the node {node.name or node.op_type!r} reads {value.name!r}, which nothing defines. Export it again.")
            sorted_already = False
        made.update(node.outputs)
    for value in graph.outputs:
        if value not in known and value not in made:
            raise TraceError(f"{what}: the output {value.name!r} is defined by nothing. Export it again.")
    if not sorted_already:
        try:
            graph.sort()
        except ValueError as error:
            raise TraceError(f"{what}: its graph has a cycle ({first_line(error)}). ONNX graphs must be acyclic.") from error
