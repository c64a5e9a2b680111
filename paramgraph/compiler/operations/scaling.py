"""Scale rules of elementwise functions, normalisations and mixing, on characters that are aligned already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from paramgraph.compiler.operations.functions import COMPARISONS, EQUALITIES, EXTREMA, PARAMETRIC, PERIODIC, SUMS, kind_of, number_kind, reflection_of
from paramgraph.compiler.program import Op
from paramgraph.symmetries.character import Character

if TYPE_CHECKING:
    from paramgraph.compiler.scale_operands import Operands
    from paramgraph.compiler.scales import ScaleSolver

# Plain numbers up to this are there to keep a denominator away from zero: a scale that they alone forbid holds approximately.
NEGLIGIBLE = 1e-2
# Functions that are taken as a part of the parameters that are read through them.
READ_THROUGH = frozenset("exp exp2 softplus".split())
# Normalisations by mean and variance, and by the mean square alone.
CENTRED = frozenset("batch_norm layer_norm group_norm instance_norm".split())
UNCENTRED = frozenset(["rms_norm"])


def elementwise(solver: ScaleSolver, op: Op, operands: Operands) -> Character | None:
    """The character of an elementwise function's result; None where nothing is known of the function."""
    if op in solver.reflecting:
        return _reflected(solver, op, operands)
    if op.name in SUMS and len(op.inputs) == 2:
        for slot, value in enumerate(op.inputs):
            # A few zeros that are read everywhere (what a loop begins to add up from) have multipliers of their own at each place.
            if value.kind == "constant" and value.shape != op.output.shape == op.inputs[1 - slot].shape and solver.is_zero(value):
                return operands.of(1 - slot)
        fresh = 1 if solver.is_fresh(op.inputs[1]) else 0
        return operands.equal(operands.of(1 - fresh), fresh)
    if op.name == "mul" and len(op.inputs) == 2:
        fresh = 1 if solver.is_fresh(op.inputs[1]) else 0
        return operands.times(operands.of(1 - fresh), fresh)
    positional, keywords = arguments(op, len(op.inputs))
    rule = RULES.get(op.name)
    if rule is not None:
        return rule(solver, op, operands.all(), positional, keywords)
    if len(op.inputs) != 1:
        return None
    x = operands.of(0)
    if op.name in ("clamp_min", "clamp") and _is_negligible(positional[1:2]) and len(positional) == 2 and not keywords:
        solver.system.negligible(x)
        return solver.system.power(x, 1, "none")
    degree, parity = kind_of(op.name, positional, keywords)
    return solver.system.power(x, degree, parity)


def reflection(op: Op) -> tuple[float, float] | None:
    """`(e, c)` of a function with `f(e - x) = c - f(x)` that is not odd; zeros for a parametric ReLU; None for others."""
    if op.kind != "elementwise":
        return None
    if op.name in PARAMETRIC:
        return (0.0, 0.0) if len(op.inputs) == 2 else None
    if len(op.inputs) != 1:
        return None
    positional, keywords = arguments(op, 1)
    return reflection_of(op.name, positional, keywords)


def _reflected(solver: ScaleSolver, op: Op, operands: Operands) -> Character:
    """A function taken as odd; the result of a parametric ReLU as divided by its slope; that of a sine as having any sign; numbers as not added.

    Other functions that parameters are read through are taken as not applied.
    """
    if op.name in SUMS and len(op.inputs) == 2:  # inside an exponential: what is a factor there, the other a number
        slot = 0 if op.inputs[0].parametric else 1
        solver.system.be_trivial(operands.of(1 - slot))
        return operands.of(slot)
    x = operands.of(0)
    if op.name in SUMS or op.name in READ_THROUGH:
        return x
    if op.name in PERIODIC:
        sign = solver.phases[op] = solver.system.unknown(operands.layouts, f"phase of {op.name}")
        return solver.system.product(solver.system.power(x, *kind_of(op.name, ["x"], {})), solver.system.signs_of(sign))
    if len(op.inputs) == 1:
        return solver.system.power(x, None, "odd")
    given = {label for label, n in zip(op.labels[1], op.inputs[1].shape, strict=True) if n > 1}
    solver.system.constant(solver.system.signs_of(x), [d for d, label in enumerate(operands.order) if label not in given])
    return solver.system.product(x, operands.of(1), -1)


def arguments(op: Op, tensors: int) -> tuple[list[Any], dict[str, Any]]:
    """Positional arguments, `"x"` in place of tensors, and plain keyword arguments."""
    form = op.attrs.get("form")
    positional = ["x"] * tensors if form is None else list(form)
    if form is None:
        positional += [a for a in op.attrs.get("args", ()) if not isinstance(a, tuple)]
    keywords = {a[0]: a[1] for a in op.attrs.get("args", ()) if isinstance(a, tuple) and len(a) == 2 and isinstance(a[0], str)}
    return positional, keywords


def _is_negligible(numbers: Sequence[Any]) -> bool:
    return all(isinstance(n, (int, float)) and not isinstance(n, bool) and 0 < abs(n) <= NEGLIGIBLE for n in numbers)


def _meet_numbers(solver: ScaleSolver, x: Character, numbers: Sequence[Any]) -> None:
    """Plain numbers are added to, compared with or put in place of elements: these must have the numbers' character, 1."""
    for number in numbers:
        kind = number_kind(number) if isinstance(number, (int, float)) else "number"
        if kind == "infinite":
            solver.system.power(x, 1, "none")
        elif kind == "number":
            solver.system.be_trivial(x)


def _sum(solver: ScaleSolver, op: Op, operands: Sequence[Character], positional: list[Any], keywords: Mapping[str, Any]) -> Character:
    out = solver.system.equal(operands)
    numbers = [a for a in positional[:2] if not isinstance(a, str)]
    if len(numbers) == 1 and _is_negligible(numbers):
        solver.system.negligible(out)
        return solver.system.power(out, 1, "none")
    _meet_numbers(solver, out, numbers)
    return out


def _product(solver: ScaleSolver, op: Op, operands: Sequence[Character], positional: list[Any], keywords: Mapping[str, Any]) -> Character:
    out = operands[0]
    for other in operands[1:]:
        out = solver.system.product(out, other)
    return out


def _quotient(
    solver: ScaleSolver, op: Op, operands: Sequence[Character], positional: list[Any], keywords: Mapping[str, Any]
) -> Character | None:
    if keywords.get("rounding_mode") is not None:
        return None
    if len(operands) == 2:
        return solver.system.product(operands[0], operands[1], -1)
    return operands[0] if positional[:1] == ["x"] else solver.system.power(operands[0], -1, "odd")


def _extremum(solver: ScaleSolver, op: Op, operands: Sequence[Character], positional: list[Any], keywords: Mapping[str, Any]) -> Character:
    out = solver.system.equal(operands)
    _meet_numbers(solver, out, [a for a in positional if not isinstance(a, str)])
    return solver.system.power(out, 1, "none")


def _comparison(solver: ScaleSolver, op: Op, operands: Sequence[Character], positional: list[Any], keywords: Mapping[str, Any]) -> Character:
    out = solver.system.equal(operands)
    _meet_numbers(solver, out, [*(a for a in positional if not isinstance(a, str)), *keywords.values()])
    return solver.system.power(out, 0, "even" if op.name in EQUALITIES else "none")


def _where(
    solver: ScaleSolver, op: Op, operands: Sequence[Character], positional: list[Any], keywords: Mapping[str, Any]
) -> Character | None:
    """Elements of one tensor or another, as a condition says."""
    if len(positional) != 3 or keywords:
        return None
    place = 1 if op.name == "masked_fill" else 0
    if positional[place] != "x":
        return None
    operands = list(operands)
    condition = operands.pop(sum(a == "x" for a in positional[:place]))
    solver.system.be_trivial(condition)
    if not operands:
        return condition
    out = solver.system.equal(operands)
    _meet_numbers(solver, out, [a for a in positional if not isinstance(a, str)])
    return out


def _lerp(
    solver: ScaleSolver, op: Op, operands: Sequence[Character], positional: list[Any], keywords: Mapping[str, Any]
) -> Character | None:
    """`a + w (b - a)`, the weight a plain number or a tensor."""
    if len(operands) < 2:
        return None
    for weight in operands[2:]:
        solver.system.be_trivial(weight)
    return solver.system.equal(operands[:2])


def _added(
    solver: ScaleSolver, op: Op, operands: Sequence[Character], positional: list[Any], keywords: Mapping[str, Any]
) -> Character | None:
    """`x + value · a · b`, or `a / b`."""
    if len(operands) != 3:
        return None
    x, a, b = operands
    return solver.system.equal([x, solver.system.product(a, b, 1 if op.name == "addcmul" else -1)])


def _prelu(
    solver: ScaleSolver, op: Op, operands: Sequence[Character], positional: list[Any], keywords: Mapping[str, Any]
) -> Character | None:
    if len(operands) != 2:
        return None
    solver.system.be_trivial(operands[1])
    return solver.system.power(operands[0], 1, "none")


RULES: dict[str, Any] = {
    **dict.fromkeys(SUMS, _sum),
    **dict.fromkeys(EXTREMA, _extremum),
    **dict.fromkeys(COMPARISONS, _comparison),
    "mul": _product,
    "div": _quotient,
    "true_divide": _quotient,
    "where": _where,
    "masked_fill": _where,
    "lerp": _lerp,
    "addcmul": _added,
    "addcdiv": _added,
    **dict.fromkeys(PARAMETRIC, _prelu),
}


def is_made_up_for(solver: ScaleSolver, op: Op, slots: Mapping[str, int]) -> bool:
    """Whether a running variance is read here alone, and a gain along the same axes that is met for the first time comes behind it.

    Were it scaled, the gain would be, too, and nothing else: no other multiplier has to do with it.
    """
    if "gain" not in slots or op in solver.reflecting:
        return False
    gain, variance = (op.inputs[slots[role]] for role in ("gain", "running_var"))
    alike = tuple(op.labels[slots["gain"]]) == tuple(op.labels[slots["running_var"]]) and gain.shape == variance.shape
    return alike and gain is not variance and solver.is_fresh(gain) and solver.is_fresh(variance) and solver.uses[variance] == 1


def normalize(solver: ScaleSolver, op: Op, operands: Operands, over: Sequence[int], slots: Mapping[str, int]) -> Character | None:
    """The character of a normalisation's result over the axes `over`; None where nothing is known of it.

    With running statistics it is affine: the input's scale is the running mean's, and any is exact. Statistics of the input itself take
    its magnitude away (exactly 1, as ε is added to it); with a mean, one sign common to all that is normalised together passes, without
    one the sign of each element.

    Args:
        slots: of the other operands, by role.
    """
    system = solver.system
    if op.name not in CENTRED | UNCENTRED or not set(slots) <= {"gain", "offset", "running_mean", "running_var"}:
        return None
    x = operands.of(0)
    if over:
        system.negligible(system.constant(system.magnitudes_of(x), over))
        x = system.signs_of(x)
        if op.name in CENTRED:
            system.constant(x, over)
    if "running_mean" in slots:
        x = operands.equal(x, slots["running_mean"])
    if "running_var" in slots:
        if solver.is_fresh(value := op.inputs[slots["running_var"]]):  # the gain makes up for it
            solver.set(value, system.free_but_for_a_constant(solver.layouts_of(value.axes)))
        else:
            variance = operands.of(slots["running_var"])
            if op not in solver.reflecting:  # where it is, what is added to the variance is taken as a part of it
                system.negligible(variance)
            x = system.product(x, system.power(variance, Fraction(1, 2), "none"), -1)
    if "gain" in slots:
        x = operands.times(x, slots["gain"])
    return operands.equal(x, slots["offset"]) if "offset" in slots else x


def reduction(solver: ScaleSolver, op: Op, x: Character, gone: Sequence[int]) -> Character | None:
    """The character of a reduction over the axes `gone`; None where nothing is known of it."""
    system = solver.system
    if op.name in ("sum", "mean", "nansum", "nanmean"):
        return system.constant(x, gone)
    if op.name in ("amax", "amin", "max", "min"):
        return system.power(system.constant(x, gone), 1, "none")
    if op.name == "prod":
        return system.product_along(x, gone)
    if op.name in ("var", "std"):
        return system.power(system.constant(x, gone), 2 if op.name == "var" else 1, "even")
    if op.name == "rstd":  # a small number is added to the variance
        return system.power(system.constant(x, gone), None, "even")
    if op.name == "norm" and op.attrs.get("order", 2) != 0:  # of absolute values
        return system.constant(system.magnitudes_of(x), gone)
    return None
