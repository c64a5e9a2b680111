"""Names of the two products of an attention, whichever way it was written: a fused operation, or a softmax between two products.

A product of activations whose softmax is taken is `scores`, and the product of that softmax with other activations is `attend`, so that
both front ends, and both ways to write an attention, give the same types.
"""

from __future__ import annotations

from paramgraph.compiler.program import Op, Program, Value

# What scores pass through on their way to the softmax, and weights on their way to the second product.
_PASSING = ("elementwise", "reshape", "permute", "expand")
_SOFTMAX = ("softmax", "_softmax", "safe_softmax")


def name_attention(program: Program) -> None:
    """Rename the products of every attention of a program, in place."""
    readers: dict[Value, list[Op]] = {}
    for op in program.ops:
        for value in op.inputs:
            readers.setdefault(value, []).append(op)
    for op in program.ops:
        if op.kind == "mix" and op.name in _SOFTMAX and op.attrs["mixed"] == (op.output.ndim - 1,):
            scores, attends = _before(op.inputs[0]), _after(op.output, readers)
            if scores is not None and attends:
                for product, name in ((scores, "scores"), *((attend, "attend") for attend in attends)):
                    product.name = name


def _before(value: Value) -> Op | None:
    """The product of activations that a value is computed from, element by element."""
    while value.op is not None:
        op = value.op
        if _is_product(op):
            return op if op.output.ndim and op.kind == "contract" else None
        acts = [operand for operand in op.inputs if not operand.parametric]
        if op.kind not in _PASSING or len(acts) > 2 or not acts:
            return None
        value = acts[0]
    return None


def _after(value: Value, readers: dict[Value, list[Op]]) -> list[Op]:
    """The products of activations in which a value is the first operand."""
    found = []
    stack = [value]
    while stack:
        top = stack.pop()
        for op in readers.get(top, []):
            if _is_product(op) and op.inputs[0] is top:
                found.append(op)
            elif op.kind in _PASSING and op.inputs[0] is top and not any(not v.parametric for v in op.inputs[1:]):
                stack.append(op.output)
    return found


def _is_product(op: Op) -> bool:
    return op.kind == "contract" and op.name in ("matmul", "einsum", "scores", "attend") and sum(not value.parametric for value in op.inputs) == 2
