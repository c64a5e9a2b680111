"""Networks written here or from torch's own layers: recurrent, transformers, implicit representations, sets, U-Net, adapters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from architectures.base import BATCH, Architecture, Network, installed


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], out: int, **options: object) -> None:
        super().__init__()
        self.layer, self.head = kind(5, 8, **options), nn.Linear(out, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x)[0])


class Siren(nn.Module):
    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(widths, widths[1:], strict=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            x = torch.sin(30 * layer(x))
        return self.layers[-1](x)


class Fourier(nn.Module):
    """Random Fourier features (a fixed matrix) before a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.randn(2, 9))
        self.net = nn.Sequential(nn.Linear(18, 32), nn.ReLU(), nn.Linear(32, 31), nn.ReLU(), nn.Linear(31, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        angles = 2 * math.pi * x @ self.matrix
        return self.net(torch.cat([angles.sin(), angles.cos()], -1))


class MultiplicativeFilter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.ModuleList(nn.Linear(2, 24) for _ in range(3))
        self.linears = nn.ModuleList(nn.Linear(24, 24) for _ in range(2))
        self.head = nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.filters[0](x).sin()
        for linear, filter_ in zip(self.linears, self.filters[1:], strict=True):
            z = linear(z) * filter_(x).sin()
        return self.head(z)


class TriPlane(nn.Module):
    """Three feature planes, read by bilinear interpolation, summed, decoded."""

    def __init__(self) -> None:
        super().__init__()
        self.planes = nn.Parameter(torch.randn(3, 10, 16, 15))
        self.net = nn.Sequential(nn.Linear(10, 27), nn.ReLU(), nn.Linear(27, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = torch.stack([x[..., [0, 1]], x[..., [0, 2]], x[..., [1, 2]]])
        features = F.grid_sample(self.planes, places[:, None], align_corners=True)
        return self.net(features.sum(0)[:, 0].T)


class HashGrid(nn.Module):
    """A learned table of features at the corners of a grid, interpolated by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11 * 11, 6)
        self.net = nn.Sequential(nn.Linear(6, 19), nn.ReLU(), nn.Linear(19, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled = x.sigmoid() * 9.99
        low = scaled.floor().long()
        rest = scaled - low
        out = 0
        for i in (0, 1):
            for j in (0, 1):
                share = (rest[:, 0] if i else 1 - rest[:, 0]) * (rest[:, 1] if j else 1 - rest[:, 1])
                out = out + share[:, None] * self.table((low[:, 0] + i) * 11 + low[:, 1] + j)
        return self.net(out)


class DeepSets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(3, 16), nn.Linear(3, 16, bias=False), nn.Linear(16, 9), nn.Linear(16, 9, bias=False)
        self.head = nn.Linear(9, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.a(x) + self.b(x.mean(1, keepdim=True)))
        return self.head(torch.relu(self.c(x) + self.d(x.amax(1, keepdim=True))).sum(1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([self._block(3, 8), self._block(8, 12), self._block(12, 20)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(20, 12, 2, stride=2), nn.ConvTranspose2d(12, 8, 2, stride=2)])
        self.join = nn.ModuleList([self._block(24, 12), self._block(16, 8)])
        self.head = nn.Conv2d(8, 2, 1)

    @staticmethod
    def _block(i: int, o: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.GroupNorm(4, o), nn.SiLU(), nn.Conv2d(o, o, 3, padding=1), nn.SiLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for block in self.down:
            x = block(x if not kept else F.max_pool2d(x, 2))
            kept.append(x)
        for up, join, skip in zip(self.up, self.join, kept[-2::-1], strict=True):
            x = join(torch.cat([skip, up(x)], 1))
        return self.head(x)


class Adapted(nn.Module):
    """A perceptron in plain modules, to be adapted."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(9, 22), nn.Linear(22, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.up(x)))


class Autoencoder(nn.Module):
    """A vector-quantised autoencoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(3, 14, 4, 2, 1), nn.ReLU(), nn.Conv2d(14, 6, 3, padding=1))
        self.codes = nn.Embedding(17, 6)
        self.decode = nn.Sequential(nn.Conv2d(6, 14, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(14, 3, 4, 2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.encode(x).permute(0, 2, 3, 1)
        distance = torch.cdist(z.flatten(0, 2), self.codes.weight)
        return self.decode(self.codes(distance.argmin(-1)).view(z.shape).permute(0, 3, 1, 2))


def _sequence(time: int = 7, width: int = 5) -> torch.Tensor:
    return torch.randn(BATCH, time, width)


def _transformer(make: Callable[[], nn.Module], inputs: int) -> Network:
    return Network(make().eval(), tuple(_sequence(7 + 2 * n, 24) for n in range(inputs)))


def _lora() -> Network:
    import peft

    model = peft.inject_adapter_in_model(peft.LoraConfig(r=3, target_modules=["up", "down"], init_lora_weights=False), Adapted())
    return Network(model.eval(), (torch.randn(7, 9),))


def _table() -> dict[str, Callable[[], Network]]:
    def recurrent(kind: type[nn.RNNBase], out: int, **options: object) -> Network:
        return Network(Recurrent(kind, out, batch_first=True, **options).eval(), (_sequence(),))

    def net(make: Callable[[], nn.Module], *shape: int) -> Network:
        return Network(make().eval(), (torch.randn(*shape),))

    layer = {"d_model": 24, "nhead": 4, "dim_feedforward": 37, "batch_first": True}
    return {
        "rnn": partial(recurrent, nn.RNN, 8, num_layers=2, nonlinearity="relu"),
        "lstm": partial(recurrent, nn.LSTM, 16, num_layers=2, bidirectional=True),
        "lstm with projections": partial(recurrent, nn.LSTM, 6, num_layers=2, bidirectional=True, proj_size=3),
        "gru": partial(recurrent, nn.GRU, 16, num_layers=3, bidirectional=True),
        "nn.Transformer": partial(_transformer, partial(nn.Transformer, num_encoder_layers=2, num_decoder_layers=2, **layer), 2),
        "nn.TransformerEncoder, norm first": partial(
            _transformer, lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(norm_first=True, **layer), 2), 1),
        "siren": partial(net, lambda: Siren(2, 32, 31, 3), 9, 2),
        "fourier features": partial(net, Fourier, 9, 2),
        "multiplicative filter network": partial(net, MultiplicativeFilter, 9, 2),
        "tri-plane": partial(net, TriPlane, 9, 3),
        "feature grid": partial(net, HashGrid, 9, 2),
        "deep sets": partial(net, DeepSets, BATCH, 11, 3),
        "u-net": partial(net, UNet, BATCH, 3, 28, 28),
        "vector quantisation": partial(net, Autoencoder, BATCH, 3, 12, 12),
        "spectral norm": partial(net, lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(9, 22)), nn.ReLU(),
                                                            nn.Linear(22, 4)), 7, 9),
        "weight norm": partial(net, lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(9, 22)), nn.ReLU(),
                                                          nn.Linear(22, 4)), 7, 9),
    }  # fmt: skip


def architectures() -> Iterator[Architecture]:
    for name, build in _table().items():
        yield Architecture(f"torch:{name}", build)
    if installed("peft"):
        yield Architecture("torch:lora (peft)", _lora)
