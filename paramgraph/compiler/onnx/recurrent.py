"""Recurrent layers: one step, with the state fed back. The gates share the hidden units' space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from paramgraph.compiler.builder import Builder
from paramgraph.compiler.onnx.pieces import piece, row
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import exact_rule as rule
from paramgraph.compiler.rules import rule as inexact_rule


@dataclass
class Weights:
    """The weights of one direction, packed by gate.

    Attributes:
        w: of the input, `(gates · n, inputs)`.
        r: of the state, `(gates · n, n)`.
        b: biases of both, `(2 · gates · n)`, or None.
        p: of the cell, `(3 · n)`, or None.
    """

    w: Value
    r: Value
    b: Value | None
    p: Value | None


Step = Callable[[Builder, Value, list[Value], Weights, Sequence[str], str], list[Value]]


def _parts(b: Builder, value: Value, weight: Value, bias: Value | None, gates: int, second: bool, name: str) -> list[Value]:
    """A linear map for each gate. What they give is multiplied and added unit by unit, of one operand: units and inputs are the same for all."""
    n = weight.shape[0] // gates
    out = []
    for gate in range(gates):
        start = (gate + (gates if second else 0)) * n
        own = None if bias is None else piece(b, bias, 0, start, start + n, alone=True)
        out.append(b.linear(value, piece(b, weight, 0, gate * n, (gate + 1) * n, alone=True), own, name=name))
    return out


def _lstm_step(b: Builder, x: Value, states: list[Value], own: Weights, functions: Sequence[str], name: str) -> list[Value]:
    """Gates are packed as input, output, forget, cell; peepholes as input, output, forget."""
    h, c = states
    f, g, out = functions
    from_x, from_h = (_parts(b, v, w, own.b, 4, second, name) for v, w, second in ((x, own.w, False), (h, own.r, True)))
    i_gate, o_gate, f_gate, cell = (b.elementwise("add", a, r) for a, r in zip(from_x, from_h, strict=True))
    if own.p is not None:
        peep = b.reshape(own.p, [3, own.p.shape[0] // 3])
        looks = [b.elementwise("mul", c, b.select(peep, 0, k, alone=True)) for k in (0, 2)]
        i_gate, f_gate = (b.elementwise("add", gate, look) for gate, look in zip((i_gate, f_gate), looks, strict=True))
    kept = b.elementwise("mul", b.elementwise(f, f_gate), c)
    new_c = b.elementwise("add", kept, b.elementwise("mul", b.elementwise(f, i_gate), b.elementwise(g, cell)))
    if own.p is not None:
        o_gate = b.elementwise("add", o_gate, b.elementwise("mul", new_c, b.select(peep, 0, 1, alone=True)))
    return [b.elementwise("mul", b.elementwise(f, o_gate), b.elementwise(out, new_c)), new_c]


def _gru_step(after: bool) -> Step:
    """Gates are packed as update, reset, hidden. The reset gate scales the state before or after its linear map."""

    def step(b: Builder, x: Value, states: list[Value], own: Weights, functions: Sequence[str], name: str) -> list[Value]:
        (h,) = states
        f, g = functions
        zx, rx, nx = _parts(b, x, own.w, own.b, 3, False, name)
        zh, rh, nh = _parts(b, h, own.r, own.b, 3, True, name)
        r = b.elementwise(f, b.elementwise("add", rx, rh))
        z = b.elementwise(f, b.elementwise("add", zx, zh))
        if after:
            scaled = b.elementwise("mul", r, nh)
        else:
            scaled = _parts(b, b.elementwise("mul", r, h), own.r, own.b, 3, True, name)[2]
        n = b.elementwise(g, b.elementwise("add", nx, scaled))
        return [b.elementwise("lerp", n, h, z)]

    return step


def _rnn_step(b: Builder, x: Value, states: list[Value], own: Weights, functions: Sequence[str], name: str) -> list[Value]:
    (from_x,) = _parts(b, x, own.w, own.b, 1, False, name)
    (from_h,) = _parts(b, states[0], own.r, own.b, 1, True, name)
    return [b.elementwise(functions[0], b.elementwise("add", from_x, from_h))]


def _recurrent(b: Builder, kind: str, step: Step, functions: Sequence[str], x: Value, packed: Sequence[Value | None],
               lengths: Value | None, initial: Sequence[Value | None], layout: int) -> tuple[Value, ...]:
    """All directions. A step is typed once; its state is fed back and starts from the initial state.

    Args:
        packed: weights of the input, of the state, biases, and peepholes, of all directions.
        functions: of every gate, direction by direction.
        layout: 1 where the batch stands first.
    """
    if layout:
        x = b.transpose(x, 0, 1)
        initial = [None if value is None else b.transpose(value, 0, 1) for value in initial]
    if lengths is not None:
        x = b.elementwise("sequence_lengths", x, b.reshape(lengths, [1, x.shape[1], 1]))
    w, r = packed[:2]
    if w is None or r is None:
        raise ValueError("a recurrent layer without weights")
    directions, n = w.shape[0], r.shape[2]
    sizes = {value.shape[-1] for value in initial if value is not None} - {n}
    if sizes:  # torch's exporter leaves the projection out, and takes as many rows of each weight as the projected state has
        raise ValueError(f"{n} units start from states of {sizes.pop()}: ONNX has no projections of the state, and no runtime runs this")
    per = len(functions) // directions
    outs: list[Value] = []
    last: list[list[Value]] = [[] for _ in initial]
    for place in range(directions):
        name = f"{kind}.reverse" if place else kind
        own = Weights(row(b, w, place), row(b, r, place), *(None if v is None else row(b, v, place) for v in packed[2:]))
        starts = [b.fill([x.shape[1], n], 0.0) if value is None else b.select(value, 0, place) for value in initial]
        states = [b.state(start.shape, f"{kind} state") for start in starts]
        for state, start in zip(states, starts, strict=True):
            b.feedback(state, start)
        # Steps are in order: their axis is pinned, and the state is the same space at every step.
        steps = b.mix(f"{kind} steps", x, [0], ordered=True, linear=True)
        results = step(b, steps, [b.reshape(s, [1, *s.shape]) for s in states], own, functions[place * per : (place + 1) * per], name)
        for number, (state, result) in enumerate(zip(states, results, strict=True)):
            final = b.select(result, 0, result.shape[0] - 1)
            b.feedback(state, final)
            last[number].append(b.reshape(final, [1, *final.shape]))
        outs.append(results[0])
    finals = [b.concat(values, 0) for values in last]
    # Side by side first, as most readers want them: (time, batch, directions · units), then (time, directions, batch, units).
    out = b.permute(b.reshape(b.concat(outs, -1), [x.shape[0], x.shape[1], directions, n]), [0, 2, 1, 3])
    if layout:
        out, finals = b.permute(out, [2, 0, 1, 3]), [b.transpose(value, 0, 1) for value in finals]
    return (out, *finals)[: len(b.shapes)]


def _functions(given: Sequence[str], default: Sequence[str], directions: int, attributes: dict[str, Any]) -> list[str]:
    if attributes.get("clip") or attributes.get("input_forget"):
        raise ValueError("a recurrent layer with clipped or coupled gates")
    names = [name.lower() for name in (given or list(default) * directions)]
    return [{"leakyrelu": "leaky_relu"}.get(name, name) for name in names]


@rule("ai.onnx::LSTM")
def lstm(b: Builder, x: Value, w: Value, r: Value, biases: Value | None = None, lengths: Value | None = None, h: Value | None = None,
         c: Value | None = None, p: Value | None = None, *, activations: Sequence[str] = (), layout: int = 0, **rest: Any) -> tuple[Value, ...]:
    functions = _functions(activations, ("sigmoid", "tanh", "tanh"), w.shape[0], rest)
    return _recurrent(b, "lstm", _lstm_step, functions, x, (w, r, biases, p), lengths, (h, c), layout)


@inexact_rule("com.microsoft::DynamicQuantizeLSTM")
def quantized_lstm(b: Builder, x: Value, w: Value, r: Value, biases: Value | None, lengths: Value | None, h: Value | None, c: Value | None,
                   p: Value | None, w_scale: Value, w_zero: Value, r_scale: Value, r_zero: Value, *, activations: Sequence[str] = (),
                   layout: int = 0, **rest: Any) -> tuple[Value, ...]:
    """Integer weights `(directions, inputs, gates · n)`; what they multiply is rounded with one scale for each tensor."""

    def step(b: Builder, x: Value, states: list[Value], own: Weights, functions: Sequence[str], name: str) -> list[Value]:
        return _lstm_step(b, x, [_rounded(b, states[0]), states[1]], own, functions, name)

    functions = _functions(activations, ("sigmoid", "tanh", "tanh"), w.shape[0], rest)
    wide, state = (_widened(b, *own) for own in ((w, w_scale, w_zero), (r, r_scale, r_zero)))
    return _recurrent(b, "lstm", step, functions, _rounded(b, x), (wide, state, biases, p), lengths, (h, c), layout)


def _rounded(b: Builder, x: Value) -> Value:
    return b.elementwise("quantize", x, b.reduce(x, range(x.ndim), name="quantization_scale"))


def _widened(b: Builder, x: Value, scale: Value, zero: Value) -> Value:
    """Integers as `(directions, gates · n, inputs)` of numbers, scaled per direction or per element of the gates."""
    own = [b.reshape(value, [value.shape[0], 1, *(value.shape[1:] or (1,))]) for value in (scale, zero)]
    return b.permute(b.elementwise("dequantize", x, *own), [0, 2, 1])


@rule("ai.onnx::GRU")
def gru(b: Builder, x: Value, w: Value, r: Value, biases: Value | None = None, lengths: Value | None = None, h: Value | None = None, *,
        activations: Sequence[str] = (), layout: int = 0, linear_before_reset: int = 0, **rest: Any) -> tuple[Value, ...]:
    functions = _functions(activations, ("sigmoid", "tanh"), w.shape[0], rest)
    return _recurrent(b, "gru", _gru_step(bool(linear_before_reset)), functions, x, (w, r, biases, None), lengths, (h,), layout)


@rule("ai.onnx::RNN")
def rnn(b: Builder, x: Value, w: Value, r: Value, biases: Value | None = None, lengths: Value | None = None, h: Value | None = None, *,
        activations: Sequence[str] = (), layout: int = 0, **rest: Any) -> tuple[Value, ...]:
    functions = _functions(activations, ("tanh",), w.shape[0], rest)
    kind = f"rnn_{functions[0]}"
    return _recurrent(b, kind, _rnn_step, functions, x, (w, r, biases, None), lengths, (h,), layout)
