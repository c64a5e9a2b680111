"""Small networks whose scale group is known: dimension of the magnitudes and number of independent signs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.support.cases import example

# Large enough not to blur ranks.
EPS = 0.3


@dataclass(frozen=True)
class ScaleCase:
    """A network, shapes of its inputs, dimension of its magnitudes, number of its signs, and whether magnitudes are the whole oracle's.

    Attributes:
        hidden: dimensions that the oracle finds beyond the characters (translations that look like scales).
    """

    name: str
    make: Callable[[], nn.Module]
    shapes: tuple[Any, ...]
    dimension: int
    signs: int
    hidden: int = 0

    def build(self) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        torch.manual_seed(0)
        return self.make().eval(), tuple(example(shape) for shape in self.shapes)


SCALES: dict[str, ScaleCase] = {}


def scales(name: str, dimension: int, signs: int, *shapes: Any, hidden: int = 0) -> Callable[[Any], Any]:
    """Register a class or factory without arguments."""

    def register(make: Any) -> Any:
        assert name not in SCALES, name
        SCALES[name] = ScaleCase(name, make, shapes, dimension, signs, hidden)
        return make

    return register


class Function(nn.Module):
    """A function without parameters."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def _perceptron(name: str, dimension: int, signs: int, act: nn.Module) -> None:
    scales(f"mlp, {name}", dimension, signs, (5, 4))(lambda: nn.Sequential(nn.Linear(4, 3), act, nn.Linear(3, 2)))


for _name, _act in {"relu": nn.ReLU(), "leaky relu": nn.LeakyReLU(), "squared relu": Function(lambda x: torch.relu(x) ** 2)}.items():
    _perceptron(_name, 3, 0, _act)
scales("mlp, prelu", 3, 0, (5, 4))(lambda: nn.Sequential(nn.Linear(4, 3), nn.PReLU(3), nn.Linear(3, 2)))
for _name, _act in {"tanh": nn.Tanh(), "sine": Function(lambda x: torch.sin(3 * x)), "hardtanh": nn.Hardtanh(),
                    "cosine": Function(torch.cos)}.items():  # fmt: skip
    _perceptron(_name, 0, 3, _act)
for _name, _act in {"gelu": nn.GELU(), "sigmoid": nn.Sigmoid(), "relu6": nn.ReLU6(), "silu": nn.SiLU(), "softplus": nn.Softplus(),
                    "hard-swish": nn.Hardswish(), "hard-sigmoid": nn.Hardsigmoid()}.items():  # fmt: skip
    _perceptron(_name, 0, 0, _act)
for _name, _act in {"square": Function(lambda x: x**2), "abs": Function(torch.abs), "identity": nn.Identity()}.items():
    _perceptron(_name, 3, 3, _act)
_perceptron("clamp(0, ∞)", 3, 0, Function(lambda x: x.clamp(min=0)))
_perceptron("hardtanh(0, 1)", 0, 0, nn.Hardtanh(0.0, 1.0))
_perceptron("cube", 3, 3, Function(lambda x: x**3))


@scales("tanh, then max pooling", 0, 0, (5, 2, 4, 4))
def tanh_pool() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2))


@scales("tanh and relu of one value", 0, 0, (5, 4))
class TanhAndRelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x)
        return self.b(torch.tanh(h) + torch.relu(h))


@scales("convolution, max pooling, relu, flatten", 3, 0, (5, 2, 6, 6))
def pooled() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))


class Gated(nn.Module):
    def __init__(self, act: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.gate, self.up, self.down, self.act = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 2), act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.act(self.gate(x)) * self.up(x))


scales("swiglu", 3, 3, (5, 4))(lambda: Gated(F.silu))
scales("reglu", 6, 3, (5, 4))(lambda: Gated(F.relu))


class LoRA(nn.Module):
    """A base weight and a low-rank one beside it."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.base, self.a, self.b, self.act = nn.Linear(4, 3), nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(3, 2)), act
        self.out = nn.Linear(3, 2) if not isinstance(act, nn.Identity) else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.act(F.linear(x, self.base.weight + self.b @ self.a, self.base.bias))
        return h if self.out is None else self.out(h)


scales("lora", 2, 2, (5, 4))(lambda: LoRA(nn.Identity()))
scales("lora before relu", 5, 2, (5, 4))(lambda: LoRA(nn.ReLU()))


# Rows and columns of the inner units (3, relu), the stream's scale is fixed by the input's copy; a scalar.
@scales("rezero", 7, 4, (5, 3))
class ReZero(nn.Module):
    """x + α · W₂ relu(W₁ x) twice removed: the stream comes from a linear layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.a, self.b, self.o = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.alpha = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.i(x)
        return self.o(h + self.alpha * self.b(torch.relu(self.a(h))))


@scales("weight norm", 6, 3, (5, 4))
def weight_norm() -> nn.Module:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(3, 2))


@scales("weight-standardised convolution", 3, 3, (5, 2, 5, 5))
class Standardised(nn.Module):
    """No magnitude of a filter that has ε added to its variance; sign and the following units' scale."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.gain, self.bias = nn.Parameter(torch.randn(3, 2, 3, 3)), nn.Parameter(torch.randn(3, 1, 1, 1)), nn.Parameter(torch.randn(3))
        self.o = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
        var = self.weight.var(dim=(1, 2, 3), keepdim=True)
        weight = (self.weight - mean) / torch.sqrt(var + EPS) * self.gain
        return self.o(torch.relu(F.conv2d(x, weight, self.bias)).mean((2, 3)))


# The bias, added at each use, leaves one scale per unit; without it, the weight's own scale is one more.
@scales("square weight used three times", 4, 0, (5, 4))
class Thrice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.w, self.o = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        for _ in range(3):
            x = torch.relu(self.w(x))
        return self.o(x)


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.o = layer, nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.o(self.layer(x)[0])


scales("relu recurrent", 3, 0, (5, 4, 2))(lambda: Recurrent(nn.RNN(2, 3, nonlinearity="relu", batch_first=True)))
scales("tanh recurrent", 0, 3, (5, 4, 2))(lambda: Recurrent(nn.RNN(2, 3, batch_first=True)))
scales("lstm", 0, 3, (5, 4, 2))(lambda: Recurrent(nn.LSTM(2, 3, batch_first=True)))
scales("gru", 0, 3, (5, 4, 2))(lambda: Recurrent(nn.GRU(2, 3, batch_first=True)))


# Keys are scaled inversely to queries (3), values inversely to the output's columns (2); the query-key product needs no softmax, so its
# scale goes into the values: one more, which the characters of keys and values hold already.
@scales("linear attention", 6, 6, (5, 4, 3))
class LinearAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(3, n, bias=False) for n in (3, 3, 2))
        self.o = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.o(self.q(x) @ (self.k(x).transpose(1, 2) @ self.v(x)))


# 3 inner channels; of the 5 outer ones, the 3 that the shortcut fills are those of the stem, behind a relu; 2 have any sign.
@scales("zero-padded shortcut", 8, 2, (5, 2, 4, 4))
class Padded(nn.Module):
    """A stem, and a block whose shortcut gets a zero channel on either side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.o = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 5, 1), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.stem(x))
        y = self.b(torch.relu(self.a(h))) + F.pad(h, (0, 0, 0, 0, 1, 1))
        return self.o(y.mean((2, 3)))


def _normalised(act: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, eps=EPS), act, nn.Flatten(), nn.Linear(12, 2))


scales("batch norm, relu", 6, 3, (5, 2, 2, 2))(lambda: _normalised(nn.ReLU()))
scales("batch norm, tanh", 3, 6, (5, 2, 2, 2))(lambda: _normalised(nn.Tanh()))


# Statistics of the batch: a sign of each row passes, its magnitude does not; behind the gain, the sign that tanh passes. The bias in front
# of the mean may be anything: the oracle sees its three scales.
scales("batch norm by the batch's statistics, tanh", 0, 6, (5, 4), hidden=3)(
    lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, eps=EPS, track_running_stats=False), nn.Tanh(), nn.Linear(3, 2)))
scales("local response norm", 0, 3, (5, 2, 2, 2))(
    lambda: nn.Sequential(nn.Conv2d(2, 3, 1), nn.LocalResponseNorm(3, alpha=0.5), nn.Flatten(), nn.Linear(12, 2)))


# The two states' input against their output, and the output (with the direct path) against its reader.
@scales("state-space layer", 3, 3, (5, 4, 3))
class StateSpace(nn.Module):
    """Three channels with two states each; steps, inputs and outputs of the states are chosen by the token."""

    def __init__(self) -> None:
        super().__init__()
        self.rate, self.direct = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(3))
        self.step, self.into, self.out = nn.Linear(3, 3), nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)
        self.o = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        step, into, out = F.softplus(self.step(x)), self.into(x), self.out(x)
        state, outputs = torch.zeros(x.shape[0], 3, 2).to(x), []
        for t in range(x.shape[1]):
            kept = torch.exp(-step[:, t, :, None] * self.rate.exp())
            state = kept * state + (step[:, t] * x[:, t])[:, :, None] * into[:, t, None, :]
            outputs.append((state * out[:, t, None, :]).sum(-1) + self.direct * x[:, t])
        return self.o(torch.stack(outputs, 1))


@scales("residual block", 13, 8, (5, 2, 4, 4))
class Residual(nn.Module):
    """A stem of 3 channels with batch norm and relu, and a block with 2 inner channels, batch norms and relus."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.n0 = nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3, eps=EPS)
        self.a, self.n1 = nn.Conv2d(3, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2, eps=EPS)
        self.b, self.n2 = nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3, eps=EPS)
        self.o = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.n0(self.stem(x)))
        h = torch.relu(self.n2(self.b(torch.relu(self.n1(self.a(h))))) + h)
        return self.o(h.mean((2, 3)))


for _name, _norm, _signs in (("layer norm", lambda: nn.LayerNorm(6, eps=EPS), 7), ("rms norm", lambda: nn.RMSNorm(6, eps=EPS), 12),
                             ("group norm", lambda: nn.GroupNorm(2, 6, eps=EPS), 8)):  # fmt: skip
    # The gain's scale cannot pass the GELU but through a linear layer: 6 gains (and offsets) against the rows of the next.
    scales(f"linear, {_name}, linear, gelu", 6, _signs, (5, 4))(
        lambda norm=_norm: nn.Sequential(nn.Linear(4, 6), norm(), nn.Linear(6, 3), nn.GELU(), nn.Linear(3, 2))
    )


class Heads(nn.Module):
    """Two-head attention of width 4 with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, _ = x.shape
        q, k, v = (layer(x).view(b, t, 2, 2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, 4))


# 4 gains of either norm, 4 query-key and 4 value-output dimensions, the same signs, and the stream's one sign; 4 scales of the output's
# norm against the head. The oracle sees the key bias' translations too.
@scales("pre-norm attention block", 20, 21, (5, 3, 4), hidden=4)
class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.n1, self.attend, self.n2, self.n3 = nn.Linear(4, 4), nn.LayerNorm(4, EPS), Heads(), nn.LayerNorm(4, EPS), nn.LayerNorm(4, EPS)
        self.a, self.b, self.o = nn.Linear(4, 3), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.i(x)
        x = x + self.attend(self.n1(x))
        x = x + self.b(F.gelu(self.a(self.n2(x))))
        return self.o(self.n3(x))


class Llama(nn.Module):
    """A block of width 4: four rotary query heads of 4, two key-value heads, two gated units, RMS norms, a head."""

    def __init__(self, tied: bool = False, norms: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.n1, self.n2, self.n3 = (nn.RMSNorm(4, eps=EPS) for _ in range(3))
        self.q, self.k, self.v, self.o = (nn.Linear(i, o, bias=False) for i, o in ((4, 16), (4, 8), (4, 8), (16, 4)))
        self.gate, self.up, self.down = (nn.Linear(i, o, bias=False) for i, o in ((4, 2), (4, 2), (2, 4)))
        self.head = nn.Linear(4, 7, bias=False)
        self.nq, self.nk = (nn.RMSNorm(4, eps=EPS), nn.RMSNorm(4, eps=EPS)) if norms else (nn.Identity(), nn.Identity())
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        x = x + self.attend(self.n1(x))
        h = self.n2(x)
        x = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return self.head(self.n3(x))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        b, t, _ = x.shape
        q, k, v = (layer(x).view(b, t, -1, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k = self.rotate(self.nq(q)), self.rotate(self.nk(k))
        k, v = (value.repeat_interleave(2, dim=1) for value in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(b, t, 16))

    @staticmethod
    def rotate(x: torch.Tensor) -> torch.Tensor:
        angle = torch.arange(x.shape[-2])[:, None] * (0.3 ** torch.arange(2)).repeat(2)
        a, b = x.chunk(2, -1)
        return x * angle.cos().to(x) + torch.cat([-b, a], -1) * angle.sin().to(x)


scales("llama block", 26, 30, (7, (5, 4)))(Llama)
scales("llama block, tied", 22, 26, (7, (5, 4)))(lambda: Llama(tied=True))
scales("llama block, norms on queries and keys", 24, 38, (7, (5, 4)))(lambda: Llama(norms=True))


class Branches(nn.Module):
    """A function of two layers of one form and what reads them."""

    def __init__(self, function: Callable[[nn.Module, torch.Tensor], torch.Tensor], readers: int = 3) -> None:
        super().__init__()
        self.a, self.b, self.read, self.function = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(readers, 2), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.function(self, x))


# Branches are stacked: what is added has one multiplier, what is multiplied one each.
scales("branches added, relu", 3, 0, (5, 4))(lambda: Branches(lambda m, x: torch.relu(m.a(x)) + torch.relu(m.b(x))))
scales("branches multiplied, relu", 6, 0, (5, 4))(lambda: Branches(lambda m, x: torch.relu(m.a(x)) * torch.relu(m.b(x))))
scales("branches multiplied, tanh", 0, 6, (5, 4))(lambda: Branches(lambda m, x: torch.tanh(m.a(x)) * torch.tanh(m.b(x))))
scales("the larger of two branches", 3, 0, (5, 4))(lambda: Branches(lambda m, x: torch.maximum(torch.relu(m.a(x)), torch.relu(m.b(x)))))
scales("branches side by side, relu", 6, 0, (5, 4))(lambda: Branches(lambda m, x: torch.cat([torch.relu(m.a(x)), torch.relu(m.b(x))], -1), 6))
# A sign for each branch; a normalisation's magnitude is no scale.
scales("branches normalised", 0, 2, (5, 4))(
    lambda: Branches(lambda m, x: torch.cat([F.layer_norm(h(x), [3], eps=EPS) for h in (m.a, m.b)], -1), 6))


@scales("experts in a list, relu", 4, 0, (5, 4))  # weighted by numbers: each expert's two units for themselves
class ReluExperts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ModuleList([nn.Linear(4, 2) for _ in range(2)])
        self.down = nn.ModuleList([nn.Linear(2, 3) for _ in range(2)])
        self.router = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gates = torch.softmax(self.router(x), -1)
        return sum(gates[:, e : e + 1] * self.down[e](torch.relu(self.up[e](x))) for e in range(2))


class Fixed(nn.Module):
    """Two layers, and between them a function of the first one's result and of a constant."""

    def __init__(self, constant: torch.Tensor, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], width: int) -> None:
        super().__init__()
        self.register_buffer("constant", constant, persistent=False)
        self.function, self.a, self.b = function, nn.Linear(4, width), nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.function(self.a(x), self.constant))


class Masked(nn.Module):
    """A layer whose weight is masked."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask, persistent=False)
        self.a, self.b = nn.Linear(*mask.shape[::-1]), nn.Linear(len(mask), 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(F.linear(x, self.a.weight * self.mask, self.a.bias)))


BLOCKS = torch.block_diag(torch.tensor([[0.5, 2.0], [-1.0, 0.7]]), torch.tensor([[1.5, 0.3], [0.4, -2.0]]))
# Channels to which nothing is added are scaled.
scales("constant, zero on two of three channels, added", 2, 0, (5, 4))(
    lambda: Fixed(torch.tensor([0.0, 0.6, 0.0]), lambda h, c: torch.relu(h + c), 3))
scales("table, zero on one of three channels, added", 1, 0, (5, 6, 4))(
    lambda: Fixed(torch.cat([torch.zeros(6, 1), torch.linspace(0.3, 1.9, 12).view(6, 2)], 1), lambda h, c: torch.relu(h + c), 3))
# Three rows, and the last column apart from its row. Nothing of the dead unit counts: the oracle sees its 5 + 2 elements apart.
scales("activations times a mask", 4, 1, (5, 4), hidden=5)(
    lambda: Fixed(torch.tensor([1.0, 0.5, 0.0]), lambda h, c: torch.relu(h) * c, 3))
scales("activations times a mask, its zero first", 4, 1, (5, 4), hidden=5)(
    lambda: Fixed(torch.tensor([0.0, 0.5, 1.0]), lambda h, c: torch.relu(h) * c, 3))
# What a fixed matrix of two blocks mixes has one multiplier for each block.
scales("fixed matrix of blocks, relu", 2, 0, (5, 4))(lambda: Fixed(BLOCKS, lambda h, c: torch.relu(h @ c), 4))
scales("fixed matrix of blocks, tanh", 0, 2, (5, 4))(lambda: Fixed(BLOCKS, lambda h, c: torch.tanh(torch.tanh(h) @ c), 4))
scales("fixed kernel of blocks, relu", 2, 0, (5, 6, 4))(
    lambda: Fixed(BLOCKS[..., None] * torch.tensor([1.0, 0.0, -2.0]), lambda h, c: torch.relu(F.conv1d(h.mT, c, padding=1)).mT, 4))
# Four rows, and eight elements that are not read.
scales("weight times a mask of blocks", 12, 8, (5, 4))(lambda: Masked(BLOCKS))
# Three rows, and six elements.
scales("weight times a diagonal mask", 9, 6, (5, 3))(lambda: Masked(torch.diag(torch.tensor([1.0, 2.0, 0.5]))))
