"""What the checks of a verification run: random states, inputs and elements, and the network under them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from paramgraph.errors import TraceError, first_line
from paramgraph.graph import ParamGraph
from paramgraph.symmetries.group import GroupElement
from paramgraph.verification.compare import act_on, deviation, without_nan
from paramgraph.verification.execute import Execution, Outputs
from paramgraph.verification.randomise import Randomiser, draw_inputs, has_values
from paramgraph.verification.report import Report
from paramgraph.verification.states import Acted, Changed

State = Mapping[str, torch.Tensor]

# What must change the outputs must change them by more than this.
CHANGE = 1e-6
# The least tolerance in float32: a few units in the last place, however little one perturbation of the last bits happens to change.
FLOOR_32 = 2e-6
# Random elements of a factor that are tried until one moves every tensor that the factor claims to move.
TRIES = 40
# Tests of matrix groups per input; more groups are tested together.
BUNDLES = 12
# Permutations outside the group that are tried.
OUTSIDE = 3


class Runs:
    """Draws states, inputs and elements, runs the network, and compares outputs.

    Args:
        graph: the network's graph.
        report: what is found is written into it.
        execution: the network's program.
        randomiser: draws parameters and buffers.
        examples: leaves of the example inputs.
        generator: of all random numbers.
        bundles: the largest number of tests per element and input.
        progress: called with the runs done, all runs and what is run.
    """

    def __init__(self, graph: ParamGraph, report: Report, execution: Execution, randomiser: Randomiser, examples: Sequence[Any],
                 generator: torch.Generator, bundles: int, progress: Callable[[int, int, str], None] | None) -> None:
        self.graph = graph
        self.group = graph.symmetry
        self.report = report
        self.execution = execution
        self.randomiser = randomiser
        self.examples = examples
        self.generator = generator
        self.bundles = self._bundles(bundles)
        self.moves = _split(len(self.group.moves), min(BUNDLES, bundles))
        self.moved_by = [self.group.moved_by(number) for number in range(len(self.group.factors))]
        self.progress = progress
        self.keep_integers = False
        self.total = 0
        # What is run in, what must change the outputs must change them by, and (in float32) the tolerance as a multiple of rounding errors.
        self.precision = torch.float64
        self.least_change = CHANGE
        self.noise: float | None = None
        free = {number for number, space in enumerate(self.group.spaces) if not space.pinned}
        aliases = graph.aliases
        self.read = {aliases[name].base if name in aliases else name for name in execution.state_names}
        self.actions = [name for name, action in self.group.actions.items() if action.spaces() & free]
        self.stacked = {member for members in self.group.stacks.values() for member in members}
        moving = {name for number in range(len(self.group.permuting)) for name in self.moved_by[number]}
        self.movable = [member for name in self.actions for member in self.group.members(name) if member in moving]

    def _state(self) -> State:
        """Random parameters and buffers, tied ones equal."""
        state: dict[str, torch.Tensor] = self.randomiser.draw_state(self.generator, self.read)
        for name, alias in self.graph.aliases.items():
            if name in state:
                state[name] = alias.read(state)
        return state

    def _run(self, state: State, inputs: Sequence[Any], what: str, base: Outputs | None = None, changed: Collection[str] | None = None,
             keep: bool = False) -> Outputs:
        if changed is not None:
            changed = {*changed} | {name for name, alias in self.graph.aliases.items() if alias.base in changed}
        out = self.execution.run(state, inputs, base if base is not None and base.nodes else None, changed, keep)
        self.report.runs += 1
        if self.progress is not None:
            self.progress(min(self.report.runs, self.total), self.total, what)
        return out

    def _with(self, state: State, tensors: Mapping[str, torch.Tensor]) -> Changed:
        """The state with some tensors replaced; aliases follow their bases."""
        return Changed(state, self.graph.aliases, tensors.keys(), tensors.__getitem__)

    def _acted(self, element: GroupElement, state: State, names: Collection[str]) -> Changed:
        """The state with the action of an element on some tensors, made when they are read; aliases follow their bases."""
        made = Acted(element, state, names)
        return Changed(state, self.graph.aliases, made.names, made)

    def _start(self) -> tuple[State, list[Any], Outputs]:
        """A random state, random inputs, and the run that others are compared with."""
        state, inputs = self._state(), draw_inputs(self.examples, self.generator, self.keep_integers)
        try:
            return state, inputs, self._run(state, inputs, "base", keep=True)
        except RuntimeError as error:
            if self.keep_integers or not any(map(has_values, self.examples)):
                raise TraceError(f"the exported graph of {self.report.network} does not run under random parameters: {first_line(error)}. "
                                 "Check that the network runs on the example inputs.") from error
            # Traced on one example, a graph may hold for integers like the example's only: it asserts sizes that depend on them.
            self.keep_integers = True
            self.report.notes.append(f"integer inputs keep the example's values: the graph does not hold for others ({first_line(error)})")
            return self._start()

    def _settle(self) -> tuple[State, list[Any], Outputs] | None:
        """A start whose rounding errors leave the tolerance within reach; weights of networks that amplify them are damped."""
        for _ in range(6):
            state, inputs, base = self._start()
            real = {name for name, tensor in state.items() if tensor.is_floating_point()}
            other = self._run(Changed(state, self.graph.aliases, real, partial(self._last_bit, state)), inputs, "rounding errors")
            self.report.rounding = deviation(base.values, other.values)
            if self.report.rounding == 0 and not self.randomiser.near and self._is_deaf(state, base):
                self.randomiser.near = True
                self.report.notes.append("random parameters make the outputs the same for all inputs: parameters near the network's own were drawn")
                continue
            if self.noise is not None and self.report.rounding < self.report.tolerance / self.noise:
                self.report.tolerance = self.least_change = max(self.noise * self.report.rounding, FLOOR_32)
                return state, inputs, base
            if self.noise is None and self.report.rounding < self.report.tolerance / 30:
                return state, inputs, base
            self.randomiser.damping /= 4
        self.report.problems.append(
            f"rounding errors alone change the outputs by {self.report.rounding:.1e}, or make them NaN: nothing can be compared")
        return None

    def _is_deaf(self, state: State, base: Outputs) -> bool:
        """Whether other inputs give the same outputs, number by number."""
        inputs = draw_inputs(self.examples, self.generator, self.keep_integers)
        real = any(isinstance(leaf, torch.Tensor) and leaf.is_floating_point() for leaf in self.examples)
        return real and without_nan(base.values) and deviation(base.values, self._run(state, inputs, "other inputs").values) == 0

    def _last_bit(self, state: State, name: str) -> torch.Tensor:
        """A tensor with the last bit of each number another."""
        return torch.nextafter(state[name].to(self.precision), torch.tensor(torch.inf, dtype=self.precision)).double()

    def _element(self, numbers: Iterable[int], state: State | None = None) -> GroupElement:
        """A random element that moves every one of the factors; with a state, each tensor of theirs too, where one of 200 does."""
        parts: dict[int, Any] = {}
        for number in numbers:
            stacked = {name for name in self.moved_by[number] if name in self.stacked} if state is not None else set()
            for _ in range(200):
                element = self.group.sample(self.generator, factors=[number])
                if element.is_identity():
                    continue
                if state is None:
                    break
                acted = Acted(element, state, stacked)
                if not any(torch.equal(acted(name), state[name]) for name in sorted(stacked)):
                    break
            parts.update(element.parts)
        return GroupElement(self.group, parts)

    def _whole_stacks(self, names: Iterable[str]) -> set[str]:
        """The names, and those of all tensors that are acted on together with one of them."""
        wanted = set(names)
        return wanted.union(*(members for members in self.group.stacks.values() if not wanted.isdisjoint(members)))

    def _compare(self, element: GroupElement, base: Outputs, out: Outputs) -> float:
        """Outputs must be the same; new values of buffers must be permuted as the buffers are."""
        found = deviation(base.values, out.values)
        if base.buffers:
            expected = act_on(element, base.buffers)
            found = max(found, deviation(list(expected.values()), [out.buffers[name] for name in expected]))
        return found

    def _bundles(self, count: int) -> list[list[int]]:
        """Factors in bundles of neighbours: those late in the network leave most of a run unchanged."""
        return _split(len(self.group.factors), count)

    def _problem(self, text: str) -> None:
        if text not in self.report.problems and len(self.report.problems) < 50:
            self.report.problems.append(text)


def _split(size: int, count: int) -> list[list[int]]:
    """Numbers from 0 in that many parts of neighbours at most."""
    return [part.tolist() for part in np.array_split(range(size), min(count, size))] if size else []
