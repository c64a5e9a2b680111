"""Linear maps and products: MatMul, Gemm, Einsum."""

from __future__ import annotations

from paramgraph.compiler.aten import linear as aten
from paramgraph.compiler.builder import Builder
from paramgraph.compiler.onnx.arguments import is_weight, unless
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import exact_rule as rule


@rule("ai.onnx::MatMul")
def matmul(b: Builder, x: Value, y: Value) -> Value:
    """`x @ y`; by a matrix of parameters it is a linear layer, whether the file transposes the matrix or stores it transposed."""
    if not is_weight(y) or y.ndim != 2 or x.parametric or x.ndim < 1:
        return aten.matmul(b, x, y)
    batch = tuple(range(x.ndim - 1))
    weight, labels = untransposed(y)
    return b.contract(([(*batch, "i"), labels], (*batch, "o")), x, weight, name="linear")


def untransposed(weight: Value) -> tuple[Value, tuple[str, str]]:
    """A matrix `(in, out)` as it was before the file transposed it, and its labels."""
    op = weight.op
    if op is not None and op.kind == "permute" and op.attrs["order"] == (1, 0):
        return op.inputs[0], ("o", "i")
    return weight, ("i", "o")


@rule("ai.onnx::Gemm")
def gemm(b: Builder, x: Value, weight: Value, bias: Value | None = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0,
         transB: int = 0) -> Value:
    """`alpha · x' w' + beta · bias`, either matrix transposed or not."""
    left = ("i", 0) if transA else (0, "i")
    right: tuple[str, str] = ("o", "i") if transB else ("i", "o")
    if not transB and is_weight(weight):
        weight, right = untransposed(weight)
    name = "linear" if is_weight(weight) and not x.parametric else "matmul"
    out = b.contract(([left, right], (0, "o")), x, weight, name=name)
    bias = unless(bias, 0.0)
    if bias is None:
        return out if alpha == 1.0 else b.elementwise("mul", out, b.fill((), alpha))
    scale = {} if alpha == beta == 1.0 else {"scale": (alpha, beta)}
    return b.elementwise("add", out, bias, role="bias", **scale)


@rule("ai.onnx::Einsum")
def einsum(b: Builder, *operands: Value, equation: str) -> Value:
    return aten.einsum(b, equation.replace(" ", ""), operands)
