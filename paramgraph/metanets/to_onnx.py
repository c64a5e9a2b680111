"""Trained metanets as ONNX models, for the networks of one architecture: parameters in, predictions out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paramgraph.errors import MetanetError, MissingDependencyError
from paramgraph.exchange.files import written_whole
from paramgraph.graph import ParamGraph
from paramgraph.metanets.heads import Prediction
from paramgraph.metanets.stack import Stack


def export_onnx(metanet: nn.Module, example: ParamGraph | Stack, path: str | Path) -> dict[str, str]:
    """Write a metanet on the `torch` backend as an ONNX model that reads networks of the structure of `example`.

    The structure becomes constants of the model. Its inputs are the parameters: one per base name of `example`, `(networks, *shape)`, as in
    `Stack.values`, with as many networks as `example` has (one for a graph); integers, which metanets read as numbers, too. Its outputs are
    `prediction`, `(networks, out)`, of a graph head, and of the others one per node or edge set, `(networks, …, out)`, named by it. What the
    metanet would check of values (NaN, dtypes) is not checked.

    Args:
        metanet: a GMN or ScaleGMN; it is exported in evaluation mode, and left as it was.
        example: a network or stack of the architecture.
        path: of the file.

    Returns:
        The model's name for each input, by base name: parameters that the metanet does not read are left out.

    Raises:
        MetanetError: the metanet runs on another backend, or has seen no batch yet.
        MissingDependencyError: onnxscript, which torch's exporter needs, is not installed.
    """
    backend = getattr(getattr(metanet, "backend", None), "name", None)
    if backend != "torch":
        raise MetanetError(f"expected a metanet on the 'torch' backend, got {backend!r}; load it with `load_metanet(path, backend='torch')`.")
    if getattr(metanet, "vocabulary", None) is None:
        raise MetanetError(f"this {type(metanet).__name__} has seen no batch yet and knows no types; train it, or load a trained one.")
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("exporting to ONNX needs onnxscript: pip install onnxscript") from error
    stack = example if isinstance(example, Stack) else Stack(example, {n: v.detach()[None] for n, v in example.values.items()})
    training = metanet.training
    wrapped = _OnValues(metanet, stack.graph, tuple(stack.values)).eval()
    try:
        with torch.no_grad():
            values = tuple(stack.values.values())
            found = wrapped(*values)  # the layout is made and kept, so that the trace finds constants
            names = {name: f"values.{number}" for number, name in enumerate(stack.values)}
            program: Any = torch.onnx.export(
                wrapped, values, input_names=list(names.values()), output_names=list(found), dynamo=True, optimize=True, verbose=False
            )
    finally:
        metanet.train(training)
    with written_whole(path) as temporary:
        program.save(str(temporary))
    read = {one.name for one in program.model.graph.inputs}
    return {name: given for name, given in names.items() if given in read}


class _OnValues(nn.Module):
    """A metanet as a function of tensors."""

    def __init__(self, metanet: nn.Module, graph: ParamGraph, names: tuple[str, ...]) -> None:
        super().__init__()
        self.metanet = metanet
        self.graph = graph
        self.names = names

    def forward(self, *values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Predictions by name, each with a leading axis for the networks."""
        prediction: Prediction = self.metanet(Stack(self.graph, dict(zip(self.names, values, strict=True))))
        return stacked(prediction)


def stacked(prediction: Prediction) -> dict[str, torch.Tensor]:
    """Predictions of networks of one architecture by name, each with a leading axis for the networks."""
    if isinstance(prediction, torch.Tensor):
        return {"prediction": prediction}
    first: Mapping[str, torch.Tensor] = prediction[0]
    return {name: torch.stack([one[name] for one in prediction]) for name in first}
