"""Small networks, one for each kind of layer, with the orders of their groups derived in the comments."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.support.cases import case, lam

parametrizations = nn.utils.parametrizations


@case("mlp", lam(6) + lam(7), (5, 4))  # two hidden layers
def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))


@case("linear", 0.0, (5, 4))  # inputs and outputs are fixed
def linear() -> nn.Module:
    return nn.Linear(4, 3)


@case("siren", lam(6) + lam(6), (5, 2))
class Siren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 6), nn.Linear(6, 6), nn.Linear(6, 3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            x = torch.sin(30 * layer(x))
        return self.layers[-1](x)


@case("residual stream", lam(5) + lam(7), (3, 4))  # one stream of 5, one inner layer of 7
class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 5), nn.Linear(5, 7), nn.Linear(7, 5), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        return self.d(x + self.c(torch.relu(self.b(x))))


@case("gated", lam(7), (3, 4))  # gate and up share the inner units
class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, 7), nn.Linear(4, 7), nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


@case("glu", lam(7), (3, 4))  # the packed weight is cut into two halves that are permuted together
def glu() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 14), nn.GLU(), nn.Linear(7, 3))


@case("bilinear", lam(5) + lam(6) + lam(4), (3, 2), (3, 3))
class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.m, self.o = nn.Linear(2, 5), nn.Linear(3, 6), nn.Bilinear(5, 6, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.o(torch.tanh(self.m(torch.tanh(self.a(x)), torch.tanh(self.b(y)))))


@case("convolution with batch norm", lam(6) + lam(7), (2, 3, 9, 9))
def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 7, 3), nn.PReLU(7), nn.Conv2d(7, 2, 1))


@case("flattened positions", lam(4), (2, 3, 5, 5))  # channels move, positions stay
def flattened() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(16, 3))


@case("grouped convolution", lam(2) + 2 * lam(3) + 2 * lam(4), (2, 3, 9, 9))  # two groups of 3 inputs and 4 outputs each
def grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 8, 3, groups=2), nn.Conv2d(8, 5, 3))


@case("depthwise convolution", lam(6), (2, 3, 9, 9))  # its channels are the incoming channels
def depthwise() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 5, 3))


@case("depthwise convolution with multiplier", lam(6) + 6 * lam(2), (2, 3, 9, 9))  # S_2 ≀ S_6
def depthwise_multiplied() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 12, 3, groups=6), nn.Conv2d(12, 5, 3))


@case("transposed convolution", lam(6) + lam(4), (2, 3, 5, 5))
def transposed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.ConvTranspose2d(6, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 2, 1))


@case("group norm", lam(2) + 2 * lam(4), (2, 3, 9, 9))  # S_4 ≀ S_2
def group_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 5, 3))


@case("instance norm", lam(8), (2, 3, 9, 9))  # every channel apart
def instance_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.ReLU(), nn.Conv2d(8, 5, 3))


@case("layer norm", lam(8), (3, 4))
def layer_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 5))


@case("rms norm", lam(8), (3, 4))
def rms_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.RMSNorm(8), nn.Linear(8, 5))


@case("local response norm", 0.0, (2, 3, 9, 9))  # it looks at neighbouring channels: they are in order
def local_response_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.LocalResponseNorm(3), nn.Conv2d(8, 5, 3))


@case("squeeze and excitation", lam(6) + lam(3), (2, 3, 9, 9))
class Squeeze(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.o = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.a(x))
        return self.o(x * torch.sigmoid(self.c(torch.relu(self.b(F.adaptive_avg_pool2d(x, 1))))))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], out: int, **options: object) -> None:
        super().__init__()
        self.layer, self.o = kind(5, 7, **options), nn.Linear(out, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.o(self.layer(x)[0])


@case("lstm", lam(7), (9, 3, 5))  # all gates and both axes of the recurrent weight together
def lstm() -> nn.Module:
    return Recurrent(nn.LSTM, 7)


@case("bidirectional two-layer lstm", 4 * lam(7), (3, 9, 5))  # every direction of every layer for itself
def deep_lstm() -> nn.Module:
    return Recurrent(nn.LSTM, 14, num_layers=2, bidirectional=True, batch_first=True)


@case("lstm with projection", lam(7) + lam(4), (9, 3, 5))  # cell and projected state
def projected_lstm() -> nn.Module:
    return Recurrent(nn.LSTM, 4, proj_size=4)


@case("gru", lam(7), (9, 3, 5))
def gru() -> nn.Module:
    return Recurrent(nn.GRU, 7)


@case("two-layer rnn", 2 * lam(7), (9, 3, 5))
def rnn() -> nn.Module:
    return Recurrent(nn.RNN, 7, num_layers=2)


@case("tied embedding", lam(6), (11, (3, 4)))  # the vocabulary is fixed, the width is the residual stream
class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner, self.head = nn.Embedding(11, 6), nn.Linear(6, 6), nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        return self.head(x + torch.relu(self.inner(x)))


@case("p4 group convolution", lam(3), (3, 2, 11, 11))  # channels; the four orientations are fixed by the rotations
class P4(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.channels = channels
        self.lift = nn.Parameter(torch.randn(channels, 2, 3, 3))
        self.group = nn.Parameter(torch.randn(5, channels, 4, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        c = self.channels
        first = torch.stack([torch.rot90(self.lift, k, (2, 3)) for k in range(4)], 1).reshape(c * 4, 2, 3, 3)
        y = torch.relu(F.conv2d(x, first))
        turned = [torch.rot90(torch.roll(self.group, k, 2), k, (3, 4)) for k in range(4)]
        second = torch.stack(turned, 1).reshape(20, c * 4, 3, 3)
        z = F.conv2d(y, second)
        return z.view(z.shape[0], 5, 4, *z.shape[2:]).mean((2, 3, 4))


@case("p4 from a basis", lam(3), (3, 2, 9, 9))  # filters expanded from coefficients: channels move, basis elements stay
class Basis(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(torch.randn(3, 2, 6))
        self.register_buffer("basis", torch.randn(6, 4, 3, 3), persistent=False)
        self.out = nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        filters = torch.einsum("oib,brhw->orihw", self.coefficients, self.basis).reshape(12, 2, 3, 3)
        return self.out(torch.relu(F.conv2d(x, filters)).mean((2, 3)))


@case("deep sets", lam(6), (3, 5, 3))  # the pooled and the elementwise matrix share their units
class DeepSets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 6), nn.Linear(3, 6, bias=False)
        self.c, self.d = nn.Linear(6, 4), nn.Linear(6, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.a(x) + self.b(x.mean(1, keepdim=True)))
        return torch.relu(self.c(x) + self.d(x.sum(1, keepdim=True))).mean(1)


@case("lora", lam(6) + lam(2) + lam(5), (7, 4))  # input, rank and output of the adapted weight
class LoRA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Linear(4, 6), nn.Linear(5, 3)
        self.w, self.a, self.b = (nn.Parameter(torch.randn(*shape)) for shape in ((5, 6), (2, 6), (5, 2)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.o(torch.relu(F.linear(torch.relu(self.i(x)), self.w + self.b @ self.a)))


@case("weight norm", lam(6), (7, 4))
def weight_norm() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 6)), nn.Tanh(), parametrizations.weight_norm(nn.Linear(6, 3)))


@case("weight standardisation", lam(6), (2, 3, 9, 9))
class Standardised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.a, self.b):
            var, mean = torch.var_mean(layer.weight, dim=(1, 2, 3), keepdim=True)
            x = torch.relu(F.conv2d(x, (layer.weight - mean) * torch.rsqrt(var + 1e-5), layer.bias))
        return x
