"""Running ONNX models by onnxruntime under given parameters: in float64 where it has kernels, else in float32.

The parameters become inputs of the model that is run, so that one session serves all states.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from paramgraph.compiler.onnx.leaves import DTYPES
from paramgraph.compiler.onnx.source import OnnxSource, require
from paramgraph.errors import FileFormatError, MissingDependencyError, TraceError, first_line
from paramgraph.onnx_messages import held_tensors, rename, tensors_of
from paramgraph.verification.execute import Outputs

# Elements of an example that is made up.
_MOST = 1 << 30
# By how much results in two precisions may differ, relative to the largest.
COARSE = 1e-2
_FLOAT, _DOUBLE, _HALVES = 1, 11, (10, 16)
_NUMBER = {"float64": _DOUBLE, "float32": _FLOAT}
# Element types that are widened to each.
_NARROWER = {"float64": (_FLOAT, *_HALVES), "float32": _HALVES}
# Operators with an attribute that names the element type of their result.
_TYPED = {"Cast": "to", "RandomNormal": "dtype", "RandomUniform": "dtype", "EyeLike": "dtype", "Range": "dtype", "SequenceEmpty": "dtype"}


class OnnxExecution:
    """One model, run by onnxruntime; has the face of `Execution`.

    Args:
        source: where the model is.
        names: its parameters and buffers.
        inputs: names and concrete shapes of its inputs.
        precisions: in which it may be run, the first that can be.
    """

    def __init__(self, source: OnnxSource, names: Sequence[str], inputs: Mapping[str, tuple[int, ...]],
                 precisions: Sequence[str] = ("float64", "float32")) -> None:
        self.exported = None
        self.stochastic: set[str] = set()
        self.input_names = list(inputs)
        self.precision, self.session, self.why = _session(source, set(names), inputs, precisions)
        feeds = {item.name: item.type for item in self.session.get_inputs()}
        self.state_names = {name for name in names if name in feeds}
        self._dtypes = {name: _NUMPY[kind] for name, kind in feeds.items() if kind in _NUMPY}

    def run(self, state: Mapping[str, torch.Tensor], inputs: Sequence[Any], base: Outputs | None = None, changed: set[str] | None = None,
            keep: bool = False) -> Outputs:
        """Run the model; `base`, `changed` and `keep` are for executions that run a part."""
        feeds = {name: self._feed(name, state[name]) for name in self.state_names}
        feeds |= {name: self._feed(name, value) for name, value in zip(self.input_names, inputs, strict=True) if name in self._dtypes}
        try:
            results = self.session.run(None, feeds)
        except Exception as error:
            raise TraceError(f"onnxruntime does not run the model with these inputs: {first_line(error)}") from error
        return Outputs([_tensor(result) for result in results], {})

    def agrees(self, other: OnnxExecution, state: Mapping[str, torch.Tensor], inputs: Sequence[Any]) -> bool:
        """Whether another execution gives the same results, but for rounding errors."""
        for mine, theirs in zip(self.run(state, inputs).values, other.run(state, inputs).values, strict=True):
            if mine is None or theirs is None or not mine.is_floating_point() or not mine.numel():
                continue
            if mine.shape != theirs.shape:
                return False
            mine, theirs = (torch.nan_to_num(x.double(), 0.0, 0.0, 0.0) for x in (mine, theirs))
            if (mine - theirs).abs().max() > COARSE * (1e-30 + mine.abs().max()):
                return False
        return True

    def _feed(self, name: str, value: Any) -> np.ndarray:
        if not isinstance(value, torch.Tensor):
            return value
        known = value.float() if value.dtype == torch.bfloat16 else value  # of which numpy has no kind
        return np.ascontiguousarray(known.numpy().astype(self._dtypes[name]))


def _tensor(result: Any) -> torch.Tensor | None:
    """A result as a tensor; None for strings and other sequences than of maps to numbers, which are not compared."""
    if isinstance(result, list) and result and all(isinstance(row, dict) and row.keys() == result[0].keys() for row in result):
        result = np.asarray([list(row.values()) for row in result])  # as classifiers give their probabilities, by class
    known = isinstance(result, np.ndarray) and result.dtype.kind in "biuf"
    return torch.from_numpy(np.ascontiguousarray(result)) if known else None


_NUMPY = {
    f"tensor({name})": dtype
    for name, dtype in (("float", np.float32), ("double", np.float64), ("float16", np.float16), ("int64", np.int64), ("int32", np.int32),
                        ("int16", np.int16), ("int8", np.int8), ("uint8", np.uint8), ("uint16", np.uint16), ("uint32", np.uint32),
                        ("uint64", np.uint64), ("bool", np.bool_))
}  # fmt: skip


def _session(source: OnnxSource, names: set[str], inputs: Mapping[str, tuple[int, ...]], precisions: Sequence[str]) -> tuple[str, Any, str]:
    """A session in float64, or one in the model's own precision and why."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("onnxruntime is not installed. Install it: pip install 'paramgraph[onnx]'.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # Optimisations fold constants and choose kernels by values: both precisions run the model as it is written.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    why = ""
    for precision in precisions:
        message = runnable(source, names)
        functions = any(f.domain or f.name for f in message.functions)
        if functions and precision == "float64":
            why = "the model has functions"
            continue
        if not functions:
            widen(message, precision)
        try:
            session = onnxruntime.InferenceSession(message.SerializeToString(), options, providers=["CPUExecutionProvider"])
            if precision == "float64":  # some kernels refuse it only when they run
                session.run(None, {item.name: np.zeros(inputs.get(item.name, item.shape), _NUMPY[item.type]) for item in session.get_inputs()})
            return precision, session, why
        except Exception as error:
            if precision == "float32":
                raise TraceError(f"onnxruntime does not load the model: {first_line(error)}") from error
            why = f"onnxruntime has no kernels for it in float64 ({first_line(error)})"
    raise AssertionError("the second attempt returns or raises")


def runnable(source: OnnxSource, names: set[str]) -> Any:
    """A copy of the model whose parameters are inputs without values; what is external besides is loaded."""
    onnx, _ = require()
    message = onnx.ModelProto()
    message.CopyFrom(source.read())
    declared = {value.name for value in message.graph.input}
    removed: dict[int, tuple[Any, set[str]]] = {}
    for name, (graph, holder) in held_tensors(message).items():
        if name not in names:
            continue
        is_node = hasattr(holder, "op_type")
        tensor = holder.attribute[0].t if is_node else holder
        own = holder.output[0] if is_node else holder.name
        if name not in declared:
            message.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
        removed.setdefault(id(graph), (graph, set()))[1].add(own)
        if name != own:
            rename(graph, own, name)
    for graph, own_names in removed.values():
        _keep(graph.initializer, lambda tensor, gone=own_names: tensor.name not in gone)
        _keep(graph.node, lambda node, gone=own_names: node.op_type != "Constant" or node.output[0] not in gone)
    if source.folder is not None:
        onnx.load_external_data_for_model(message, str(source.folder))
    return message


def _keep(messages: Any, wanted: Any) -> None:
    """Remove messages from a repeated field."""
    kept = [type(message).FromString(message.SerializeToString()) for message in messages if wanted(message)]
    if len(kept) != len(messages):
        del messages[:]
        messages.extend(kept)


def widen(message: Any, precision: str) -> None:
    """Every floating-point tensor, type and cast of a model in float64; or those that are narrower in float32."""
    onnx, _ = require()
    for tensor in list(tensors_of(message)):
        if tensor.data_type in _NARROWER[precision]:
            try:
                array = onnx.numpy_helper.to_array(tensor).astype(precision)
            except ValueError as error:
                raise FileFormatError(f"the data of {tensor.name!r} do not fill its shape {list(tensor.dims)} ({first_line(error)}). "
                                      "Export or copy it again.") from error
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    _widen_graph(onnx, message.graph, precision)


def _widen_graph(onnx: Any, graph: Any, precision: str) -> None:
    narrower, wide = _NARROWER[precision], _NUMBER[precision]
    for value in [*graph.input, *graph.output]:
        tensor = value.type.tensor_type
        if tensor.elem_type in narrower:
            tensor.elem_type = wide
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == _TYPED.get(node.op_type) and attribute.i in narrower:
                attribute.i = wide
            elif precision == "float32":
                pass
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                data = attribute.f if attribute.name == "value_float" else list(attribute.floats)
                tensor = onnx.numpy_helper.from_array(np.asarray(data, dtype=np.float64), "value")
                attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))
            elif attribute.name == "stash_type" and attribute.i == _FLOAT:
                attribute.i = _DOUBLE
            if attribute.HasField("g"):
                _widen_graph(onnx, attribute.g, precision)
        if precision == "float64" and node.op_type == "ConstantOfShape" and not node.attribute:  # its default is a float32 zero
            node.attribute.append(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(np.zeros(1), "value")))


def example_inputs(inputs: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, int], seed: int = 0) -> list[torch.Tensor]:
    """A random example for every input; small integers are valid indices of any vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for name, shape in inputs.items():
        if math.prod(shape) > _MOST:
            raise TraceError(f"an example of the input {name!r} would be of shape {list(shape)}. Pass example inputs, or smaller `dimensions=`.")
        dtype = DTYPES.get(dtypes[name], torch.float32)
        if dtype.is_floating_point:
            out.append(torch.randn(shape, generator=generator))
        elif dtype == torch.bool:
            out.append(torch.ones(shape, dtype=dtype))
        else:
            out.append(torch.randint(0, 2, shape, generator=generator).to(dtype))
    return out
