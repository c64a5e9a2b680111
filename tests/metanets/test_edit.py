"""Edits per edge come back as a state dict."""

import pytest
import torch

from paramgraph.errors import MetanetError
from paramgraph.graph import EdgeSet, ParameterView
from paramgraph.metanets import GMN, edited_state_dict

from .handmade import everything, make_graph, mlp, nodes


def test_an_edit_is_added_where_it_was_read():
    """A tensor in two parts, split, sliced and permuted; a part by index."""
    base = {"w": torch.randn(6, 8), "v": torch.randn(4)}
    views = [
        ParameterView("w", (6, 2, 4), ((0, 3, 1), (0, 2, 1), (0, 4, 1)), (2, 0, 1)),
        ParameterView("w", (6, 8), ((3, 6, 1), (0, 8, 1)), (1, 0)),
        ParameterView("v", (4,), ((0, 4, 1),), (0,), index=torch.tensor([2, 0]).numpy()),
    ]
    shapes = [(1, 4, 3, 2), (1, 8, 3, 1), (1, 2, 1, 1)]
    sets = [EdgeSet(str(n), "t", "a", "b", s, parameter=v) for n, (s, v) in enumerate(zip(shapes, views, strict=True))]
    graph = make_graph("parts", [nodes("a", "a", 9), nodes("b", "b", 9)], sets, base)
    edits = {e.name: graph.edge_values(e)[..., None] for e in sets}
    edited = edited_state_dict(graph, edits, scale=2.0)
    assert torch.equal(edited["w"], 3 * base["w"])
    assert torch.equal(edited["v"], base["v"] * torch.tensor([3.0, 1.0, 3.0, 1.0]))


def test_uses_are_averaged_and_integers_stay():
    graph = everything()
    edits = {e.name: torch.ones(e.shape) for e in graph.edge_sets.values() if e.parameter is not None}
    edits["tied again"] = 3 * edits["tied again"]
    edited = edited_state_dict(graph, edits)
    assert torch.allclose(edited["tied"], graph.values["tied"] + 2)
    assert edited["steps"] is graph.values["steps"]
    assert graph.with_values(edited).edge_values(graph.edge_sets["stem"]).shape == (1, 6, 3, 4)


def test_losses_on_the_edited_network_reach_the_metanet():
    module = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    rename = {"1.weight": "0.weight", "1.bias": "0.bias", "2.weight": "2.weight", "2.bias": "2.bias"}
    net = GMN(8, 2, backend="torch", head="edge", residual=True)
    graph = mlp()
    state = edited_state_dict(graph, net([graph])[0], scale=0.1)
    output = torch.func.functional_call(module, {rename[n]: v for n, v in state.items()}, torch.randn(4, 3))
    output.square().mean().backward()
    assert net.head.linear.weight.grad.abs().sum() > 0


def test_edits_that_do_not_fit():
    with pytest.raises(MetanetError, match="no edge set 'skip' with a parameter"):
        edited_state_dict(everything(), {"skip": torch.zeros(6, 1, 1, 1)})
    with pytest.raises(MetanetError, match="expected an edit of shape"):
        edited_state_dict(everything(), {"stem": torch.zeros(1, 6, 3, 4, 2)})
