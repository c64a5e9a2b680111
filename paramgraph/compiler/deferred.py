"""Scale typing put off until scales are asked for: what it needs of a compilation, and no more, is kept until then."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from paramgraph.compiler.affine_scales import find_affine_scales
from paramgraph.compiler.commuting import find_commuting
from paramgraph.compiler.components import Component
from paramgraph.compiler.diagnose import module_path
from paramgraph.compiler.garbage import no_collections
from paramgraph.compiler.lineage import NoLineage
from paramgraph.compiler.matrices import MatrixFinder
from paramgraph.compiler.offsets import find_offsets
from paramgraph.compiler.orientations import find_orientations
from paramgraph.compiler.phases import find_phases
from paramgraph.compiler.program import Op, Program, Value
from paramgraph.compiler.readers import find_read_offsets
from paramgraph.compiler.reflections import find_reflections
from paramgraph.compiler.rotations import find_rotations
from paramgraph.compiler.scales import ScaleSolver, solve_scales
from paramgraph.compiler.statistics import find_statistics
from paramgraph.compiler.vanishing import find_vanishing
from paramgraph.graph import Diagnostic
from paramgraph.symmetries.group import Moves, Moving, Scaling, SymmetryGroup
from paramgraph.symmetries.matrices import MatrixFactor
from paramgraph.symmetries.normalised import unnormalised
from paramgraph.symmetries.scale_solution import Spans, annotate
from paramgraph.symmetries.scales import Scales
from paramgraph.symmetries.spaces import SpaceSystem


class DeferredScales:
    """Scales and signs of a compiled program, solved for when called.

    Args:
        program: the typed program. It is taken over: operations keep the path of their module only, not the tracer's graph.
        system: the spaces of its values' axes.
        components: the nodes of each value.
    """

    def __init__(self, program: Program, system: SpaceSystem, components: Mapping[Value, Sequence[Component]]) -> None:
        self.program, self.system = program, system
        self.nodes: dict[str, tuple[Value, Component]] = {}
        for value, held in components.items():
            for component in held:
                name = component.ref.name
                if name not in self.nodes and component.ref.index is None:  # later values have the same nodes after a function of them
                    self.nodes[name] = (value, component)
        path, last = "", None
        for number, op in enumerate(program.ops):
            if op.where is not last:  # operations of one call come one after the other
                path, last = module_path(op.where), op.where
            op.where = (path, number)
        program.unknown, program.lowered, program.lineage = [], [], NoLineage()
        system.settle()

    @no_collections()
    def __call__(self, group: SymmetryGroup) -> Scaling:
        """No call crashes, and no wrong symmetry gets through: what cannot be solved gives no scales, and says so.

        Args:
            group: the permutations.
        """
        try:
            solver = solve_scales(self.program, self.system)
            known = {name: solver.characters[value] for name, value in self.program.tensors.items() if value in solver.characters}
            nodes = {name: (solver.characters[value], _spans(value, component)) for name, (value, component) in self.nodes.items()
                     if value in solver.characters}
            found = [_diagnostic(op, cause) for op, cause in solver.unsupported]
            scales, factors = annotate(solver.system, known, nodes, found)
            while wrong := unnormalised(group, scales):
                solver.system.fix(wrong, sum(variable.kind == "scale" for variable in scales.variables))
                approximate = scales.approximate
                scales, factors = annotate(solver.system, known, nodes, found)
                scales = replace(scales, approximate=approximate)
            return scales, factors, lambda: self._moves(solver)
        except Exception as error:  # whatever it is, it is a defect here, and none of the user's doing
            cause = f"they could not be solved for, so none are in the group: {error!r}"
            return Scales(diagnostics=(Diagnostic("note", "scales and signs", cause),)), (), lambda: ((), ())

    @no_collections()
    def _moves(self, solver: ScaleSolver) -> Moves:
        """Matrix groups and translations. A finder that fails finds none, and says so; the others are not concerned.

        Args:
            solver: the solved scales.
        """
        program, system = self.program, self.system
        found: list[Moving] = []
        said: list[Diagnostic] = []
        finders: dict[str, Callable[[], Iterable[Moving]]] = {
            "matrices": lambda: MatrixFinder(program, solver).run(),
            "matrices that commute with fixed ones": lambda: find_commuting(program, tuple(found)),
            "turns of streams": lambda: find_rotations(program),
            "translations": lambda: find_offsets(program, solver),
            "additions taken to zero": lambda: find_vanishing(program, tuple(found)),
            "offsets of readers without biases": lambda: find_read_offsets(program, tuple(found)),
            "running statistics": lambda: find_statistics(program),
            "scales beside constants": lambda: find_affine_scales(program, system, tuple(found)),
            "reflections": lambda: find_reflections(program, system),
            "phase shifts": lambda: find_phases(program, system),
            "orientations": lambda: find_orientations(program),
        }
        for kind, find in finders.items():
            try:
                found.extend(tuple(factor for factor in find() if self._is_real(factor)))  # whole, or not at all
            except Exception as error:  # whatever it is, it is a defect here, and none of the user's doing
                said.append(Diagnostic("note", kind, f"they could not be searched for, so none are in the group: {error!r}"))
        return tuple(found), tuple(said)

    def _is_real(self, factor: Moving) -> bool:
        """Whether a factor acts on real numbers, or treats complex ones as two of these each, as real matrices do."""
        program = self.program
        names = {member for name in (*factor.tensors, *factor.read) for member in program.stacks.get(name, (name,))}
        return isinstance(factor, MatrixFactor) or names.isdisjoint(program.complex)


def _spans(value: Value, component: Component) -> Spans:
    """Which digits of a value's dimensions a component's nodes are numbered by."""
    out: dict[int, list[tuple[int, int]]] = {}
    for d, i, unit in component.places:
        if isinstance(d, int):
            units = [space for space in value.axes[d] if space.size > 1]
            step = math.prod(space.size for space in units[i + 1 :])
            out.setdefault(d, []).append((step, step * unit.size))
    return out


def _diagnostic(op: Op, cause: str) -> Diagnostic:
    return Diagnostic("note", f"scales of the operands of {op.name or op.kind}", f"nothing is scaled through it: {cause}", op.where[0])
