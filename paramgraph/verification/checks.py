"""The checks of a verification, one method each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from paramgraph.symmetries.group import GroupElement
from paramgraph.verification.compare import deviation, without_nan
from paramgraph.verification.execute import Outputs
from paramgraph.verification.laws import laws
from paramgraph.verification.maximality import NotFinite, maximality
from paramgraph.verification.minimality import Minimality
from paramgraph.verification.original import compare_original
from paramgraph.verification.randomise import draw_inputs
from paramgraph.verification.report import FactorReport
from paramgraph.verification.runs import CHANGE, OUTSIDE, TRIES, State
from paramgraph.verification.states import Acted, Changed, moved_tensors


class Checks(Minimality):
    """One verification: all checks, written into a report."""

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
            state, inputs, base = settled or self._start()
            settled = None  # the next state is drawn when this one is gone
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
                self._leave_out(leave_out, state, inputs, base)
            del state, base
        sizes = {number: len(bundle) for bundle in self.bundles for number in bundle}
        for number, factor in enumerate(self.group.factors):
            if worst[number] > report.tolerance:
                self._problem(f"factor {factor} changes the outputs by {worst[number]:.1e}")
            report.factors.append(FactorReport(factor.name, worst[number], tuple(sorted(moved[number])), sizes[number]))
        if report.whole > report.tolerance:
            self._problem(f"elements of the whole group change the outputs by {report.whole:.1e}")
        self._laws()

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

    # -- the checks ----------------------------------------------------------------------------------------------------

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
        moved: set[str] = set()
        for _ in range(TRIES):  # a random sign may be + wherever a tensor has it
            part = GroupElement(self.group, {number: element.parts[number]})
            moved.update(moved_tensors(part, state, [name for name in claimed if name not in moved]))
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
        return self._compare(element, base, self._run(self._acted(element, state, names), inputs, "factors", base, names))

    def _whole(self, state: State, inputs: Sequence[Any], base: Outputs) -> None:
        """Random elements of the whole group, through the state dict that users see."""
        for _ in range(self.report.elements):
            element = self.group.sample(self.generator)
            made = Acted(element, state)
            acted = Changed(state, self.group.aliases, made.names, made)
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
            acted = self.group.move(self.generator, numbers).moved({name: state[name] for name in (*names, *(read - names))})
            found = deviation(base.values, self._run(self._with(state, acted), inputs, "matrices", base, names).values)
            label = ", ".join(str(self.group.moves[n]) for n in numbers)
            self.report.matrices[label] = max(self.report.matrices.get(label, 0.0), found)
            if found > self.report.tolerance:
                self._problem(f"{label} changes the outputs by {found:.1e}")
            # Of what is acted on together, a part may be moved.
            moved = self._whole_stacks(name for name in names if not torch.equal(acted[name], state[name]))
            still = names - moved
            if still:
                self._problem(f"{label} claims to move {', '.join(sorted(still))}, but leaves it as it is")

    def _laws(self) -> None:
        """Composition, inverse and identity."""
        actions = [name for name in dict.fromkeys([*self.actions, *self.group.scales.blocks]) if name in self.group.actions]
        found = laws(self.group, actions, self.generator)
        if actions:
            self.report.laws = found
        for law, holds in found.items():
            if not holds:
                self._problem(f"the group law {law} fails")

    def count(self) -> None:
        """Continuous symmetries, declared and not."""
        try:
            found = maximality(self.graph, self.execution, self._state(), self.read,
                               lambda: draw_inputs(self.examples, self.generator, self.keep_integers), self.generator)
        except NotFinite as error:
            self._problem(str(error))
            return
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

