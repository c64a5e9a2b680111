"""NFN and DWS: linear layers that are equivariant under permutations of the neurons of a chain of layers, found block by block.

A chain's tensors have axes over spaces: layer l's weights over the neurons before and after it, its biases over those after it. All linear
maps from one tensor to another that commute with permutations of the free spaces are: pool over the spaces that are not shared, a matrix
on channels, and broadcast; once for each subset of the shared spaces. What may not be permuted (kernel positions, and for HNP and DWS the
network's inputs and outputs) are channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from paramgraph.errors import MetanetError
from paramgraph.graph import ParamGraph
from paramgraph.metanets.baselines.inputs import Baseline, Parameters, UnitSizes, layout_of, perceptron
from paramgraph.metanets.encoders import frequencies as spread
from paramgraph.metanets.heads import ReadoutNorm
from paramgraph.metanets.stack import Stack


@dataclass(frozen=True)
class ChainTensor:
    """A tensor of a chain.

    Attributes:
        name: its base name.
        spaces: the spaces of its free axes, sorted: 0 are the inputs, l the neurons after layer l.
        free: which of its dimensions those are.
        rest: the other dimensions; they become channels.
        channels: number of channels.
    """

    name: str
    spaces: tuple[int, ...]
    free: tuple[int, ...]
    rest: tuple[int, ...]
    channels: int

    def read(self, value: torch.Tensor) -> torch.Tensor:
        """`(networks, *shape)` to `(networks, channels, *free sizes)`."""
        moved = value.permute(0, *(1 + d for d in self.rest), *(1 + d for d in self.free))
        return moved.reshape(value.shape[0], self.channels, *(value.shape[1 + d] for d in self.free))


def chain_of(example: ParamGraph | Stack, permute_ends: bool) -> tuple[ChainTensor, ...]:
    """The tensors of a chain of linear or convolutional layers, told by their shapes alone.

    Args:
        example: a network.
        permute_ends: whether inputs and outputs count as free spaces (NP), or are channels (HNP).

    Raises:
        MetanetError: the network's tensors are no weights `(after, before, …)` with biases `(after,)`, each layer's inputs the last one's outputs.
    """
    layout = layout_of(example)
    weights = [name for name, shape in layout.items() if len(shape) >= 2]
    last = len(weights)
    tensors = []
    layer, after = 0, 0
    for name, shape in layout.items():
        if len(shape) >= 2:
            fits = layer == 0 or shape[1] == after
            layer, after = layer + 1, shape[0]
            dims = {0: layer, 1: layer - 1}
        else:
            fits = layer > 0 and shape == (after,)
            dims = {0: layer}
        if not fits:
            raise MetanetError(
                f"expected a chain of linear or convolutional layers; {name!r} of shape {shape} does not follow a layer of {after} outputs. "
                "Use a metanet that reads graphs."
            )
        free = {d: space for d, space in dims.items() if permute_ends or 0 < space < last}
        order = tuple(sorted(free, key=lambda d: free[d]))
        rest = tuple(d for d in range(len(shape)) if d not in free)
        tensors.append(ChainTensor(name, tuple(free[d] for d in order), order, rest, math.prod(shape[d] for d in rest)))
    return tuple(tensors)


class EquivariantLinear(nn.Module):
    """All linear maps between the tensors of a chain that commute with its permutations, with channels.

    Args:
        chain: the tensors.
        before: channels of each tensor's input.
        after: channels of each tensor's output.
        pooling: `"mean"` or `"max"`. The maximum is equivariant, not linear.
    """

    def __init__(self, chain: Sequence[ChainTensor], before: Sequence[int], after: int, pooling: str) -> None:
        super().__init__()
        self.chain = tuple(chain)
        self.pooling = pooling
        # Maps that keep no space read one vector of all pooled tensors: a matrix per output tensor instead of one per pair.
        self.kept = [
            (s, t, spaces)
            for t, target in enumerate(chain)
            for s, source in enumerate(chain)
            for size in range(1, len(target.spaces) + 1)
            for spaces in itertools.combinations(target.spaces, size)
            if set(spaces) <= set(source.spaces)
        ]
        counts = [1 + sum(t == number for _, t, _ in self.kept) for number in range(len(chain))]
        maps = [nn.Linear(before[s], after, bias=False) for s, _, _ in self.kept]
        pooled = [nn.Linear(sum(before), after) for _ in chain]
        # Sums of many maps keep the size of one.
        targets = [*(t for _, t, _ in self.kept), *range(len(chain))]
        with torch.no_grad():
            for linear, t in zip([*maps, *pooled], targets, strict=True):
                linear.weight.mul_((3 / counts[t]) ** 0.5)
        self.maps, self.pooled = nn.ModuleList(maps), nn.ModuleList(pooled)

    def forward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Per tensor `(networks, before, *sizes)` to `(networks, after, *sizes)`."""
        everything = torch.cat([self._pool(value, tensor.spaces, ()) for tensor, value in zip(self.chain, tensors, strict=True)], dim=1)
        out = [_spread(linear(everything), (), tensor.spaces) for linear, tensor in zip(self.pooled, self.chain, strict=True)]
        for (s, t, spaces), linear in zip(self.kept, self.maps, strict=True):
            kept = self._pool(tensors[s], self.chain[s].spaces, spaces)
            mapped = torch.einsum("oc,nc...->no...", linear.weight, kept)
            out[t] = out[t] + _spread(mapped, spaces, self.chain[t].spaces)
        return [value.expand(-1, -1, *tensor.shape[2:]) for value, tensor in zip(out, tensors, strict=True)]

    def _pool(self, value: torch.Tensor, spaces: tuple[int, ...], kept: tuple[int, ...]) -> torch.Tensor:
        dims = [2 + number for number, space in enumerate(spaces) if space not in kept]
        if not dims:
            return value
        return value.amax(dims) if self.pooling == "max" else value.mean(dims)


class _ChainNet(Baseline):
    """Equivariant layers with ReLU, then the pooled tensors through a perceptron."""

    def __init__(
        self,
        example: ParamGraph | Stack,
        out: int,
        hidden: int,
        layers: int,
        dropout: float,
        permute_ends: bool,
        pooling: str,
        frequencies: int,
    ) -> None:
        super().__init__()
        self.layout = layout_of(example)
        self.chain = chain_of(example, permute_ends)
        self.sizes = UnitSizes(len(self.chain))
        self.permute_ends = permute_ends
        self.frequencies = nn.Parameter(spread(frequencies), requires_grad=False) if frequencies else None
        factor = 1 + 2 * frequencies
        ends = 1 if permute_ends else 0
        first = [tensor.channels * factor + ends * 2 * len(tensor.spaces) for tensor in self.chain]
        widths = [first, *[[hidden] * len(self.chain)] * layers]
        self.layers = nn.ModuleList(EquivariantLinear(self.chain, widths[n], hidden, pooling) for n in range(layers))
        self.norms = nn.ModuleList(nn.GroupNorm(1, hidden) for _ in range(layers) for _ in self.chain)
        self.readout = ReadoutNorm(hidden * len(self.chain))
        self.mlp = perceptron([hidden * len(self.chain), hidden, out], dropout)

    def predict(self, networks: Parameters) -> torch.Tensor:
        """See `Baseline.predict`."""
        read = [tensor.read(networks.values[tensor.name]) for tensor in self.chain]
        tensors = [self._encoded(tensor, value) for tensor, value in zip(self.chain, self.sizes(read), strict=True)]
        norms = iter(self.norms)
        for layer in self.layers:
            tensors = [next(norms)(torch.relu(value)) for value in layer(tensors)]
        pooled = [value.flatten(2).mean(2) if value.ndim > 2 else value for value in tensors]
        prediction: torch.Tensor = self.mlp(self.readout(torch.cat(pooled, dim=1)))
        return prediction

    def _encoded(self, tensor: ChainTensor, value: torch.Tensor) -> torch.Tensor:
        parts = [value]
        if self.frequencies is not None:
            angles = (value.unsqueeze(2) * self.frequencies.reshape(1, 1, -1, *[1] * (value.ndim - 2))).flatten(1, 2)
            parts += [angles.sin(), angles.cos()]
        if self.permute_ends:
            parts += [self._places(space, number, value) for number, space in enumerate(tensor.spaces)]
        return torch.cat(parts, dim=1)

    def _places(self, space: int, number: int, value: torch.Tensor) -> torch.Tensor:
        """Where inputs and outputs stand, as two channels; zero on hidden neurons. NP treats ends as permutable and adds this."""
        size = value.shape[2 + number]
        last = max(s for tensor in self.chain for s in tensor.spaces)
        angle = torch.arange(1, size + 1, dtype=value.dtype, device=value.device) * (1.0 if space in (0, last) else 0.0)
        channels = torch.stack([angle.sin(), 1 - angle.cos()])
        shape = [1, 2, *(size if d == 2 + number else 1 for d in range(2, value.ndim))]
        return channels.reshape(shape).expand(value.shape[0], 2, *value.shape[2:])


class NFN(_ChainNet):
    """Neural functional networks, Zhou et al. 2023 (arXiv:2302.14040): neuron permutations (NP, the ends too, told apart by an encoding of
    their places) or hidden neuron permutations (HNP).

    Args:
        example: a network of the layout to read.
        out: length of each prediction.
        hidden: channels.
        layers: number of equivariant layers.
        ends: `"NP"` or `"HNP"`.
        frequencies: random Fourier features of each number.
        dropout: of the last perceptron.

    Raises:
        MetanetError: the network is no chain.
    """

    def __init__(
        self,
        example: ParamGraph | Stack,
        out: int = 1,
        hidden: int = 64,
        layers: int = 3,
        ends: Literal["NP", "HNP"] = "NP",
        frequencies: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(example, out, hidden, layers, dropout, permute_ends=ends == "NP", pooling="mean", frequencies=frequencies)


class DWS(_ChainNet):
    """Deep weight space networks, Navon et al. 2023 (arXiv:2301.12780): hidden neurons are permuted, pooling takes the maximum.

    Args:
        example: a network of the layout to read.
        out: length of each prediction.
        hidden: channels.
        layers: number of equivariant layers.
        dropout: of the last perceptron.

    Raises:
        MetanetError: the network is no chain.
    """

    def __init__(self, example: ParamGraph | Stack, out: int = 1, hidden: int = 64, layers: int = 4, dropout: float = 0.0) -> None:
        super().__init__(example, out, hidden, layers, dropout, permute_ends=False, pooling="max", frequencies=0)


def _spread(value: torch.Tensor, spaces: tuple[int, ...], over: tuple[int, ...]) -> torch.Tensor:
    """`(networks, channels, *sizes of spaces)` with axes of size one for the other spaces of `over`."""
    sizes = iter(value.shape[2:])
    return value.reshape(*value.shape[:2], *(next(sizes) if space in spaces else 1 for space in over))
