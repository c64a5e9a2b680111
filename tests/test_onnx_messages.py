"""All tensors of an ONNX message are found, sparse ones and those of subgraphs too."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from paramgraph.onnx_messages import tensors_of


def test_every_tensor_is_found() -> None:
    def tensor(name: str) -> TensorProto:
        return numpy_helper.from_array(np.ones(1, np.float32), name)

    sparse = helper.make_sparse_tensor(tensor("values"), numpy_helper.from_array(np.zeros(1, np.int64), "indices"), [3])
    inner = helper.make_graph([], "inner", [], [], [tensor("within")])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    constant = helper.make_node("Constant", [], ["k"], value=tensor("constant"))
    graph = helper.make_graph([constant, node], "g", [], [], [tensor("initialiser")], sparse_initializer=[sparse])
    found = [each.name for each in tensors_of(helper.make_model(graph))]
    assert sorted(found) == ["constant", "indices", "initialiser", "values", "within", "within"]
