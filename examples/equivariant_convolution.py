"""A rule for a layer of another library that cannot be traced usefully: escnn's convolution, with its basis coefficients as the parameters.

escnn expands a filter from coefficients and a fixed equivariant basis. In evaluation mode it keeps the expanded filter only, and a trace
of that is a plain convolution which knows nothing of the coefficients. With a rule for its class the layer is kept whole, and the rule says
how filter and result follow from the coefficients. The basis pins orientations; fields may be permuted.

    pip install --no-deps escnn pymanopt autograd joblib
    python examples/equivariant_convolution.py
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import register_pytree_node

import paramgraph as pg
from paramgraph.errors import RuleError


def import_escnn() -> Any:
    """escnn. It imports lie_learn, for rotations in space only, whose builds need numpy 1: without one, an empty module does."""
    name = "lie_learn.representations.SO3.wigner_d"
    try:
        importlib.import_module(name)
    except ImportError:
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            path = ".".join(parts[:depth])
            sys.modules[path] = types.ModuleType(path)
        sys.modules[name].wigner_D_matrix = None  # type: ignore[attr-defined]
    return importlib.import_module("escnn")


escnn = import_escnn()


def _wrapped(tensors: list[Any], kind: Any) -> Any:
    """A geometric tensor around anything: tensors of a trace, or a rule's values."""
    out = object.__new__(escnn.nn.GeometricTensor)
    out.tensor, out.type, out.coords = tensors[0], kind, None
    return out


# Calls take tensors, and containers that torch can flatten.
register_pytree_node(escnn.nn.GeometricTensor, lambda x: ([x.tensor], x.type), _wrapped)


@pg.rule(escnn.nn.R2Conv)
def field_convolution(b, module, params, x):
    """Filter[a, o, c, i, p] = Σ_k weight[a, c, k] basis[k, o, i, p]: output fields a, input fields c, orientations o and i, places p."""
    if not module.training:
        raise RuleError("in evaluation mode escnn's convolutions read their expanded filters, not the coefficients: call model.train().")
    expansion = module.basisexpansion
    if expansion._n_pairs != 1:
        raise RuleError("this rule knows fields of one kind on either side of an escnn convolution.")
    (pair,) = expansion._representations_pairs
    block = f"block_expansion_{expansion._escape_pair(pair)}"
    sampled = getattr(expansion, block).sampled_basis
    basis = b.fixed(params[f"_basisexpansion.{block}.sampled_basis"], sampled.detach().cpu().numpy, "basis")
    k, o, i, p = basis.shape
    fields = expansion._out_count[pair[1]], expansion._in_count[pair[0]]
    weight = b.reshape(params["weights"], (*fields, k))
    filters = b.contract("ack,koip->aocip", weight, basis, name="basis expansion")
    size = module.kernel_size
    filters = b.reshape(filters, (fields[0] * o, fields[1] * i, size, size))
    y = b.convolve(x.tensor, filters, b.shapes[0])
    if module.bias is not None:
        y = b.elementwise("add", y, _bias(b, module, params, fields[0], o), role="bias")
    return _wrapped([y], module.out_type)


def _bias(b, module, params, fields, orientations):
    """Each field's bias, the same along the invariant direction of its orientations."""
    matrix = module.bias_expansion.detach().cpu().numpy()
    b.fixed(params["bias_expansion"], lambda: matrix)
    column = matrix[:orientations, 0]
    if not np.allclose(matrix, np.kron(np.eye(fields), column[:, None])):
        raise RuleError("this rule knows one bias for each field.")
    spread = b.contract("a,o->ao", params["bias"], b.constant((orientations,), lambda: column, "invariant direction"), name="bias")
    return b.reshape(spread, (fields * orientations, 1, 1))


class Network(nn.Module):
    """Two convolutions over four orientations, then the orientations' maximum."""

    def __init__(self) -> None:
        super().__init__()
        plane = escnn.gspaces.rot2dOnR2(4)
        self.input = escnn.nn.FieldType(plane, 3 * [plane.trivial_repr])
        hidden, last = (escnn.nn.FieldType(plane, n * [plane.regular_repr]) for n in (4, 5))
        self.first, self.second = escnn.nn.R2Conv(self.input, hidden, 3, padding=1), escnn.nn.R2Conv(hidden, last, 3)
        self.middle, self.head = escnn.nn.ReLU(hidden), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = escnn.nn.GeometricTensor(x, self.input)
        fields = self.second(self.middle(self.first(x))).tensor.unflatten(1, (5, 4))
        return self.head(fields.amax(2).mean((2, 3)))


def main() -> None:
    model, x = Network().train(), torch.randn(2, 3, 7, 7)
    graph = pg.compile(model, x)
    print(graph.symmetry)
    print(pg.verify(graph, model, x, leave_one_out="all"))


if __name__ == "__main__":
    main()
