"""Random parameters, buffers and inputs: nothing at 0 or 1, variances positive, signals of about the same size at every depth.

Default initialisation hides errors: a gain of ones and a running mean of zeros are the same under any permutation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from paramgraph.compiler.program import LAYOUT, Program, Value
from paramgraph.errors import TraceError

# Elementwise functions of a parameter that are finite for positive arguments only.
_POSITIVE = frozenset(["sqrt", "rsqrt", "log", "log2", "log10", "log1p", "lgamma", "digamma", "logit", "acosh"])
# Functions of one parameter and plain numbers through which positivity is asked of the parameter itself.
_THROUGH = frozenset(["add", "sub", "mul", "div", "clamp", "clamp_min", "maximum", "reciprocal", "abs"])
# Weights keep the size of a signal through a ReLU (He et al. 2015).
_GAIN = math.sqrt(2.0)
# Largest absolute value of quantised weights. What scales them is smaller by as much, so that no activation saturates.
_LARGEST = 8
# Relative deviation of numbers that are drawn near the network's own.
_NEAR = 0.1
# Tensors of more elements are drawn in float32, that many at a time: a float64 draw takes as long as the rest of a run.
_MANY = 1 << 20


class Randomiser:
    """Draws states and inputs.

    Args:
        program: the lowered network; its operations say which tensors are contracted, and which must be positive.
        state: the network's own tensors: shapes, dtypes, and the values of integer buffers.
        damping: factor on all contracted weights, for networks that amplify rounding errors.

    Attributes:
        near: draw numbers near the network's own, and keep its integers. Networks whose activations are quantised to ranges that are constants
            clip everything under parameters of another size.
    """

    def __init__(self, program: Program, state: Mapping[str, torch.Tensor], damping: float = 1.0) -> None:
        self.state = state
        self.damping = damping
        self.near = False
        self.fixed = program.fixed
        self.fan_in: dict[str, int] = {}
        self.positive: set[str] = set()
        # Integers that are parameters (quantised weights); those that are buffers are read by the compiler, and keep their values.
        self.integers = {name for name, value in program.tensors.items() if value.kind == "parameter" and value.integer}
        self.scales: set[str] = set()
        for op in program.ops:
            self._read(op)

    def _read(self, op: Any) -> None:
        if op.kind == "contract":
            sizes = {label: n for term, value in zip(op.labels, op.inputs, strict=True)
                     for label, n in zip(term, value.shape, strict=True) if n > 1}
            fan = math.prod(n for label, n in sizes.items() if label not in op.out_labels)
            for value in op.inputs:
                self._contracted(value, fan)
        elif op.kind == "convolve":
            weight = op.inputs[1]
            outputs = weight.shape[0] // op.attrs["groups"] if op.attrs["transposed"] else weight.shape[1]
            fan = outputs * math.prod(weight.shape[2:])
            self._contracted(weight, fan)
        elif op.kind == "normalize":
            for role, value in zip(op.attrs["roles"], op.inputs[1:], strict=True):
                if role == "running_var":
                    self.positive.update(_sources(value, LAYOUT))
        elif op.kind == "elementwise" and op.name == "dequantize":
            if op.inputs[0].parametric:
                self.scales.update(_sources(op.inputs[1]))
        elif op.kind == "elementwise" and (op.name in _POSITIVE or _is_root(op)):
            for value in op.inputs[:1]:
                self.positive.update(_sources(value, LAYOUT, _THROUGH))

    def _contracted(self, value: Value, fan: int) -> None:
        for name in _sources(value):
            self.fan_in[name] = max(self.fan_in.get(name, 1), fan)

    def draw_state(self, generator: torch.Generator, read: set[str]) -> dict[str, torch.Tensor]:
        """A random state in float64 on the CPU; integer and boolean buffers, and those that rules call fixed, keep their values.

        Args:
            generator: where the numbers come from.
            read: names that the function reads.
        """
        return {name: self.draw(name, generator, name in read) for name in self.state}

    def draw(self, name: str, generator: torch.Generator, read: bool = True) -> torch.Tensor:
        """Random values of one tensor."""
        tensor = self.state[name]
        shape = tuple(tensor.shape)
        if self.near and name not in self.fixed and tensor.device.type != "meta":
            own = tensor.detach().cpu()
            wide = own.double() if own.is_floating_point() else own
            return wide * (1 + _NEAR * torch.randn(shape, generator=generator, dtype=torch.float64)) if own.is_floating_point() else own.clone()
        if name in self.integers:
            low = 0 if tensor.dtype in (torch.uint8, torch.uint16, torch.uint32) else -_LARGEST
            return torch.randint(low, _LARGEST + 1, shape, generator=generator).to(tensor.dtype)
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return _integers(name, tensor, read)
        if name in self.fixed:
            return tensor.detach().cpu().to(torch.complex128 if tensor.is_complex() else torch.float64)
        if tensor.is_complex():
            return torch.randn(shape, generator=generator, dtype=torch.complex128)
        scale = self.damping * _GAIN / math.sqrt(max(self.fan_in.get(name, 1), 1)) / (_LARGEST if name in self.scales else 1)

        def values(size: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
            if name in self.positive:
                return torch.rand(size, generator=generator, dtype=dtype) + 0.5
            if name in self.fan_in:
                return torch.randn(size, generator=generator, dtype=dtype) * scale
            magnitude = torch.rand(size, generator=generator, dtype=dtype) + 0.5
            return magnitude * (torch.randint(0, 2, size, generator=generator) * 2 - 1)

        if tensor.numel() <= _MANY:
            return values(shape, torch.float64)
        out = torch.empty(shape, dtype=torch.float64)
        for part in out.view(-1).split(_MANY):
            part.copy_(values(part.shape, torch.float32))
        return out


def draw_inputs(examples: Sequence[Any], generator: torch.Generator, keep_integers: bool = False) -> list[Any]:
    """Random leaves like the example's: of its shape, range and kind. Booleans, masks with infinities and plain values stay as they are.

    Args:
        examples: the example's leaves.
        generator: where the numbers come from.
        keep_integers: integers with values stay as they are too.
    """
    def drawn(leaf: Any) -> bool:
        return isinstance(leaf, torch.Tensor) and not (keep_integers and has_values(leaf))

    return [_draw_input(leaf, generator) if drawn(leaf) else leaf for leaf in examples]


def has_values(leaf: Any) -> bool:
    """Whether a leaf is a tensor of integers whose values are known."""
    whole = isinstance(leaf, torch.Tensor) and not (leaf.is_floating_point() or leaf.is_complex())
    return whole and leaf.device.type != "meta"


def _draw_input(leaf: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    shape = tuple(leaf.shape)
    real = leaf.device.type != "meta" and leaf.numel() > 0
    if leaf.dtype == torch.bool:
        return leaf.detach().cpu().clone() if real else torch.ones(shape, dtype=torch.bool)
    if leaf.is_complex():
        return torch.randn(shape, generator=generator, dtype=torch.complex128)
    if not leaf.is_floating_point():
        low, high = (int(leaf.min()), int(leaf.max())) if real else (0, 1)
        return torch.randint(low, high + 1, shape, generator=generator, dtype=leaf.dtype)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    if not real:
        return noise
    value = leaf.detach().cpu().double()
    if not bool(value.isfinite().all()):
        return value
    least, most = float(value.min()), float(value.max())
    if least >= 0 and most > least:  # values that may have to be positive, or in [0, 1]
        return least + (most - least) * torch.rand(shape, generator=generator, dtype=torch.float64)
    deviation = float(value.std(correction=0))
    return value.mean() + noise * deviation if deviation > 0 else noise


def _integers(name: str, tensor: torch.Tensor, read: bool) -> torch.Tensor:
    if tensor.device.type != "meta":
        return tensor.detach().cpu().clone()
    if tensor.ndim == 0 or not read:  # counters
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    raise TraceError(
        f"the integer buffer {name!r} is on the meta device, but the function may need its values. "
        "Build the network with real buffers (for instance on the CPU)."
    )


def _is_root(op: Any) -> bool:
    """A power with an exponent that is no whole number."""
    exponent = op.attrs.get("form", (None, None))[-1] if op.name == "pow" else 1
    return isinstance(exponent, float) and not exponent.is_integer()


def _sources(value: Value, kinds: frozenset[str] | None = None, functions: frozenset[str] = frozenset()) -> Iterator[str]:
    """Names of the parameters and buffers that a value is computed from, by operations between parameters alone.

    Args:
        value: where to start.
        kinds: operation kinds to walk through; None for all.
        functions: elementwise functions of one operand to walk through beside them.
    """
    stack, seen = [value], set()
    while stack:
        top = stack.pop()
        if id(top) in seen:
            continue
        seen.add(id(top))
        if top.kind in ("parameter", "buffer"):
            yield top.name
        elif top.op is not None and top.parametric:
            op = top.op
            single = op.kind == "elementwise" and op.name in functions and sum(v.kind != "constant" for v in op.inputs) == 1
            if kinds is None or op.kind in kinds or single:
                stack.extend(op.inputs)
