"""What looks like a symmetry and is none: larger groups change the function, each beside a smaller one that keeps it.

Permutations of this kind (heads across key-value groups, heads under fixed slopes, one layer of shared position tables) stand in
tests/compiler/test_typing_cases.py. These are scales, signs, translations and matrices.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.attention import Attention
from tests.support.groups import change, random_state

State = dict[str, torch.Tensor]
KEPT, CHANGED = 1e-11, 1e-6


class Hidden(nn.Module):
    """A layer, something in between, and a layer that reads it."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.up, self.between, self.down = nn.Linear(5, 6), between, nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.between(self.up(x)))


class Gated(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.gate, self.up, self.down, self.function = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 3), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.function(self.gate(x)) * self.up(x))


def _rows(state: State, names: tuple[str, ...], factor: torch.Tensor) -> State:
    """Rows of weights, or elements of vectors, multiplied."""
    return {**state, **{n: state[n] * factor.reshape([-1] + [1] * (state[n].ndim - 1)) for n in names}}


def _columns(state: State, name: str, factor: torch.Tensor) -> State:
    return {**state, name: state[name] * factor}


def _one(value: float, size: int = 6) -> torch.Tensor:
    out = torch.ones(size, dtype=torch.float64)
    out[2] = value
    return out


def _scaled_row(value: float, layer: str = "up") -> Callable[[State], State]:
    """One unit's row and bias multiplied, its column divided."""
    names = (f"{layer}.weight", f"{layer}.bias")
    return lambda state: _columns(_rows(state, names, _one(value)), "down.weight", 1 / _one(value))


def _signs(places: tuple[str, ...], signs: torch.Tensor) -> Callable[[State], State]:
    return lambda state: _columns(_rows(state, places, signs), "down.weight", signs)


def _heads(matrix: torch.Tensor) -> Callable[[State], State]:
    """Queries of the first head by a matrix, keys by its inverse transpose."""

    def act(state: State) -> State:
        out = dict(state)
        for name, m in (("q", matrix), ("k", torch.linalg.inv(matrix).T)):
            whole = torch.eye(8, dtype=torch.float64)
            whole[:4, :4] = m
            out[f"{name}.weight"], out[f"{name}.bias"] = whole @ state[f"{name}.weight"], whole @ state[f"{name}.bias"]
        return out

    return act


def _shifted(name: str) -> Callable[[State], State]:
    return lambda state: {**state, name: state[name] + torch.arange(1.0, 9.0, dtype=torch.float64)}


def _full() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.eye(4, dtype=torch.float64) + 0.4 * torch.randn(4, 4, generator=generator, dtype=torch.float64)


def _planes() -> torch.Tensor:
    """A complex multiplication in each rotary plane: dimensions i and i + 2."""
    out = torch.zeros(4, 4, dtype=torch.float64)
    for i, (a, b) in enumerate(((1.3, 0.4), (0.7, -0.9))):
        out[i, i], out[i, i + 2], out[i + 2, i], out[i + 2, i + 2] = a, -b, b, a
    return out


def _attention(position: str | None = None) -> nn.Module:
    return Attention(position=position)


EVERY, SINGLE = -torch.ones(6, dtype=torch.float64), _one(-1.0)
IN_NORM = ("up.weight", "up.bias", "between.bias")

# name → network, transformation, whether it keeps the function.
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[State], State], bool]] = {
    "matrices on queries and keys without positions": (_attention, _heads(_full()), True),
    "full matrices under rotary positions": (lambda: _attention("rotary"), _heads(_full()), False),
    "rotations in rotary planes": (lambda: _attention("rotary"), _heads(_planes()), True),
    "key bias": (_attention, _shifted("k.bias"), True),
    "query bias": (_attention, _shifted("q.bias"), False),
    "key bias under rotary positions": (lambda: _attention("rotary"), _shifted("k.bias"), False),
    "one sign for all that a layer norm normalises": (lambda: Hidden(nn.LayerNorm(6)), _signs(IN_NORM, EVERY), True),
    "layer norm, sign of one channel": (lambda: Hidden(nn.LayerNorm(6)), _signs(IN_NORM, SINGLE), False),
    "root mean square norm, sign of one channel": (lambda: Hidden(nn.RMSNorm(6)), _signs(IN_NORM[:2], SINGLE), True),
    "up branch of a gated unit": (lambda: Gated(F.silu), _scaled_row(-1.7), True),
    "gate of a gated unit": (lambda: Gated(F.silu), _scaled_row(1.7, "gate"), False),
    "gate of a unit gated by relu": (lambda: Gated(F.relu), _scaled_row(1.7, "gate"), True),
    "relu, scale": (lambda: Hidden(nn.ReLU()), _scaled_row(1.7), True),
    "relu, sign": (lambda: Hidden(nn.ReLU()), _scaled_row(-1.0), False),
    "relu6, scale": (lambda: Hidden(nn.ReLU6()), _scaled_row(1.7), False),
    "gelu, scale": (lambda: Hidden(nn.GELU()), _scaled_row(1.7), False),
    "tanh, sign": (lambda: Hidden(nn.Tanh()), _scaled_row(-1.0), True),
    "tanh, scale": (lambda: Hidden(nn.Tanh()), _scaled_row(1.7), False),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_by_hand(name: str) -> None:
    make, act, keeps = CASES[name]
    model = make().eval()
    state = {key: 3 * value for key, value in random_state(model).items()}  # far enough out to reach what saturates
    shape = (3, 7, 5) if isinstance(model, Attention) else (40, 5)
    found = change(model, (torch.randn(shape, generator=torch.Generator().manual_seed(1)),), state, act(state))
    assert (found < KEPT) if keeps else (found > CHANGED), found
