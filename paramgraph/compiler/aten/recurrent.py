"""Recurrent layers: one step, with the state fed back. The gates share the hidden units' space."""

from __future__ import annotations

from collections.abc import Sequence

from paramgraph.compiler.builder import Builder
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import exact_rule as rule


def _gates(b: Builder, x: Value, h: Value, params: Sequence[Value], gates: int, name: str) -> tuple[list[Value], list[Value]]:
    """Input and recurrent parts of each gate, from packed weights of `gates · n` rows."""
    out = []
    for value, weight, packed in ((x, params[0], params[2] if len(params) >= 4 else None),
                                (h, params[1], params[3] if len(params) >= 4 else None)):
        n = weight.shape[0] // gates
        split = b.reshape(weight, [gates, n, weight.shape[1]])
        biases = None if packed is None else b.reshape(packed, [gates, n])
        parts = []
        for gate in range(gates):  # what they give is multiplied and added unit by unit: their units are the same
            bias = None if biases is None else b.select(biases, 0, gate, alone=True)
            parts.append(b.linear(value, b.select(split, 0, gate, alone=True), bias, name=name))
        out.append(parts)
    return out[0], out[1]


def _lstm_step(b: Builder, x: Value, h: Value, c: Value, params: Sequence[Value], name: str) -> tuple[Value, Value]:
    from_x, from_h = _gates(b, x, h, params, 4, name)
    i, f, g, o = (b.elementwise("add", a, r) for a, r in zip(from_x, from_h, strict=True))
    kept = b.elementwise("mul", b.elementwise("sigmoid", f), c)
    new_c = b.elementwise("add", kept, b.elementwise("mul", b.elementwise("sigmoid", i), b.elementwise("tanh", g)))
    out = b.elementwise("mul", b.elementwise("sigmoid", o), b.elementwise("tanh", new_c))
    if len(params) in (3, 5):  # a projection of the state
        out = b.linear(out, params[-1], name=f"{name}.projection")
    return out, new_c


def _gru_step(b: Builder, x: Value, h: Value, params: Sequence[Value], name: str) -> Value:
    (rx, zx, nx), (rh, zh, nh) = _gates(b, x, h, params, 3, name)
    r = b.elementwise("sigmoid", b.elementwise("add", rx, rh))
    z = b.elementwise("sigmoid", b.elementwise("add", zx, zh))
    n = b.elementwise("tanh", b.elementwise("add", nx, b.elementwise("mul", r, nh)))
    return b.elementwise("lerp", n, h, z)


def _rnn_step(b: Builder, x: Value, h: Value, params: Sequence[Value], function: str, name: str) -> Value:
    (from_x,), (from_h,) = _gates(b, x, h, params, 1, name)
    return b.elementwise(function, b.elementwise("add", from_x, from_h))


def _recurrent(b: Builder, kind: str, x: Value, initial: Sequence[Value], params: Sequence[Value], biases: bool, layers: int,
               bidirectional: bool, batch_first: bool) -> tuple[Value, ...]:
    """All layers and directions. A step is typed once; its state is fed back and starts from the initial state."""
    directions = 2 if bidirectional else 1
    per = len(params) // (layers * directions)
    last: list[list[Value]] = [[] for _ in initial]
    for layer in range(layers):
        outs = []
        for direction in range(directions):
            place = layer * directions + direction
            name = f"{kind}.reverse" if direction else kind
            own = params[place * per : (place + 1) * per]
            starts = [b.select(value, 0, place) for value in initial]  # each (batch, n)
            states = [b.state(start.shape, f"{kind} state") for start in starts]
            for state, start in zip(states, starts, strict=True):
                b.feedback(state, start)
            time = 1 if batch_first else 0
            lifted = [b.reshape(s, [s.shape[0], 1, s.shape[1]] if batch_first else [1, *s.shape]) for s in states]
            # Steps are in order: their axis is pinned, and the state is the same space at every step.
            steps = b.mix(f"{kind} steps", x, [time], ordered=True, linear=True)
            if kind == "lstm":
                out, cell = _lstm_step(b, steps, lifted[0], lifted[1], own, name)
                results = [out, cell]
            elif kind == "gru":
                out = _gru_step(b, steps, lifted[0], own, name)
                results = [out]
            else:
                out = _rnn_step(b, steps, lifted[0], own, kind.removeprefix("rnn_"), name)
                results = [out]
            for number, (state, result) in enumerate(zip(states, results, strict=True)):
                final = b.select(result, time, result.shape[time] - 1)
                b.feedback(state, final)
                last[number].append(final)
            outs.append(out)
        x = b.concat(outs, -1)
    finals = [b.concat([b.reshape(value, [1, *value.shape]) for value in values], 0) for values in last]
    return (x, *finals)


@rule("aten.lstm.input")
def lstm(b: Builder, x: Value, initial: Sequence[Value], params: Sequence[Value], biases: bool, layers: int, dropout: float,
         train: bool, bidirectional: bool, batch_first: bool) -> tuple[Value, ...]:
    return _recurrent(b, "lstm", x, initial, params, biases, layers, bidirectional, batch_first)


@rule("aten.gru.input")
def gru(b: Builder, x: Value, initial: Value, params: Sequence[Value], biases: bool, layers: int, dropout: float, train: bool,
        bidirectional: bool, batch_first: bool) -> tuple[Value, ...]:
    return _recurrent(b, "gru", x, [initial], params, biases, layers, bidirectional, batch_first)


@rule("aten.rnn_tanh.input")
def rnn_tanh(b: Builder, x: Value, initial: Value, params: Sequence[Value], biases: bool, layers: int, dropout: float, train: bool,
             bidirectional: bool, batch_first: bool) -> tuple[Value, ...]:
    return _recurrent(b, "rnn_tanh", x, [initial], params, biases, layers, bidirectional, batch_first)


@rule("aten.rnn_relu.input")
def rnn_relu(b: Builder, x: Value, initial: Value, params: Sequence[Value], biases: bool, layers: int, dropout: float, train: bool,
             bidirectional: bool, batch_first: bool) -> tuple[Value, ...]:
    return _recurrent(b, "rnn_relu", x, [initial], params, biases, layers, bidirectional, batch_first)


def _cell_params(w_ih: Value, w_hh: Value, b_ih: Value | None, b_hh: Value | None) -> list[Value]:
    return [value for value in (w_ih, w_hh, b_ih, b_hh) if value is not None]


@rule("aten.lstm_cell")
def lstm_cell(b: Builder, x: Value, state: Sequence[Value], w_ih: Value, w_hh: Value, b_ih: Value | None = None,
              b_hh: Value | None = None) -> tuple[Value, ...]:
    return _lstm_step(b, x, state[0], state[1], _cell_params(w_ih, w_hh, b_ih, b_hh), "lstm")


@rule("aten.gru_cell")
def gru_cell(b: Builder, x: Value, state: Value, w_ih: Value, w_hh: Value, b_ih: Value | None = None, b_hh: Value | None = None) -> Value:
    return _gru_step(b, x, state, _cell_params(w_ih, w_hh, b_ih, b_hh), "gru")


def _rnn_cell(function: str) -> None:
    @rule(f"aten.rnn_{function}_cell")
    def rnn_cell(b: Builder, x: Value, state: Value, w_ih: Value, w_hh: Value, b_ih: Value | None = None,
                 b_hh: Value | None = None) -> Value:
        return _rnn_step(b, x, state, _cell_params(w_ih, w_hh, b_ih, b_hh), function, f"rnn_{function}")


for _function in ("tanh", "relu"):
    _rnn_cell(_function)
