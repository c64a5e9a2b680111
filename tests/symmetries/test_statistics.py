"""Running variances with their gains, running means with their offsets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.errors import GroupError, StateDictError
from paramgraph.symmetries.statistics import CentreFactor, SpreadFactor


def factors(model: nn.Module, x: torch.Tensor) -> tuple[pg.ParamGraph, list[tuple[type, tuple[str, ...]]]]:
    graph = pg.compile(model.eval(), x)
    return graph, [(type(f), f.tensors) for f in graph.symmetry.moves if isinstance(f, (SpreadFactor, CentreFactor))]


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape) + 0.3)
    return model.double()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_both_are_found_and_hold(rank: int) -> None:
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank - 1](4, eps=0.3)
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1](2, 4, 1, bias=False)
    model, x = randomised(nn.Sequential(convolution, norm, nn.Tanh())), torch.randn(3, 2, *(2,) * rank, dtype=torch.float64)
    graph, found = factors(model, x)
    assert found == [(SpreadFactor, ("1.running_var", "1.weight")), (CentreFactor, ("1.running_mean", "1.bias"))]
    before, state = model(x), model.state_dict()
    motion = graph.symmetry.move(0)
    moved = motion.act(state)
    assert all(not torch.equal(moved[name], state[name]) for name in ("1.running_var", "1.weight", "1.running_mean", "1.bias"))
    torch.testing.assert_close(torch.func.functional_call(model, moved, (x,)), before, rtol=1e-12, atol=1e-12)
    back = motion.inverse().act(moved)
    assert all(torch.allclose(back[name], state[name], rtol=1e-12) for name in state)


def test_a_variance_may_come_out_negative_and_no_number_is_lost() -> None:
    model, x = randomised(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, eps=0.5), nn.Tanh())), torch.randn(4, 2, dtype=torch.float64)
    graph, _ = factors(model, x)
    (number,) = (n for n, f in enumerate(graph.symmetry.moves) if isinstance(f, SpreadFactor))
    factor = graph.symmetry.moves[number]
    state = model.state_dict()
    logs = torch.tensor([-2.0, 0.5, 0.0], dtype=torch.float64)
    moved = {**state, **factor.act(logs, state)}
    assert moved["1.running_var"][0] < 0
    torch.testing.assert_close(torch.func.functional_call(model, moved, (x,)), model(x), rtol=1e-12, atol=1e-12)
    broken = {**state, "1.running_var": torch.tensor([-1.0, 0.5, 0.5], dtype=torch.float64)}  # no deviation: left as it is
    kept = factor.act(logs, broken)
    assert all(bool(value.isfinite().all()) for value in kept.values())
    assert kept["1.running_var"][0] == -1 and kept["1.weight"][0] == state["1.weight"][0]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(3, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.second(self.norm(self.first(x)).tanh())).tanh()


def test_one_normalisation_at_two_places() -> None:
    """What is done to its parameters is seen at both, and holds there by itself."""
    model, x = randomised(Twice()), torch.randn(5, 3, dtype=torch.float64)
    graph, found = factors(model, x)
    assert len(found) == 2
    moved = graph.symmetry.move(0).act(model.state_dict())
    torch.testing.assert_close(torch.func.functional_call(model, moved, (x,)), model(x), rtol=1e-12, atol=1e-12)


def test_what_is_read_elsewhere_is_left_alone() -> None:
    class Shown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.norm(x).tanh(), self.norm.running_var + self.norm.bias

    x = torch.randn(5, 4)
    assert factors(Shown(), x)[1] == []
    assert factors(nn.BatchNorm1d(4, affine=False), x)[1] == []
    assert factors(nn.LayerNorm(4), x)[1] == []


def test_training_has_none() -> None:
    graph = pg.compile(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).train(), torch.randn(5, 3))
    assert not any(isinstance(f, (SpreadFactor, CentreFactor)) for f in graph.symmetry.moves)


def test_files_hold_them(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh())
    graph, found = factors(model, torch.randn(5, 3))
    graph.save(tmp_path / "n.pgraph")
    loaded = pg.load(tmp_path / "n.pgraph")
    assert [str(f) for f in loaded.symmetry.moves] == [str(f) for f in graph.symmetry.moves] and len(found) == 2


def test_what_leaves_the_range_of_its_type_is_said() -> None:
    """Multiples of running variances grow without bounds; nothing turns into infinities unseen."""
    model, x = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3), nn.Tanh()).eval(), torch.randn(4, 2, 5)
    symmetry, state = pg.compile(model, x).symmetry, model.state_dict()
    with pytest.raises(StateDictError, match=r"leaves the range of torch\.float32.*smaller sigma"):
        symmetry.move(0, sigma=1e4).act(state)
    with pytest.raises(GroupError, match="unknown factor 'x'"):
        symmetry.move(0, ["x"])  # type: ignore[list-item]
    for draw in (symmetry.move, symmetry.sample):
        with pytest.raises(GroupError, match="seed: expected an integer"):
            draw("a")  # type: ignore[arg-type]
    infinite = state | {"1.running_mean": torch.full((3,), float("inf"))}
    assert not symmetry.move(0).act(infinite)["1.running_mean"].isfinite().any()  # infinities stay what they are
