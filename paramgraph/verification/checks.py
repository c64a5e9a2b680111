"""The checks of a verification, one method each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from paramgraph.errors import TraceError, first_line
from paramgraph.graph import ParamGraph
from paramgraph.symmetries.group import GroupElement
from paramgraph.verification.compare import act_on, deviation, without_nan
from paramgraph.verification.execute import Execution, Outputs
from paramgraph.verification.maximality import maximality
from paramgraph.verification.original import compare_original
from paramgraph.verification.randomise import Randomiser, draw_inputs, has_values
from paramgraph.verification.report import FactorReport, Report

State = dict[str, torch.Tensor]

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


class Checks:
    """One verification: draws states, inputs and elements, and writes what it finds into a report."""

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

    # -- the protocol --------------------------------------------------------------------------------------------------

    def run(self, model: nn.Module | None, leave_out: int | None) -> None:
        """Run all checks."""
        report = self.report
        report.movable = len(self.movable)
        leave_out = len(self.movable) if leave_out is None else min(leave_out, len(self.movable))
        self.total = report.inputs * (1 + report.elements * (len(self.bundles) + 1) + len(self.moves)) + 2 + leave_out + OUTSIDE
        settled = self._settle()
        if settled is None:
            return
        self._notes()
        if not self.group.factors:
            report.notes.append("the group is trivial: nothing to verify")
        worst = [0.0] * len(self.group.factors)
        moved: list[set[str]] = [set() for _ in self.group.factors]
        for number in range(report.inputs):
            state, inputs, base = settled if number == 0 else self._start()
            if not without_nan(base.values):
                report.problems.append("the outputs hold NaN under random parameters: nothing can be compared")
                return
            if number == 0:
                self._original(model, state, inputs, base)
            for bundle in self.bundles:
                self._factors(bundle, state, inputs, base, worst, moved)
            if self.group.factors:
                self._whole(state, inputs, base)
            self._motions(state, inputs, base)
            if number == report.inputs - 1:
                self._outside(state, inputs, base)
                self._leave_out(leave_out, state, inputs)
        sizes = {number: len(bundle) for bundle in self.bundles for number in bundle}
        for number, factor in enumerate(self.group.factors):
            if worst[number] > report.tolerance:
                self._problem(f"factor {factor} changes the outputs by {worst[number]:.1e}")
            report.factors.append(FactorReport(factor.name, worst[number], tuple(sorted(moved[number])), sizes[number]))
        if report.whole > report.tolerance:
            self._problem(f"elements of the whole group change the outputs by {report.whole:.1e}")
        self._laws()

    def _bundles(self, count: int) -> list[list[int]]:
        """Factors in bundles of neighbours: those late in the network leave most of a run unchanged."""
        return _split(len(self.group.factors), count)

    def _notes(self) -> None:
        noise = self.execution.stochastic
        if "dropout" in noise:
            self.report.notes.append("dropout is taken as the identity")
        if noise - {"dropout"}:
            self.report.notes.append(f"random operations draw the same numbers in every run: {', '.join(sorted(noise - {'dropout'}))}")
        kept = sum(isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bool for leaf in self.examples)
        if kept:
            self.report.notes.append(f"{kept} boolean inputs keep the example's values")
        if any(isinstance(leaf, torch.Tensor) and leaf.device.type == "meta" and not leaf.is_floating_point() for leaf in self.examples):
            self.report.notes.append("integer inputs on the meta device are drawn from {0, 1}")
        if len(self.bundles) < len(self.group.factors):
            many = f"{len(self.group.factors)} factors were tested in {len(self.bundles)} bundles of neighbours, not each alone"
            self.report.notes.append(many)
        unused = [name for name in self.graph.values if name not in self.read]
        if unused:
            some = ", ".join(unused[:4]) + ("…" if len(unused) > 4 else "")
            self.report.notes.append(f"{len(unused)} tensors are not read by the function: {some}")

    # -- drawing and running -------------------------------------------------------------------------------------------

    def _state(self) -> State:
        """Random parameters and buffers, tied ones equal."""
        state = self.randomiser.draw_state(self.generator, self.read)
        for name, alias in self.graph.aliases.items():
            if name in state:
                state[name] = alias.read(state)
        return state

    def _run(self, state: State, inputs: Sequence[Any], what: str, base: Outputs | None = None, changed: set[str] | None = None,
             keep: bool = False) -> Outputs:
        if changed is not None:
            changed = changed | {name for name, alias in self.graph.aliases.items() if alias.base in changed}
        out = self.execution.run(state, inputs, base if base is not None and base.nodes else None, changed, keep)
        self.report.runs += 1
        if self.progress is not None:
            self.progress(min(self.report.runs, self.total), self.total, what)
        return out

    def _with(self, state: State, tensors: State) -> State:
        """The state with some tensors replaced; aliases follow their bases."""
        out = {**state, **tensors}
        for name, alias in self.graph.aliases.items():
            if name in state and alias.base in tensors:
                out[name] = alias.read(out)
        return out

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
            up = torch.tensor(torch.inf, dtype=self.precision)
            last_bit = {name: torch.nextafter(tensor.to(self.precision), up).double() for name, tensor in state.items()
                        if tensor.is_floating_point()}
            other = self._run(self._with(state, last_bit), inputs, "rounding errors")
            self.report.rounding = deviation(base.values, other.values)
            if self.noise is not None and self.report.rounding < self.report.tolerance / self.noise:
                self.report.tolerance = self.least_change = max(self.noise * self.report.rounding, FLOOR_32)
                return state, inputs, base
            if self.noise is None and self.report.rounding < self.report.tolerance / 30:
                return state, inputs, base
            self.randomiser.damping /= 4
        self.report.problems.append(
            f"rounding errors alone change the outputs by {self.report.rounding:.1e}, or make them NaN: nothing can be compared")
        return None

    def _element(self, numbers: Iterable[int], state: State | None = None) -> GroupElement:
        """A random element that moves every one of the factors; with a state, each tensor of theirs too, where one of 200 does."""
        parts: dict[int, Any] = {}
        for number in numbers:
            stacked = {name for name in self.moved_by[number] if name in self.stacked} if state is not None else set()
            for _ in range(200):
                element = self.group.sample(self.generator, factors=[number])
                if element.is_identity():
                    continue
                before = {name: state[name] for name in self._whole_stacks(stacked)} if state is not None else {}
                acted = act_on(element, before)
                if not any(torch.equal(acted[name], before[name]) for name in stacked):
                    break
            parts.update(element.parts)
        return GroupElement(self.group, parts)

    def _whole_stacks(self, names: Iterable[str]) -> set[str]:
        """The names, and those of all tensors that are acted on together with one of them."""
        wanted = set(names)
        return wanted.union(*(members for members in self.group.stacks.values() if not wanted.isdisjoint(members)))

    # -- soundness -----------------------------------------------------------------------------------------------------

    def _factors(self, bundle: list[int], state: State, inputs: Sequence[Any], base: Outputs, worst: list[float],
                 moved: list[set[str]]) -> None:
        """Random elements of a bundle of factors; each factor must move what it claims to move."""
        for _ in range(self.report.elements):
            element = self._element(bundle)
            changed: set[str] = set()
            for number in bundle:
                if len(bundle) == 1 or not moved[number]:
                    changed |= self._moves(number, element, state)
                    moved[number] |= changed & set(self.moved_by[number])
            found = self._deviation(element, state, inputs, base)
            for number in bundle:
                alone = found
                if len(bundle) > 1 and found > self.report.tolerance:  # find the culprit
                    alone = self._deviation(GroupElement(self.group, {number: element.parts[number]}), state, inputs, base)
                worst[number] = max(worst[number], alone)
            if found > self.report.tolerance >= max(worst[number] for number in bundle):
                self._problem(f"factors {', '.join(self.group.factors[n].name for n in bundle)} together change the outputs by {found:.1e}")

    def _moves(self, number: int, element: GroupElement, state: State) -> set[str]:
        """The tensors that one factor of an element moves; they must be all that it claims to move."""
        claimed = self.moved_by[number]
        if not claimed:
            self._problem(f"factor {self.group.factors[number]} moves no tensor")
        whole = self._whole_stacks(claimed)
        moved: set[str] = set()
        for _ in range(TRIES):  # a random sign may be + wherever a tensor has it
            acted = act_on(GroupElement(self.group, {number: element.parts[number]}), {name: state[name] for name in whole})
            moved |= {name for name in claimed if not torch.equal(acted[name], state[name])}
            if len(moved) == len(claimed) or self.group.factors[number].kind == "permutation":
                break
            element = self._element([number])
        for name in claimed:
            # An exchange of two branches leaves the others as they are.
            if moved.isdisjoint(self._whole_stacks([name])):
                self._problem(f"factor {self.group.factors[number]} claims to move {name}, but leaves it as it is")
        return moved

    def _deviation(self, element: GroupElement, state: State, inputs: Sequence[Any], base: Outputs) -> float:
        """How much an element changes the outputs."""
        names = self._whole_stacks(name for number in element.parts for name in self.moved_by[number])
        acted = act_on(element, {name: state[name] for name in names})
        return self._compare(element, base, self._run(self._with(state, acted), inputs, "factors", base, names))

    def _compare(self, element: GroupElement, base: Outputs, out: Outputs) -> float:
        """Outputs must be the same; new values of buffers must be permuted as the buffers are."""
        found = deviation(base.values, out.values)
        if base.buffers:
            expected = act_on(element, base.buffers)
            found = max(found, deviation(list(expected.values()), [out.buffers[name] for name in expected]))
        return found

    def _whole(self, state: State, inputs: Sequence[Any], base: Outputs) -> None:
        """Random elements of the whole group, through the state dict that users see."""
        for _ in range(self.report.elements):
            element = self.group.sample(self.generator)
            acted = element.act(state)
            for name, alias in self.graph.aliases.items():
                if name in acted and not torch.equal(acted[name], alias.read(acted)):
                    self._problem(f"{name} and {alias.base} are tied, but not after the action")
            found = self._compare(element, base, self._run(acted, inputs, "whole group"))
            self.report.whole = max(self.report.whole, found)

    def _motions(self, state: State, inputs: Sequence[Any], base: Outputs) -> None:
        """Random matrices of each matrix group; where there are many, of a bundle of them."""
        for numbers in self.moves:
            names = {m for n in numbers for action in self.group.moves[n].tensors for m in self.group.members(action)}
            read = {m for n in numbers for action in self.group.moves[n].read for m in self.group.members(action)}
            acted = self.group.move(self.generator, numbers).act({name: state[name] for name in (*names, *(read - names))})
            acted = {name: acted[name] for name in names}
            found = deviation(base.values, self._run(self._with(state, acted), inputs, "matrices", base, names).values)
            label = ", ".join(str(self.group.moves[n]) for n in numbers)
            self.report.matrices[label] = max(self.report.matrices.get(label, 0.0), found)
            if found > self.report.tolerance:
                self._problem(f"{label} changes the outputs by {found:.1e}")
            still = [name for name in names if torch.equal(acted[name], state[name])]
            if still:
                self._problem(f"{label} claims to move {', '.join(sorted(still))}, but leaves it as it is")

    def _laws(self) -> None:
        """Composition, inverse and identity, on tensors whose elements are all different; scales are exact up to rounding."""
        laws = {"(gh)θ = g(hθ)": True, "g⁻¹(gθ) = θ": True, "eθ = θ": True}
        g, h = self.group.sample(self.generator), self.group.sample(self.generator)
        both, inverse, identity = g @ h, g.inverse(), self.group.identity()
        actions = [name for name in dict.fromkeys([*self.actions, *self.group.scales.blocks]) if name in self.group.actions]
        for action in actions:
            shape = self.group.actions[action].shape
            theta = {action: torch.arange(1, int(np.prod(shape, dtype=np.int64)) + 1, dtype=torch.float64).reshape(shape)}
            laws["(gh)θ = g(hθ)"] &= _equal(both.act_on(theta), g.act_on(h.act_on(theta)))
            laws["g⁻¹(gθ) = θ"] &= _equal(inverse.act_on(g.act_on(theta)), theta)
            laws["eθ = θ"] &= torch.equal(identity.act_on(theta)[action], theta[action])
        if actions:
            self.report.laws = laws
        for law, holds in laws.items():
            if not holds:
                self._problem(f"the group law {law} fails")

    # -- the check can fail --------------------------------------------------------------------------------------------

    def _leave_out(self, count: int, state: State, inputs: Sequence[Any]) -> None:
        """One tensor left out of a permutation must change the outputs, unless its values have no influence at all.

        Not so for scales: a common factor or sign may well be without consequence (behind a comparison, say) where two tensors share it.
        """
        if not count:
            if self.movable:
                self.report.notes.append("no tensor was left out of the action: whether every tensor must move was not checked")
            return
        shared = self._shared()
        coupled = [name for name in self.movable if any(name in self.moved_by[number] for number in shared)]
        order = torch.randperm(len(coupled), generator=self.generator).tolist()
        chosen = [coupled[i] for i in sorted(order[:count])]
        if len(chosen) < len(coupled):
            self.report.notes.append(f"{len(chosen)} of {len(coupled)} tensors were left out of the action; the others were not checked so")
        if len(coupled) < len(self.movable):
            alone = ", ".join(name for name in self.movable if name not in coupled)
            self.report.notes.append(f"factors that move them move nothing else, so there is nothing to leave them out of: {alone}")
        permutations = [number for number, factor in enumerate(self.group.factors) if factor.kind == "permutation"]
        element = self._element(permutations, state)
        acted = self._with(state, act_on(element, {name: state[name] for name in self._whole_stacks(self.movable)}))
        base = self._run(acted, inputs, "base", keep=True)
        idle, added = [], []
        for name in chosen:
            out = self._run(self._with(acted, {name: state[name]}), inputs, f"without {name}", base, {name})
            change = self._change(base, out, {name})
            if change > self.least_change:
                self.report.left_out[name] = change
            elif self._influence(name, acted, inputs, base) <= self.least_change:
                idle.append(name)
            elif self._merely_added(name, acted, state[name], inputs, base):
                added.append(name)
            else:
                self.report.left_out[name] = change
                self._problem(f"leaving {name} out of the action changes the outputs by {change:.1e} only: the group may be too small")
        self.report.without_influence = tuple(idle)
        if added:
            self.report.notes.append(f"elements of {', '.join(added)} are merely added to each other, so there is nothing to leave out")
        if idle:
            self.report.notes.append(f"without influence on the outputs, so nothing to leave out: {', '.join(idle)}")

    def _change(self, base: Outputs, out: Outputs, but: set[str]) -> float:
        """How much the outputs changed, and new values of buffers other than those that were changed themselves."""
        names = [name for name in base.buffers if name not in but]
        return max(deviation(base.values, out.values),
                   deviation([base.buffers[name] for name in names], [out.buffers[name] for name in names]))

    def _influence(self, name: str, state: State, inputs: Sequence[Any], base: Outputs) -> float:
        """How much other values of one tensor change the outputs."""
        other = self.randomiser.draw(name, self.generator)
        return self._change(base, self._run(self._with(state, {name: other}), inputs, f"influence of {name}", base, {name}), {name})

    def _merely_added(self, name: str, state: State, image: torch.Tensor, inputs: Sequence[Any], base: Outputs) -> bool:
        """Whether the outputs stay the same all along the line from a tensor to its image: what one element loses, another gains.

        Exchanges of what is merely added are no symmetries that a graph annotates. Any other exchange holds at the two ends of the line only.
        """
        if not state[name].is_floating_point():
            return False  # there is nothing between integers
        for share in (0.37, -0.81):
            between = torch.lerp(state[name], image, share)
            if self._change(base, self._run(self._with(state, {name: between}), inputs, f"sums of {name}", base, {name}), {name}) > self.least_change:
                return False
        return True

    def _outside(self, state: State, inputs: Sequence[Any], base: Outputs) -> None:
        """Permute one axis of one tensor alone, where the group moves other tensors along with it: the outputs must change."""
        candidates, certain = self._axes()
        order = torch.randperm(len(candidates), generator=self.generator).tolist()
        for name, dim in (candidates[i] for i in order):
            if len(self.report.outside) >= OUTSIDE:
                break
            size = state[name].shape[dim]
            permutation = torch.roll(torch.arange(size), int(torch.randint(1, size, (), generator=self.generator)))
            image = state[name].index_select(dim, permutation)
            change = self._change(base, self._run(self._with(state, {name: image}), inputs, "outside", base, {name}), {name})
            if change <= self.least_change and (self._influence(name, state, inputs, base) <= self.least_change
                                                or self._merely_added(name, state, image, inputs, base)):
                continue
            what = f"permuting axis {dim} of {name} alone is outside the group, but changes the outputs by {change:.1e} only"
            if change > self.least_change or certain:
                self.report.outside[f"axis {dim} of {name} alone"] = change
            if change <= self.least_change and certain:
                self._problem(what)
            elif change <= self.least_change:  # nothing says that an axis is fixed for a reason
                self.report.notes.append(f"{what}: the group may be too small")
        if not self.report.outside:
            self.report.notes.append("no permutation outside the group was found to try")

    def _shared(self) -> set[int]:
        """Permutations that move more than one tensor."""
        permutations = [number for number, factor in enumerate(self.group.factors) if factor.kind == "permutation"]
        return {number for number in permutations if len(self.moved_by[number]) > 1}

    def _axes(self) -> tuple[list[tuple[str, int]], bool]:
        """Axes that cannot be permuted alone, as every space along them moves other tensors too; if there are none, fixed axes (False)."""
        # A factor of one stack alone may well permute one of its tensors alone.
        actions = [{self.group.spaces[s].factor for s in self.group.actions[name].spaces()} for name in self.actions]
        shared = {number for number in self._shared() if sum(number in own for own in actions) > 1}
        found, others = [], []
        for key, action in self.group.actions.items():
            name = self.group.members(key)[0]
            lead = len(action.shape) - len(self.group.member_shape(key))
            if name not in self.read:
                continue
            along: list[set[int]] = [set() for _ in action.shape]
            for dims, blocks in action.components:
                for block in blocks:
                    for dim, spaces in zip(dims, block.spaces, strict=True):
                        along[dim] |= {self.group.spaces[s].factor for s in spaces}
            for dim, factors in enumerate(along[lead:]):
                if action.shape[lead + dim] > 1 and factors and factors <= shared:
                    found.append((name, dim))
                elif action.shape[lead + dim] > 1 and not factors - {-1}:
                    others.append((name, dim))
        return (found, True) if found else (others, False)

    # -- the exported graph --------------------------------------------------------------------------------------------

    def count(self) -> None:
        """Continuous symmetries, declared and not."""
        found = maximality(self.graph, self.execution, self._state(), self.read,
                           lambda: draw_inputs(self.examples, self.generator, self.keep_integers))
        self.report.maximality = found
        if found.declared > found.nullity or found.change > CHANGE:
            self._problem(f"a declared continuous symmetry changes the outputs: {found}")
        elif not found.complete:
            self.report.notes.append("some continuous symmetries are not declared, or the function is not analytic")

    def _original(self, model: nn.Module | None, state: State, inputs: Sequence[Any], base: Outputs) -> None:
        """The exported graph must be the network itself."""
        if self.execution.exported is None:  # the model itself is what is run
            return
        if model is None:
            self.report.notes.append("an exported program was given: there is no other network to compare it with")
        elif self.execution.stochastic:
            self.report.notes.append("the exported graph was not compared with the network itself, which draws random numbers")
        else:
            returned = [leaf for leaf in base.returned if isinstance(leaf, torch.Tensor)]
            found, allowed, note = compare_original(model, state, inputs, self.execution.exported, self.examples, returned, self.report.rounding)
            self.report.exported = found
            if note:
                self.report.notes.append(note)
            if found is not None and found > allowed:
                self._problem(f"the exported graph differs from the network itself by {found:.1e}")

    def _problem(self, text: str) -> None:
        if text not in self.report.problems and len(self.report.problems) < 50:
            self.report.problems.append(text)


def _equal(a: State, b: State) -> bool:
    """Equal but for rounding errors, element by element: numbers of neighbouring elements differ by more."""
    return all(torch.isclose(a[name], b[name], rtol=1e-10, atol=0.0).all() for name in b)


def _split(size: int, count: int) -> list[list[int]]:
    """Numbers from 0 in that many parts of neighbours at most."""
    return [part.tolist() for part in np.array_split(range(size), min(count, size))] if size else []
