"""Vocabularies: collected from the first batch, frozen, saved."""

import copy
import pickle

import pytest
import torch

from paramgraph.errors import MetanetError
from paramgraph.metanets import GMN, Vocabulary

from .handmade import everything, mlp


def lazy(**options):
    torch.manual_seed(0)
    return GMN(8, 1, backend="torch", **options)


def test_collected_sorted_and_frozen_at_the_first_batch():
    net = lazy()
    assert net.vocabulary is None
    net([mlp()])
    assert net.vocabulary == Vocabulary(("bias", "input", "neuron", "output"), ("relu",), ("bias", "weight"))
    with pytest.raises(MetanetError, match="'everything'"):
        net([everything()])
    assert net.vocabulary == Vocabulary.from_graphs([mlp()])


def test_a_batch_that_is_refused_teaches_nothing():
    net = lazy()
    with pytest.raises(MetanetError):
        net([everything(), mlp(dtype=torch.float64)])
    assert net.vocabulary is None


def test_the_order_of_graphs_does_not_matter():
    assert Vocabulary.from_graphs([mlp(), everything()]) == Vocabulary.from_graphs([everything(), mlp()])


def test_merged_keeps_rows():
    merged = Vocabulary.from_graphs([mlp()]).merged(Vocabulary.from_graphs([everything()]))
    assert merged.edge_types[:2] == ("bias", "weight")
    merged.check(mlp())
    merged.check(everything())


def test_lazy_equals_given():
    given = lazy(vocabulary=Vocabulary.from_graphs([mlp()]))
    net = lazy().double()
    net([mlp(dtype=torch.float64)])
    assert net.embeddings.node_type.dtype == torch.float64
    assert {n: p.shape for n, p in net.named_parameters()} == {n: p.shape for n, p in given.named_parameters()}


def test_saved_and_loaded(tmp_path):
    net, fresh = lazy(), GMN(8, 1, backend="torch")
    expected = net([mlp()])
    torch.save(net.state_dict(), tmp_path / "gmn.pt")
    fresh.load_state_dict(torch.load(tmp_path / "gmn.pt", weights_only=True))
    assert fresh.vocabulary == net.vocabulary
    assert torch.equal(fresh([mlp()]), expected)
    other = GMN(8, 1, backend="torch", vocabulary=Vocabulary.from_graphs([everything()]))
    other.load_state_dict(net.state_dict())
    assert torch.equal(other([mlp()]), expected)


@pytest.mark.parametrize("backend", ["torch", "dgl"])
def test_copied_and_pickled(backend):
    torch.manual_seed(0)
    net = GMN(8, 1, backend=backend)
    expected = net([mlp()])
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other([mlp()]), expected)
    copy.deepcopy(GMN(8, 1, backend=backend))([mlp()])
