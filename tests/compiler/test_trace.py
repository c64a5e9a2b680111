"""What can be compiled, in which forms, and what is said when it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.errors import ParamGraphError, StateDictError, TraceError
from tests.support import attention, branches, gathered, layers, values  # noqa: F401  registers the cases
from tests.support.cases import CASES, lam


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


# -- forms of a network --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "two-head attention", "convolution with batch norm", "tied embedding"])
def test_exported_programs_and_files(name: str, tmp_path: Path) -> None:
    model, inputs = CASES[name].build()
    exported = torch.export.export(model, inputs)
    path = tmp_path / "network.pt2"
    torch.export.save(exported, path)
    for form in (exported, path, str(path)):
        graph = pg.compile(form)
        assert graph.symmetry.log_order == pytest.approx(CASES[name].log_order)
        report = pg.verify(graph, form, elements=1, inputs=1)
        assert report.passed, str(report)
        assert any("exported program" in note for note in report.notes)
        assert set(graph.names) == set(model.state_dict())


def test_symbolically_traced_module() -> None:
    model, x = network(), torch.randn(5, 4)
    traced = torch.fx.symbolic_trace(model)
    graph = pg.compile(traced, x)
    assert graph.symmetry.log_order == pytest.approx(lam(6))
    assert pg.verify(graph, traced, x).passed
    assert pg.verify(graph, model, x).passed


def test_inputs_in_all_forms() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.o = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
            h = self.a(x) if y is None else self.a(x) + self.b(y)
            return self.o(torch.tanh(h))

    model, x, y = Two().eval(), torch.randn(5, 4), torch.randn(5, 3)
    used = [pg.compile(model, *args) for args in (((x, y),), ([x, y],), ({"x": x, "y": y},), (x, {"y": y}))]
    assert [graph.symmetry.log_order for graph in used] == pytest.approx([lam(6)] * 4)
    alone = pg.compile(model, x)
    assert {d.subject for d in alone.diagnostics if d.kind == "unused"} == {"b.weight", "b.bias"}


def test_causes_are_those_of_what_is_read() -> None:
    class Levels(nn.Module):
        """Two layers whose initial states stand in one tensor, and a table of integers that says where they are read."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.o = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
            self.state = nn.Parameter(torch.randn(2, 6))
            self.register_buffer("order", torch.tensor([3, 1, 0, 2, 4]))
            self.register_buffer("count", torch.tensor(0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.o(torch.tanh(self.b(torch.tanh(self.a(x[self.order]) + self.state[0])) + self.state[1]))

    said = {d.subject: (d.kind, d.cause) for d in pg.compile(Levels().eval(), torch.randn(5, 4)).diagnostics}
    assert said["count"] == ("unused", "no operation reads it; it belongs to no group")
    assert said["order"] == ("note", "its integers belong to the function: it is in no group")
    assert not [subject for subject in said if subject.startswith("state")]


def test_several_inputs_of_one_shape_stay_apart() -> None:
    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 6)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return (torch.tanh(self.a(x)) * torch.sin(self.b(y))).sum(-1)

    model, inputs = Apart().eval(), (torch.randn(5, 4), torch.randn(5, 4))
    graph = pg.compile(model, inputs)
    assert graph.symmetry.log_order == pytest.approx(lam(6))
    assert pg.verify(graph, model, inputs).passed


def test_training_mode_ties_buffers_to_their_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3)).train()
    x = torch.randn(4, 3, 7, 7)
    graph = pg.compile(model, x)
    assert graph.symmetry.log_order == pytest.approx(lam(6))
    assert model.training
    assert {"1.running_mean", "1.running_var", "1.weight"} <= set(graph.symmetry.moved_by(0))
    assert pg.compile(model.eval(), x).symmetry.log_order == pytest.approx(lam(6))


def test_meta_device_costs_nothing() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(40_000, 50_000), nn.ReLU(), nn.Linear(50_000, 30_000)).eval()
    graph = pg.compile(model, torch.empty(3, 40_000, device="meta"))
    assert graph.num_parameters == 40_000 * 50_000 + 50_000 + 50_000 * 30_000 + 30_000
    assert graph.symmetry.log_order == pytest.approx(lam(50_000))


def test_compiling_leaves_the_network_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 3)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = pg.compile(model, torch.randn(5, 4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert graph.values["0.weight"].data_ptr() == model[0].weight.data_ptr()  # by reference


# -- shared parameters ---------------------------------------------------------------------------------------------------------


def test_shared_parameters_appear_once() -> None:
    model, inputs = CASES["tied embedding"].build()
    graph = pg.compile(model, inputs)
    assert set(graph.names) == {"embed.weight", "inner.weight", "inner.bias", "head.weight"}
    assert set(graph.values) == {"embed.weight", "inner.weight", "inner.bias"}
    assert graph.num_parameters == 11 * 6 + 36 + 6


def test_slice_of_another_parameter() -> None:
    class Sliced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.o = nn.Parameter(torch.randn(7, 4)), nn.Linear(7, 2)
            self.part = nn.Parameter(self.table.detach()[2:5])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.o(torch.tanh(x @ self.table.T)) + torch.sin(x @ self.part.T).sum(-1, keepdim=True)

    model, x = Sliced().eval(), torch.randn(5, 4)
    graph = pg.compile(model, x)
    assert set(graph.aliases) == {"part"}
    assert graph.symmetry.log_order == pytest.approx(lam(3) + lam(4))  # rows 2 to 4, and the other four
    assert pg.verify(graph, model, x, leave_one_out="all").passed


def test_overlapping_strides_pin() -> None:
    """A Toeplitz view is no slice: its elements are fixed, and the cause is said."""
    class Toeplitz(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Parameter(torch.randn(9))
            self.square = nn.Parameter(self.line.detach().as_strided((5, 5), (1, 1)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x @ self.square).sum(-1) + self.line.pow(3).sum()

    model, x = Toeplitz().eval(), torch.randn(3, 5)
    graph = pg.compile(model, x)
    assert graph.symmetry.log_order == 0
    assert any("strides" in d.cause for d in graph.diagnostics)


# -- what cannot be traced -----------------------------------------------------------------------------------------------------


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x) if x.sum() > 0 else x


def test_branch_on_data() -> None:
    with pytest.raises(TraceError, match=r"(?s)Branching could not be traced.*test_trace\.py:\d+.*branches on data.*register a rule"):
        pg.compile(Branching().eval(), torch.randn(5, 4))


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(TraceError, match=r"(?s)Sequential could not be traced with inputs \(float32\[5, 7\]\).*example inputs"):
        pg.compile(network(), torch.randn(5, 7))
    with pytest.raises(TraceError, match=r"(?s)nonsense=float32\[2\]"):
        pg.compile(network(), torch.randn(5, 4), {"nonsense": torch.randn(2)})
    with pytest.raises(TraceError, match="could not be traced"):
        pg.compile(network(), (torch.randn(5, 4), torch.randn(5, 4)))


def test_no_inputs() -> None:
    with pytest.raises(TraceError, match="needs example inputs: pass a tensor"):
        pg.compile(network())


@pytest.mark.parametrize("model", [3, "module", lambda x: x, {"a": torch.ones(2)}])
def test_no_network(model: Any) -> None:
    with pytest.raises(TraceError, match=r"expected|no file"):
        pg.compile(model, torch.randn(3))


def test_files(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no file"):
        pg.compile(tmp_path / "missing.pt2")
    foreign = tmp_path / "foreign.pt2"
    foreign.write_bytes(b"nothing that torch wrote")
    with pytest.raises(TraceError, match=r"foreign\.pt2 is not a readable \.pt2 file"):
        pg.compile(foreign)
    other = tmp_path / "weights.pth"
    torch.save({}, other)
    with pytest.raises(TraceError, match=r"weights\.pth: expected a \.pt2 file.*'\.pth'"):
        pg.compile(other)


def test_errors_share_a_base() -> None:
    assert issubclass(TraceError, ParamGraphError)
    assert issubclass(StateDictError, ParamGraphError)


# -- state dicts ---------------------------------------------------------------------------------------------------------------


def test_state_dict_round_trip_and_misfits() -> None:
    model, x = network(), torch.randn(5, 4)
    graph = pg.compile(model, x)
    state = graph.state_dict()
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    theta = graph.symmetry.sample(0).act(state)
    assert all(torch.equal(graph.with_values(theta).state_dict()[name], theta[name]) for name in theta)
    with pytest.raises(StateDictError, match=r"missing \['2\.bias'\]"):
        graph.with_values({name: tensor for name, tensor in state.items() if name != "2.bias"})
    with pytest.raises(StateDictError, match=r"unknown \['extra'\]"):
        graph.with_values(state | {"extra": x})
    with pytest.raises(StateDictError, match=r"0\.weight: expected shape \(6, 4\), got \(4, 6\)"):
        graph.with_values(state | {"0.weight": state["0.weight"].T})
    with pytest.raises(StateDictError, match="expected a tensor"):
        graph.with_values(state | {"0.weight": "text"})  # type: ignore[dict-item]


def test_tied_values_must_agree() -> None:
    model, inputs = CASES["tied embedding"].build()
    graph = pg.compile(model, inputs)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert graph.with_values(state).values["embed.weight"] is state["embed.weight"]
    with pytest.raises(StateDictError, match=r"head\.weight shares storage with embed\.weight"):
        graph.with_values(state | {"head.weight": state["head.weight"] + 1})


@pytest.mark.parametrize("draw", [
    lambda h: h + torch.randn_like(h), lambda h: h * torch.rand(6), lambda h: h[:, torch.randperm(6)],
    lambda h: h * torch.bernoulli(torch.sigmoid(h)), lambda h: torch.nn.functional.rrelu(h, training=True),
], ids=["noise", "factors", "a shuffle", "gates", "slopes"])  # fmt: skip
def test_random_numbers_fix_what_they_meet(draw: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Every element draws its own: which one is not the same in every run, so no constant is read of them."""

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(draw(self.b(torch.tanh(self.a(x)))))

    model, x = Noisy().eval(), torch.randn(7, 4)
    graph = pg.compile(model, x)
    assert graph.symmetry.log_order == pytest.approx(lam(5))
    assert not [d for d in graph.diagnostics if d.kind == "unknown-operation"]
    assert any("random numbers" in d.cause for d in graph.diagnostics)
    report = pg.verify(graph, model, x)
    assert report.passed, str(report)
