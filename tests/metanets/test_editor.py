"""The editor: identity at first, equivariant, trained through the edited network, for every kind of parameter."""

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.errors import MetanetError
from paramgraph.metanets import GMN, Editor, Stack, run

from .test_gmn import deviation


class Network(nn.Module):
    """A convolution, a norm, an embedding, an attention and linear layers."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(1, 4, 3, padding=1), nn.BatchNorm1d(4)
        self.embed = nn.Embedding(5, 6)
        self.block = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
        self.head = nn.Linear(10, 2)

    def forward(self, x, tokens):
        seen = torch.relu(self.norm(self.conv(x))).mean(-1)
        return self.head(torch.cat([seen, self.block(self.embed(tokens)).mean(1)], dim=-1))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = Network().double().eval()
    model.norm.running_var.uniform_(0.5, 2)
    for name, parameter in model.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter, std=0.2)
    inputs = torch.randn(3, 1, 7, dtype=torch.float64), torch.randint(0, 5, (3, 4))
    return model, inputs, pg.compile(model, inputs)


def editor(mode="residual", **options):
    torch.manual_seed(1)
    net = GMN(8, 2, backend="torch", head="edge", out=2 if mode == "both" else 1, **options).double()
    return Editor(net, mode, scale=0.1).double()


def randomise(made, graph):
    made([graph])
    torch.manual_seed(2)
    for parameter in made.metanet.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


@pytest.mark.parametrize("mode", ["residual", "mask", "both"])
def test_it_begins_as_the_identity(network, mode):
    _, _, graph = network
    edited = editor(mode)([graph])[0]
    assert all(torch.equal(edited.values[n], v) for n, v in graph.values.items())


@pytest.mark.parametrize("mode", ["residual", "mask", "both"])
def test_editing_a_moved_network_moves_the_edited_one(network, mode):
    model, inputs, graph = network
    made = randomise(editor(mode), graph)
    element = graph.symmetry.sample(torch.Generator().manual_seed(0), kinds="permutation")
    moved = graph.with_values(element.act(graph.values))
    expected = element.act({n: v.detach() for n, v in made([graph])[0].values.items()})
    found = made([moved])[0].values
    assert not element.is_identity()
    assert deviation(dict(found), expected) < 1e-10
    changed = {n for n, v in made([graph])[0].values.items() if not torch.equal(v, graph.values[n])}
    assert changed == {n for n in graph.values if "running" not in n and "tracked" not in n}
    assert deviation(run(model, graph.with_values(dict(found)), *inputs), run(model, made([graph])[0], *inputs)) < 1e-9


def test_a_loss_on_outputs_trains_it(network):
    model, inputs, graph = network
    made = editor()
    wanted = run(model, graph, *inputs).detach() * 0.5
    made([graph])
    optimiser = torch.optim.Adam(made.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        loss = (run(model, made([graph])[0], *inputs) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_stacks_come_back_as_stacks(network):
    model, inputs, graph = network
    states = [{n: v + k * 0.1 if v.is_floating_point() else v for n, v in graph.values.items()} for k in range(3)]
    stack = Stack.of(graph, states)
    made = randomise(editor("both"), graph)
    together = made(stack)
    alone = made([graph.with_values(state) for state in states])
    assert isinstance(together, Stack) and len(together) == 3
    assert max(deviation(dict(together[k].values), dict(alone[k].values)) for k in range(3)) < 1e-10
    mixed = made([graph, stack])
    assert deviation(dict(mixed[1][2].values), dict(alone[2].values)) < 1e-10
    assert deviation(run(model, together, *inputs)[1], run(model, alone[1], *inputs)) < 1e-10


class Twice(nn.Module):
    """A layer under two names, and a parameter of two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.table, self.readout = nn.Linear(4, 4), nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.again, self.readout.weight = self.first, self.table.weight

    def forward(self, tokens):
        return self.readout(torch.tanh(self.again(torch.tanh(self.first(self.table(tokens))))))


def test_networks_that_share_parameters_run():
    torch.manual_seed(0)
    model, tokens = Twice().double().eval(), torch.randint(5, (2, 3))
    before = model(tokens)
    graph = pg.compile(model, tokens)
    made = randomise(editor("both"), graph)
    stack = Stack.of(graph, [graph.values, {n: 2 * v for n, v in graph.values.items()}])
    assert deviation(run(model, graph, tokens), before) < 1e-12
    outputs = run(model, made(stack), tokens)
    twin = Twice().double()
    for number, edited in enumerate(made(stack)):
        twin.load_state_dict({n: v.detach() for n, v in edited.state_dict().items()})
        assert deviation(outputs[number], twin(tokens)) < 1e-12
        assert deviation(run(model, edited, tokens), twin(tokens)) < 1e-12
    outputs.square().sum().backward()
    assert all(p.grad is not None for p in made.parameters())
    assert torch.equal(model(tokens), before) and model.again is model.first


def test_networks_run_through_their_own_modules(network):
    _, inputs, graph = network
    for item in (graph, Stack.of(graph, [graph.values])):
        with pytest.raises(MetanetError, match="Twice has no parameter .*; pass the module that the graph was compiled from"):
            run(Twice(), item, *inputs)


def test_metanets_without_an_edge_head_do_not_edit():
    with pytest.raises(MetanetError, match="head='edge', out=1"):
        Editor(GMN(8, 1, backend="torch"))
    with pytest.raises(MetanetError, match="head='edge', out=2"):
        Editor(GMN(8, 1, backend="torch", head="edge", out=1), mode="both")


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.attention, self.head = nn.Linear(3, 8), nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 2)

    def forward(self, x):
        h = self.embed(x)
        return self.head(self.attention(h, h, h, need_weights=False)[0].mean(1))


@pytest.mark.parametrize("kind", [Recurrent, Attending])
def test_gradients_reach_the_editor_of_a_stack_through_any_layer(kind):
    """Torch has no batching rule for recurrent layers, and no derivative of the attention that it takes for inference."""
    torch.manual_seed(0)
    model, x = kind().double().eval(), torch.randn(4, 5, 3, dtype=torch.float64)
    graph = pg.compile(model, x)
    stack = Stack.of(graph, [{n: v + 0.1 * k for n, v in graph.values.items()} for k in range(2)])
    made, gradients = randomise(editor(), graph), []
    fast = torch.backends.mha.get_fastpath_enabled()
    for outputs in (lambda s: run(model, s, x), lambda s: torch.stack([run(model, one, x) for one in s])):
        made.zero_grad()
        outputs(made(stack)).square().sum().backward()
        gradients.append([p.grad.clone() for p in made.parameters()])
    assert deviation(*gradients) < 1e-10 and any(bool(g.any()) for g in gradients[0])
    assert torch.backends.mha.get_fastpath_enabled() == fast
    with pytest.raises(RuntimeError, match="shape|size"):  # what is wrong with a network is still said
        run(model, stack, torch.randn(4, 5, 2, dtype=torch.float64))
