"""What a verification found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class FactorReport:
    """One factor of the group.

    Attributes:
        name: the factor's name.
        deviation: worst relative deviation of the outputs under its random elements.
        moved: names of the tensors that its elements moved.
        together: how many factors were moved at once when it was tested; 1 if it was tested alone.
    """

    name: str
    deviation: float
    moved: tuple[str, ...]
    together: int = 1


@dataclass(frozen=True)
class Maximality:
    """Continuous symmetries found at one point of a network's parameters, beside those declared.

    Attributes:
        parameters: number of parameters, and of elements of buffers, that the function reads.
        nullity: directions in which no output changes, to first order: parameters less the rank of the Jacobian.
        declared: how many of them the group's scales and matrices span.
        gap: the least singular value that counts as one over the largest that does not; small gaps leave the rank in doubt.
        change: largest relative change of the outputs along a declared direction, to first order.
        missing: per tensor, its share in the directions that are not declared.
    """

    parameters: int
    nullity: int
    declared: int
    gap: float
    change: float
    missing: dict[str, float] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every direction is declared."""
        return self.declared == self.nullity

    def __str__(self) -> str:
        tensors = ", ".join(f"{name} ({share:.0%})" for name, share in list(self.missing.items())[:6])
        return (f"{self.declared} of {self.nullity} dimensions of {self.parameters} parameters are declared (spectral gap {self.gap:.0e})"
                + (f"; the others move {tensors}" if self.missing else ""))


@dataclass
class Report:
    """The result of `paramgraph.verify`. It passed if it has no problems; `notes` say what was covered and what was not.

    Attributes:
        network: the graph's name.
        tolerance: largest relative deviation that counts as unchanged.
        factors: per factor, its deviation and the tensors that it moved.
        whole: worst relative deviation under random elements of the whole group.
        matrices: per matrix group, or several tested together, the worst relative deviation under random matrices.
        laws: the group laws that were checked on the network's tensors, by name.
        left_out: per tensor left out of the action, how much that changed the outputs.
        movable: number of tensors that the group moves.
        without_influence: tensors left out whose values have no influence on the outputs at all.
        outside: per permutation outside the group, how much it changed the outputs.
        exported: deviation of the exported graph from the network itself, in float64; None where they could not be compared.
        rounding: deviation under parameters perturbed in their last bit: what rounding errors alone amount to.
        elements: group elements per factor.
        inputs: random inputs per element.
        maximality: the continuous symmetries counted, if that was asked for.
        runs: how often the network was run.
        seconds: how long it took.
        notes: what was covered, and what was not.
        problems: what failed; empty if the verification passed.
    """

    network: str
    tolerance: float
    factors: list[FactorReport] = field(default_factory=list)
    whole: float = 0.0
    matrices: dict[str, float] = field(default_factory=dict)
    laws: dict[str, bool] = field(default_factory=dict)
    left_out: dict[str, float] = field(default_factory=dict)
    movable: int = 0
    without_influence: tuple[str, ...] = ()
    outside: dict[str, float] = field(default_factory=dict)
    exported: float | None = None
    rounding: float = 0.0
    elements: int = 0
    inputs: int = 0
    maximality: Maximality | None = None
    runs: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.problems

    @property
    def max_deviation(self) -> float:
        """Worst relative deviation over all factors and the whole group."""
        return max([self.whole, *self.matrices.values(), *(factor.deviation for factor in self.factors)])

    @property
    def outside_changed(self) -> bool:
        """Whether permutations outside the group were tried and all changed the outputs: the check could have failed."""
        return bool(self.outside) and min(self.outside.values()) > 0 and not any("outside" in problem for problem in self.problems)

    def rows(self) -> list[tuple[str, str, str]]:
        """Rows `(check, what was covered, result)` for a table."""
        alone = sum(factor.together == 1 for factor in self.factors)
        worst = max((factor.deviation for factor in self.factors), default=0.0)
        smallest = min(self.left_out.values(), default=float("nan"))
        outside = min(self.outside.values(), default=float("nan"))
        covered = f"{self.elements} elements × {self.inputs} inputs"
        exported = "not compared" if self.exported is None else f"deviation {self.exported:.1e}"
        return [
            ("exported graph is the network", "one input", exported),
            ("each factor", f"{len(self.factors)} factors ({alone} alone), {covered}", f"worst deviation {worst:.1e}"),
            ("whole group", covered, f"worst deviation {self.whole:.1e}"),
            ("matrix groups", f"{len(self.matrices)} tests, {self.inputs} inputs", f"worst deviation {max(self.matrices.values(), default=0.0):.1e}"),
            ("group laws", ", ".join(self.laws) or "none", "hold" if self.laws and all(self.laws.values()) else "not shown"),
            ("one tensor left out", f"{len(self.left_out)} of {self.movable} tensors", f"least change {smallest:.1e}"),
            ("outside the group", f"{len(self.outside)} permutations", f"least change {outside:.1e}"),
        ]

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        head = (f"verification of {self.network} {verdict}: worst relative deviation {self.max_deviation:.1e} "
                f"(tolerance {self.tolerance:.0e}), {self.runs} runs in {self.seconds:.1f} s")
        lines = [f"  {check}: {covered}: {result}" for check, covered, result in self.rows()]
        lines += [f"  continuous dimensions: {self.maximality}"] if self.maximality is not None else []
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  problem: {problem}" for problem in self.problems]
        return "\n".join([head, *lines])
