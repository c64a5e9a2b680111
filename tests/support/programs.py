"""Tiny random programs of layout operations and contractions between parameters, run independently of the package's own execution."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from random import Random

import numpy as np
import torch

from paramgraph.compiler.builder import Builder
from paramgraph.compiler.emission import Emitter
from paramgraph.compiler.program import Op, Program, Value
from paramgraph.compiler.typing import type_program
from paramgraph.symmetries.group import SymmetryGroup
from paramgraph.symmetries.solution import GroupBuilder


def group_of(program: Program, most_parts: int | None = None) -> SymmetryGroup:
    """The solved group of a program's parameters, built as the compiler builds it."""
    typing = type_program(program, most_parts)
    builder = GroupBuilder(typing.dependencies)
    actions = {name: builder.action(value.axes) for name, value in program.tensors.items()}
    builder.close()
    emitter = Emitter(program, typing, builder)
    emitter.run()
    for name, elements in emitter.uses.unread.items():
        actions[name] = replace(actions[name], unread=elements)
    return builder.group(actions, {})


def evaluate(program: Program, state: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """Outputs of a program for given parameters."""
    env: dict[int, torch.Tensor] = {id(value): state[name] for name, value in program.tensors.items()}

    def read(value: Value) -> torch.Tensor:
        if value.kind == "constant":
            assert value.read is not None
            return torch.from_numpy(np.array(value.read(), dtype=np.float64))
        return env[id(value)]

    for op in program.ops:
        env[id(op.output)] = _compute(op, [read(value) for value in op.inputs])
    return [env[id(value)] for value, _ in program.outputs]


def _compute(op: Op, x: list[torch.Tensor]) -> torch.Tensor:
    if op.kind == "contract":
        letters = {label: chr(97 + i) for i, label in enumerate({n: None for term in op.labels for n in term})}
        terms = ["".join(letters[label] for label in term) for term in (*op.labels, op.out_labels)]
        return torch.einsum(",".join(terms[:-1]) + "->" + terms[-1], *x)
    if op.kind == "elementwise":
        return {"add": lambda a, b: a + 1.7 * b, "mul": lambda a, b: a * (b + 0.3), "tanh": lambda a: torch.tanh(a + 0.2)}[op.name](*x)
    if op.kind == "reduce":
        gone = [d for d, label in enumerate(op.labels[0]) if label not in op.out_labels]
        return x[0].sum(gone) if gone else x[0]
    if op.kind == "mix":
        (dim,) = op.attrs["mixed"]
        return 3 * x[0].softmax(dim) if op.name == "softmax" else x[0].cumsum(dim)
    if op.kind == "reshape":
        return x[0].reshape(op.output.shape)
    if op.kind == "permute":
        return x[0].permute(op.attrs["order"])
    if op.kind == "take":
        return x[0].index_select(op.attrs["dim"], torch.as_tensor(np.asarray(op.attrs["index"])))
    if op.kind == "concat":
        return torch.cat(x, op.attrs["dim"])
    if op.kind == "expand":
        return x[0].expand(op.output.shape)
    raise AssertionError(op.kind)


class Maker:
    """Draws one program. `random` decides everything, so that a seed reproduces it."""

    def __init__(self, random: Random, steps: int, largest: int = 8) -> None:
        self.random = random
        self.program = Program("random")
        self.b = Builder(self.program)
        self.pool: list[Value] = []
        for number in range(random.choice([1, 2, 2, 3])):
            while True:
                shape = tuple(random.choice([2, 2, 3, 4]) for _ in range(random.choice([1, 2, 2, 3])))
                if math.prod(shape) <= largest:
                    break
            value = Value(shape, "parameter", f"p{number}")
            self.program.tensors[value.name] = value
            self.pool.append(value)
        for _ in range(steps):
            self.step()
        self.finish()

    def step(self) -> None:
        choices = [self.combine, self.combine, self.contract, self.contract, self.reshape, self.reshape, self.permute, self.take, self.take,
                   self.concat, self.softmax, self.reduce, self.expand, self.cumulate]
        made = self.random.choice(choices)(self.pick())
        if made is not None and math.prod(made.shape) <= 48:
            self.pool.append(made)

    def pick(self) -> Value:
        """Recent values more often, so that programs grow deep."""
        return self.pool[-1] if self.random.random() < 0.5 else self.random.choice(self.pool)

    def combine(self, x: Value) -> Value | None:
        others = [y for y in self.pool if y is not x and _broadcasts(x.shape, y.shape)]
        if not others:
            return self.b.elementwise("tanh", x)
        out = self.b.elementwise(self.random.choice(["add", "mul"]), x, self.random.choice(others))
        return self.b.elementwise("tanh", out)

    def contract(self, x: Value) -> Value | None:
        y = self.random.choice(self.pool)
        pairs = [(i, j) for i, n in enumerate(x.shape) for j, m in enumerate(y.shape) if n == m > 1]
        if not pairs or x.ndim + y.ndim > 5:
            return None
        i, j = self.random.choice(pairs)
        left: list[str] = [f"x{d}" for d in range(x.ndim)]
        right = [f"y{d}" for d in range(y.ndim)]
        left[i] = right[j] = "k"
        shared = [(a, b) for a, b in pairs if a != i and b != j]
        if shared and self.random.random() < 0.5:
            a, b = self.random.choice(shared)
            left[a] = right[b] = "batch"
        out = tuple(label for label in dict.fromkeys([*left, *right]) if label != "k")
        return self.b.elementwise("tanh", self.b.contract(([tuple(left), tuple(right)], out), x, y))

    def reshape(self, x: Value) -> Value | None:
        size = math.prod(x.shape)
        shapes = [s for rank in (1, 2, 3) for s in itertools.product((2, 3, 4, 6, 8, 12), repeat=rank) if math.prod(s) == size and s != x.shape]
        return self.b.reshape(x, self.random.choice(shapes)) if shapes else None

    def permute(self, x: Value) -> Value | None:
        order = list(range(x.ndim))
        self.random.shuffle(order)
        return self.b.permute(x, order) if order != sorted(order) else None

    def take(self, x: Value) -> Value | None:
        if not x.ndim:
            return None
        dim = self.random.randrange(x.ndim)
        n = x.shape[dim]
        index = self.random.sample(range(n), self.random.randint(1, n))
        if self.random.random() < 0.5:
            index.sort()
        return self.b.take(x, dim, index)

    def concat(self, x: Value) -> Value | None:
        if not x.ndim:
            return None
        dim = self.random.randrange(x.ndim)
        same = [y for y in self.pool if y.ndim == x.ndim]
        fitting = [y for y in same if all(n == m or d == dim for d, (n, m) in enumerate(zip(x.shape, y.shape, strict=True)))]
        return self.b.concat([x, self.random.choice(fitting)], dim) if fitting else None

    def softmax(self, x: Value) -> Value | None:
        return self.b.mix("softmax", x, [self.random.randrange(x.ndim)]) if x.ndim else None

    def cumulate(self, x: Value) -> Value | None:
        return self.b.mix("cumsum", x, [self.random.randrange(x.ndim)], ordered=True) if x.ndim else None

    def reduce(self, x: Value) -> Value | None:
        return self.b.elementwise("tanh", self.b.reduce(x, [self.random.randrange(x.ndim)])) if x.ndim else None

    def expand(self, x: Value) -> Value | None:
        return self.b.expand(self.b.reshape(x, [1, *x.shape]), [2, *x.shape]) if x.ndim < 3 else None

    def finish(self) -> None:
        """The last values, mostly summed over all axes, are the outputs."""
        for value in self.pool[-self.random.choice([1, 1, 2]) :]:
            out = self.b.elementwise("tanh", value)
            dims = [d for d in range(out.ndim) if self.random.random() < 0.8]
            self.program.outputs.append((self.b.reduce(out, dims) if dims else out, None))
        self.program.drop_dead()


def _broadcasts(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return all(n == m or 1 in (n, m) for n, m in zip(reversed(a), reversed(b), strict=False))


def random_program(seed: int, steps: int = 6, largest: int = 8) -> Program:
    return Maker(Random(seed), steps, largest).program


def random_parameters(program: Program, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator, dtype=torch.float64) for name, value in program.tensors.items()}


def difference(program: Program, a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(evaluate(program, a), evaluate(program, b), strict=True))


def influential(program: Program, state: Mapping[str, torch.Tensor]) -> dict[str, list[int]]:
    """Flat numbers of the elements that the outputs depend on."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in state.items()}
    outputs = [out for out in evaluate(program, leaves) if out.requires_grad]
    weights = [torch.randn(out.shape, dtype=torch.float64) for out in outputs]
    total = sum((out * w).sum() for out, w in zip(outputs, weights, strict=True))
    if not outputs:
        return {name: [] for name in state}
    grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {name: [] if g is None else g.reshape(-1).abs().gt(1e-13).nonzero().reshape(-1).tolist() for name, g in zip(leaves, grads, strict=True)}


def count_symmetries(program: Program, limit: int = 60_000) -> int | None:
    """How many permutations of influential elements, each within its own tensor, leave the outputs unchanged; None if too many to try."""
    state = random_parameters(program)
    places = influential(program, state)
    if math.prod(math.factorial(len(where)) for where in places.values()) > limit:
        return None
    choices = [list(itertools.permutations(where)) for where in places.values()]
    index: dict[str, list[list[int]]] = {name: [] for name in state}
    for combination in itertools.product(*choices):
        for (name, where), images in zip(places.items(), combination, strict=True):
            order = list(range(state[name].numel()))
            for target, source in zip(where, images, strict=True):
                order[target] = source
            index[name].append(order)
    batch = {name: state[name].reshape(-1)[torch.tensor(index[name])].reshape(-1, *state[name].shape) for name in state}
    reference = evaluate(program, state)
    results = torch.func.vmap(lambda s: evaluate(program, s))(batch)
    same = torch.ones(len(next(iter(index.values()))), dtype=torch.bool)
    for out, want in zip(results, reference, strict=True):
        same &= (out - want).abs().reshape(len(same), -1).amax(1) < 1e-9
    return int(same.sum())
