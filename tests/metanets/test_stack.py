"""Stacks and populations: the same as their graphs one by one, through loaders with workers too."""

import pickle

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import paramgraph as pg
from paramgraph.errors import MetanetError, StateDictError
from paramgraph.graph import EdgeSet, ParameterView
from paramgraph.metanets import GMN, Population, Stack, Vocabulary, collate, wrap_phases
from paramgraph.metanets.layout import feature_kind
from paramgraph.metanets.stack import read_stacked, write_stacked

from .handmade import everything, make_graph, mlp, nodes
from .test_gmn import deviation, gmn, tensors


def stack_of(*graphs):
    return Stack.of(graphs[0], [g.values for g in graphs])


@pytest.mark.parametrize("head", ["graph", "node", "edge"])
@pytest.mark.parametrize("way", [{}, {"pack_edges": 0}, {"keep_edges": 0, "tile_edges": 40, "pack_edges": 0}], ids=str)
def test_a_stack_is_its_graphs(head, way):
    first, second = [mlp(s, dtype=torch.float64) for s in range(3)], [everything(s, torch.float64) for s in range(2)]
    alone = mlp(9, widths=(3, 4, 4, 2), dtype=torch.float64)
    net = gmn(head=head, **way)
    given = [stack_of(*first), alone, stack_of(*second), mlp(7, dtype=torch.float64)]
    expected = net([*first, alone, *second, given[3]])
    assert deviation(tensors(net(given)), tensors(expected)) < 1e-10
    assert deviation(tensors(net(given[0])), tensors(net(first))) < 1e-10


def test_gradients_reach_stacked_values():
    graphs = [mlp(s, dtype=torch.float64) for s in range(3)]
    stack = stack_of(*graphs)
    values = {n: v.clone().requires_grad_() for n, v in stack.values.items()}
    for way in ({"pack_edges": 0}, {"keep_edges": 0, "tile_edges": 4, "pack_edges": 0}, {}):
        gmn(**way)(Stack(stack.graph, values)).sum().backward()
    single = [v.clone().requires_grad_() for v in graphs[1].values.values()]
    net = gmn()
    net(stack)  # sizes of values are measured on the first batch: the same one for all
    net([graphs[1].with_values(dict(zip(graphs[1].values, single, strict=True)))]).sum().backward()
    assert deviation([v.grad[1] / 3 for v in values.values()], [v.grad for v in single]) < 1e-10


def test_reading_and_writing_back_are_transposes():
    views = [
        (ParameterView("w", (6, 2, 4), ((0, 3, 1), (0, 2, 1), (0, 4, 1)), (2, 0, 1)), (1, 4, 3, 2)),
        (ParameterView("w", (48,), ((0, 48, 1),), (0,), index=torch.tensor([5, 0, 7]).numpy()), (3, 1, 1, 1)),
    ]
    base = torch.randn(3, 6, 8, dtype=torch.float64)
    for view, shape in views:
        other = torch.randn(3, *shape, dtype=torch.float64)
        assert torch.allclose((read_stacked(view, base, shape) * other).sum(), (base * write_stacked(view, other, (6, 8))).sum())
        assert torch.equal(read_stacked(view, base, shape)[1], view.read(base[1], shape))


def test_what_does_not_stack():
    with pytest.raises(MetanetError, match="expected '1.weight' of shape"):
        Stack(mlp(), {n: v.expand(2, *v.shape) if n != "1.weight" else v for n, v in mlp().values.items()})
    with pytest.raises(MetanetError, match="graph 'nothing' has no parameters"):
        Population([mlp(), make_graph("nothing", [nodes("x", "input", 2)], [], {})])
    with pytest.raises(StateDictError):
        Stack.of(mlp(), [everything().values])
    with pytest.raises(MetanetError, match="empty batch"):
        gmn(torch.float32)([stack_of(mlp()).take([])])


def test_bad_values_are_named_with_their_number():
    stack = stack_of(*(mlp(s) for s in range(4)))
    stack.values["1.bias"][2, 1] = float("nan")
    with pytest.raises(MetanetError, match=r"graph 'mlp' \(number 2 of a stack\), edge set '1.bias'"):
        gmn(torch.float32)([stack])
    with pytest.raises(MetanetError, match="number 0 of a stack.*torch.float64, the metanet torch.float32"):
        gmn(torch.float32)(stack.to(torch.float64))


def test_integers_stay_integers_in_a_stack():
    assert stack_of(everything(), everything(1)).to(torch.float64).values["steps"].dtype == torch.int64


@pytest.mark.parametrize("workers, context", [(0, None), (2, "fork"), (1, "spawn")])
def test_loaders(workers, context):
    graphs = [mlp(s) if s % 3 else everything(s) for s in range(12)]
    labels = torch.arange(12) * 10
    population = Population(graphs, labels)
    assert len(population.stacks) == 2 and len(population) == 12
    net = gmn(torch.float32)
    expected = dict(zip(labels.tolist(), net(graphs), strict=True))
    loader = DataLoader(population, batch_size=5, shuffle=True, num_workers=workers, collate_fn=collate, multiprocessing_context=context)
    seen = []
    for batch, targets in loader:
        for target, score in zip(targets.tolist(), net(batch), strict=True):
            assert deviation(score, expected[target]) < 1e-5
            seen.append(target)
        if workers:
            assert all(item.graph in population.graphs() or any(item.graph is g for g in population.graphs()) for item in batch)
    assert sorted(seen) == labels.tolist()


class Square(nn.Module):
    """A layer whose weight is used as it is, or transposed: the graphs differ in nothing but how its values are read."""

    def __init__(self, transposed):
        super().__init__()
        self.w, self.v, self.transposed = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 2)), transposed

    def forward(self, x):
        return torch.relu(x @ (self.w.T if self.transposed else self.w)) @ self.v


def test_networks_that_read_a_tensor_differently_are_kept_apart():
    torch.manual_seed(0)
    model, other, x = Square(False).double(), Square(True).double(), torch.randn(3, 4, dtype=torch.float64)
    other.load_state_dict({"w": model.w.detach().T.contiguous(), "v": model.v.detach()})
    graphs = [pg.compile(m, x) for m in (other, model, other)]
    net = GMN(8, 2, backend="torch").double()
    scores = net(graphs)
    assert deviation(scores[1], scores[0]) < 1e-10  # one function, written in two ways
    assert deviation(net([graphs[1].with_values(other.state_dict())]), scores[:1]) > 1e-6
    population = Population(graphs)
    assert [len(stack) for stack in population.stacks] == [2, 1]
    assert all(torch.equal(population[n][0].edge_values(population[n][0].edge_sets["w"])[0, :, :, 0], model.w.T) for n in range(3))


class Sine(nn.Module):
    def __init__(self, frequency):
        super().__init__()
        self.a, self.c, self.frequency = nn.Linear(2, 3), nn.Linear(3, 1), frequency

    def forward(self, x):
        return self.c(torch.sin(self.frequency * self.a(x)))


def test_networks_of_one_look_and_other_groups_are_no_stack():
    torch.manual_seed(0)
    models = [Sine(frequency).double() for frequency in (1.0, 30.0, 30.0, 1.0)]
    graphs = [pg.compile(m, torch.randn(5, 2, dtype=torch.float64)) for m in models]
    population = Population([wrap_phases(graph) for graph in graphs])
    assert [len(stack) for stack in population.stacks] == [2, 2]
    # Networks as they were compiled can be wrapped later, each by its own period.
    for stack in Population(graphs).stacks:
        for network in wrap_phases(stack):
            number = next(n for n, g in enumerate(graphs) if torch.equal(g.values["a.weight"].abs(), network.values["a.weight"].abs()))
            x = torch.randn(4, 2, dtype=torch.float64)
            wrapped = torch.func.functional_call(models[number], network.state_dict(), x)
            assert torch.allclose(wrapped, models[number](x), atol=1e-9)


def test_a_subset_keeps_networks_with_their_labels():
    graphs = [mlp(s) if s % 3 else everything(s) for s in range(6)]
    part = Population(graphs, torch.arange(6)).subset([5, 0, 2])
    assert sorted(part.labels.tolist()) == [0, 2, 5]
    for graph, label in (part[n] for n in range(3)):
        original = graphs[int(label)]
        assert all(torch.equal(graph.values[n], original.values[n]) for n in original.values)


def test_a_population_is_pickled_whole_and_data_sets_of_ones_own_are_collated():
    population = pickle.loads(pickle.dumps(Population([mlp(0), mlp(1)])))
    assert gmn(torch.float32)(collate(population.__getitems__([1]))[0]).shape == (1, 2)
    own = DataLoader([(mlp(0), 3), (everything(0), 4)], batch_size=2, collate_fn=collate)
    batch, labels = next(iter(own))
    assert labels.tolist() == [3, 4] and gmn(torch.float32)(batch).shape == (2, 2)


def test_networks_are_taken_by_number_or_mask():
    graphs = [mlp(s) for s in range(4)]
    stack, population = Stack.of(graphs[0], [g.values for g in graphs]), Population(graphs, [3, 1, 3, 2])
    for numbers in ([0, 2], torch.tensor([0, 2]), range(0, 3, 2), slice(0, 3, 2), population.labels == 3, [True, False, True, False]):
        taken = stack.take(numbers)
        assert len(taken) == 2 and torch.equal(taken[1].values["1.weight"], graphs[2].values["1.weight"])
        if not isinstance(numbers, slice):
            chosen = population.subset(numbers)
            assert chosen.labels.tolist() == [3, 3] and torch.equal(chosen[1][0].values["1.weight"], graphs[2].values["1.weight"])
    for numbers in ([True, False], [0.5], 1, torch.zeros(2, 2).long()):
        for take in (stack.take, population.subset):
            with pytest.raises(MetanetError, match="a mask"):
                take(numbers)
    assert len(stack.take([])) == 0
    with pytest.raises(MetanetError, match="in a subset"):
        population.subset([])
    with pytest.raises(MetanetError, match="a graph alone"):
        Population(graphs[0])


def test_labels_must_be_as_many():
    with pytest.raises(MetanetError, match="expected 2 labels"):
        Population([mlp(0), mlp(1)], [1, 2, 3])


def test_features_are_found_by_structure_and_send_no_messages():
    graph = mlp(dtype=torch.float64)
    net = GMN(8, 1, backend="torch", bias_layout="features", vocabulary=Vocabulary.from_graphs([graph])).double()
    layout = net._batch([graph], net.node_encoder.no_order, feature_kind)[0].layout
    assert {part.edges.name for job in layout.jobs if job.kind == "feature" for part in job.parts} == {"1.bias", "2.bias"}
    assert layout.in_degree.tolist() == [0, 0, 0, 0, 3, 3, 3, 3, 3, 0, 5, 5]
    # The bias nodes' own states reach no other node.
    before = net.states([graph]).nodes
    with torch.no_grad():
        net.embeddings.node_type[net.vocabulary.node_types.index("bias")] += 1.0
    after = net.states([graph]).nodes
    assert torch.equal(after[4:9], before[4:9]) and not torch.equal(after[3], before[3])
    # The biases' values do.
    moved = net.states([graph.with_values({**graph.values, "1.bias": graph.values["1.bias"] + 1})]).nodes
    assert deviation(moved[4:9], after[4:9]) > 1e-3


def test_attention_is_a_weighted_mean():
    """Where all messages of a node are equal, attention is the mean."""
    graph = make_graph(
        "star", [nodes("a", "a", 4), nodes("b", "b", 2, 1)], [EdgeSet("e", "t", "a", "b", (1, 2, 4, 1), parameter=None, depth=1)],
        {"w": torch.zeros(1)},
    )  # fmt: skip
    options = {"backend": "torch", "vocabulary": Vocabulary.from_graphs([graph]), "head": "node", "use_global": False}
    torch.manual_seed(0)
    plain = GMN(8, 1, **options)
    attending = GMN(8, 1, attention=2, **options)
    attending.load_state_dict({**attending.state_dict(), **plain.state_dict()})
    assert deviation(attending([graph]), plain([graph])) < 1e-6


def test_batch_norm():
    graphs = [mlp(s) for s in range(5)]
    net = GMN(8, 2, backend="torch", norm="batch", vocabulary=Vocabulary.from_graphs(graphs))
    before = net.layers[0].node_update.batch_norm.running_mean.clone()
    net(graphs).sum().backward()
    assert not torch.equal(net.layers[0].node_update.batch_norm.running_mean, before)
    net.eval()
    assert deviation(net(graphs), torch.cat([net([g]) for g in graphs])) < 1e-5
    net.train()
    assert torch.isfinite(net(graphs[:1])).all()


def test_heads_must_divide():
    with pytest.raises(MetanetError, match="divides hidden=8"):
        GMN(8, 1, backend="torch", attention=3)
