"""What the compiler has to say of a typed program: pins with their causes, unknown operations, unused tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from paramgraph.compiler.program import Program
from paramgraph.compiler.typing import Typing
from paramgraph.graph import Diagnostic
from paramgraph.symmetries.spaces import Space


def diagnostics(program: Program, typing: Typing) -> Iterator[Diagnostic]:
    """Every unknown operation, every pinned axis of a parameter with its cause, every unused tensor."""
    if typing.failure:
        yield Diagnostic("pinned", "the whole network", typing.failure)
    if typing.coarser:
        yield Diagnostic("note", "families", typing.coarser)
    for name, where, reason in program.unknown:
        yield Diagnostic("unknown-operation", name, f"{reason}: every space that it touches is pinned", place(where))
    for op, cause in typing.pins:
        yield Diagnostic("pinned", f"operands of {op.name or op.kind}", cause, place(op.where))
    families: dict[int, set[Space]] = {}
    for (base, _), member in typing.system.members.items():
        families.setdefault(base, set()).update(typing.system.units((member,)))
    for name, value in program.tensors.items():
        if name in program.fixed and name not in typing.used:
            yield Diagnostic("pinned", name, "its values belong to the function, as the rule of its layer says")
            continue
        if name in program.tables:
            yield Diagnostic("note", name, "its integers belong to the function: it is in no group")
            continue
        if name not in typing.used:
            yield Diagnostic("unused", name, "no operation reads it; it belongs to no group")
            continue
        for d, axis in enumerate(value.axes):
            held = [atom for unit in _atoms(typing, axis) for atom in (unit, *families.get(unit.id, ()))]
            # What is read of a family is its members.
            causes = {unit.cause for unit in held if unit.pinned and unit.size > 1 and unit.cause and not families.get(unit.id, {unit}) - {unit}}
            for cause in sorted(causes):
                yield Diagnostic("pinned", program.axis_name(name, d), cause)


def _atoms(typing: Typing, axis: tuple[Space, ...]) -> Iterator[Space]:
    for unit in typing.system.units(axis):
        if unit.parts is None:
            yield unit
        else:
            for part, _ in typing.system.leaves(unit):
                yield from _atoms(typing, part) if part != (unit,) else (unit,)


def module_path(node: Any) -> str:
    """Dotted path of the module that an fx node comes from."""
    stack = (getattr(node, "meta", None) or {}).get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else ""


def place(node: Any) -> str:
    """Module path and source line of an fx node."""
    meta = getattr(node, "meta", None) or {}
    path = module_path(node)
    lines = [line.strip() for line in (meta.get("stack_trace") or "").splitlines() if line.strip().startswith("File ")]
    source = lines[-1].replace("File ", "").replace('"', "").rsplit("/", 1)[-1] if lines else ""
    return ", ".join(part for part in (path, source) if part)
