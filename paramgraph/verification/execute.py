"""Running an exported program in float64: every cast to a lower precision rewritten, so that 1e-10 is within reach.

Networks that cast to float32 inside (normalisations, routers, state-space layers) cap a check of the network itself at 1e-7. The exported
graph of the same network has no such cap: its casts are arguments, and they are rewritten here.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils._pytree import tree_map

from paramgraph.compiler.torch_export import UPDATES
from paramgraph.errors import TraceError
from paramgraph.verification.keeping import kept_nodes

# Operations whose noise is an element-wise mask that no permutation knows of: taken as the identity.
_DROPOUT = ("aten::dropout", "aten::native_dropout", "aten::feature_dropout", "aten::alpha_dropout", "aten::feature_alpha_dropout")
# Arguments of other operations that switch such a mask on, and the value that switches it off.
_NOISE_ARGUMENTS: dict[str, Any] = {"dropout_p": 0.0, "dropout": 0.0}
_WIDE = {torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64, torch.complex64: torch.complex128}
_CPU = torch.device("cpu")


@dataclass
class Outputs:
    """Results of one run.

    Attributes:
        values: output leaves of the network, in order; numbers and None as they are. New values of inputs that it overwrites come first.
        buffers: new values of buffers and parameters that the network updates, by name.
        returned: the leaves of `values` that the network returns.
        nodes: values of graph nodes that were kept, for later runs that change a part of the state only.
    """

    values: list[Any]
    buffers: dict[str, torch.Tensor]
    nodes: dict[torch.fx.Node, Any] = field(default_factory=dict)
    returned: list[Any] = field(default_factory=list)


class Execution:
    """One exported program, run in float64 on the CPU under given states and inputs.

    Args:
        exported: a functional exported program.
        keep_bytes: values of nodes are kept for partial runs while they fit; where not all do, those that later runs start from.
    """

    def __init__(self, exported: Any, keep_bytes: int = 1 << 30) -> None:
        self.exported = exported
        self.module = exported.graph_module
        self.stochastic: set[str] = set()
        specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs if hasattr(spec.arg, "name")}
        self._states: dict[torch.fx.Node, str] = {}
        self._fixed: dict[torch.fx.Node, Any] = {}
        self._inputs: list[torch.fx.Node] = []
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                self._place(node, specs.get(node.name))
        self._last = _last_uses(self.module.graph)
        self._kept = kept_nodes(self.module.graph, self._last, keep_bytes)

    def _place(self, node: torch.fx.Node, spec: Any) -> None:
        kind = InputKind.USER_INPUT if spec is None else spec.kind
        if kind == InputKind.USER_INPUT:
            self._inputs.append(node)
        elif kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target in self.exported.state_dict:
            self._states[node] = spec.target
        elif node.users:
            self._fixed[node] = wide(_real(self.exported.constants.get(spec.target), spec.target))

    @property
    def state_names(self) -> set[str]:
        """State-dict names that the graph reads."""
        return {name for node, name in self._states.items() if node.users}

    def run(self, state: Mapping[str, torch.Tensor], inputs: Sequence[Any], base: Outputs | None = None,
            changed: set[str] | None = None, keep: bool = False, grad: bool = False) -> Outputs:
        """Run the graph.

        Args:
            state: float64 tensors by state-dict name, aliases included. Each is read when the first operation needs it, and let go after the
                last, so that a state may compute its tensors on the fly.
            inputs: flat input leaves, in the order of the graph.
            base: a run on the same inputs that kept nodes: what does not depend on `changed` is taken from it.
            changed: names whose values differ from those of `base`.
            keep: keep values of nodes, as many as fit.
            grad: record what derivatives by the state need.
        """
        known = base.nodes if base is not None and changed is not None else {}
        wanted = self._wanted(known, changed)
        kept: dict[torch.fx.Node, Any] = {}
        env: dict[torch.fx.Node, Any] = {}
        given = dict(zip(self._inputs, inputs, strict=True))
        with torch.set_grad_enabled(grad), default_float64():
            for number, node in enumerate(self.module.graph.nodes):
                if node not in wanted:
                    continue
                for operand in node.all_input_nodes:
                    if operand not in env:
                        env[operand] = known[operand] if operand in known else self._leaf(operand, state, given)
                if node.op == "output":
                    return self._outputs(node, env, kept)
                if node.op == "placeholder":
                    continue
                env[node] = self._compute(node, env, number)
                if keep and node in self._kept:
                    kept[node] = env[node]
                for gone in self._last.get(node, ()):
                    env.pop(gone, None)
        raise AssertionError("an exported graph ends in an output node")

    def _wanted(self, known: Mapping[torch.fx.Node, Any], changed: set[str] | None) -> set[torch.fx.Node]:
        """The nodes to compute: those that depend on what changed and that the outputs need, and what they need that is not known."""
        nodes, dirty, needed = list(self.module.graph.nodes), set(), set()
        for node in nodes if known else ():
            if node.op == "placeholder":
                if node in self._states and (changed is None or self._states[node] in changed):
                    dirty.add(node)
            elif not dirty.isdisjoint(node.all_input_nodes):
                dirty.add(node)
        out: set[torch.fx.Node] = set()
        for node in reversed(nodes):
            # What nothing reads may assert something: that what did not change holds is known.
            read = node in needed or node.op == "output" or not node.users and (node in dirty or not known)
            if node.op != "placeholder" and read and (node in dirty or node not in known):
                out.add(node)
                needed.update(node.all_input_nodes)
        return out

    def _leaf(self, node: torch.fx.Node, state: Mapping[str, torch.Tensor], given: Mapping[torch.fx.Node, Any]) -> Any:
        if node in self._states:
            return state[self._states[node]]
        return given[node] if node in given else self._fixed.get(node)

    def _compute(self, node: torch.fx.Node, env: Mapping[torch.fx.Node, Any], number: int) -> Any:
        if node.op == "get_attr":
            return self._attribute(str(node.target))
        args = torch.fx.node.map_arg(node.args, env.__getitem__)
        kwargs = torch.fx.node.map_arg(node.kwargs, env.__getitem__)
        operands: Any = args
        if node.target is operator.getitem:
            return operands[0][operands[1]]
        return self._call(node.target, operands, dict(kwargs), number)

    def _attribute(self, target: str) -> Any:
        value: Any = self.module
        for name in target.split("."):
            value = getattr(value, name)
        if isinstance(value, torch.fx.GraphModule):
            return _Inner(self, value)
        return wide(_real(value, target))

    def _call(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], number: int) -> Any:
        name = target._schema.name if isinstance(target, torch._ops.OpOverload) else ""
        if name == "aten::_assert_tensor_metadata":  # it asserts the dtypes that are rewritten here
            return None
        if name in _DROPOUT:
            if args[1] and (len(args) < 3 or args[2]):
                self.stochastic.add("dropout")
            return (args[0], torch.ones_like(args[0], dtype=torch.bool)) if name == "aten::native_dropout" else args[0]
        args, kwargs = tree_map(_rewrite, (args, kwargs))
        if torch.is_grad_enabled():  # torch's own have no derivatives by the statistics, and lay out what they give in other ways
            if name == "aten::view" and isinstance(args[1], (list, tuple)):
                return args[0].reshape(args[1])
            if name == "aten::batch_norm" and not args[5]:
                return _batch_norm(args[:5], args[7])
            if name == "aten::_native_batch_norm_legit_no_training":
                return _batch_norm(args[:5], args[6]), None, None
            if name == "aten::_native_batch_norm_legit_functional" and args[5]:
                return _batch_norm_in_training(args[:5], args[6], args[7])
        seeded = isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags
        if not seeded:
            return tree_map(wide, target(*args, **kwargs))
        args, kwargs = self._quiet(target, args, kwargs)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            return tree_map(wide, target(*args, **kwargs))

    def _quiet(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Switch the dropout inside an operation off; other noise is drawn from one seed in every run."""
        values = list(args)
        noisy = True
        for place, argument in enumerate(target._schema.arguments):
            if argument.name not in _NOISE_ARGUMENTS:
                continue
            noisy, off = False, _NOISE_ARGUMENTS[argument.name]
            if place < len(values) and values[place]:
                values[place] = off
                self.stochastic.add("dropout")
            elif kwargs.get(argument.name):
                kwargs[argument.name] = off
                self.stochastic.add("dropout")
        if noisy:
            self.stochastic.add(target._schema.name.removeprefix("aten::"))
        return tuple(values), kwargs

    def _outputs(self, node: torch.fx.Node, env: Mapping[torch.fx.Node, Any], nodes: dict[torch.fx.Node, Any]) -> Outputs:
        out = Outputs([], {}, nodes)
        for argument, spec in zip(node.args[0], self.exported.graph_signature.output_specs, strict=True):  # type: ignore[arg-type]
            value = env[argument] if isinstance(argument, torch.fx.Node) else argument
            if spec.kind in UPDATES:
                out.buffers[spec.target] = value
                continue
            out.values.append(value)
            if spec.kind == OutputKind.USER_OUTPUT:
                out.returned.append(value)
        return out


class _Inner:
    """A graph nested in an exported one (a region without gradients, a branch), run under the same rewriting."""

    def __init__(self, execution: Execution, module: torch.fx.GraphModule) -> None:
        self.execution = execution
        self.module = module

    def __call__(self, *args: Any) -> Any:
        env: dict[torch.fx.Node, Any] = {}
        given = iter(args)
        for number, node in enumerate(self.module.graph.nodes):
            if node.op == "placeholder":
                env[node] = next(given)
            elif node.op == "output":
                return torch.fx.node.map_arg(node.args[0], env.__getitem__)
            elif node.op == "get_attr":
                value = getattr(self.module, str(node.target))
                env[node] = _Inner(self.execution, value) if isinstance(value, torch.fx.GraphModule) else wide(value)
            else:
                env[node] = self.execution._compute(node, env, number)
        return None


def wide(value: Any) -> Any:
    """Floating-point and complex tensors in double precision; everything else as it is."""
    return value.to(_WIDE[value.dtype]) if isinstance(value, torch.Tensor) and value.dtype in _WIDE else value


def _batch_norm(operands: Sequence[Any], epsilon: float) -> Any:
    """Batch normalisation in inference by its formula."""
    x, gain, offset, mean, variance = operands
    shape = [-1, *[1] * (x.ndim - 2)]
    out = (x - mean.reshape(shape)) / torch.sqrt(variance.reshape(shape) + epsilon)
    out = out if gain is None else out * gain.reshape(shape)
    return out if offset is None else out + offset.reshape(shape)


def _batch_norm_in_training(operands: Sequence[Any], momentum: float, epsilon: float) -> Any:
    """Batch normalisation in training by its formula, with the new running statistics."""
    x, gain, offset, mean, variance = operands
    axes = [d for d in range(x.ndim) if d != 1]
    count = x.numel() // x.shape[1]
    own, spread = x.mean(axes), x.var(axes, correction=0)
    out = _batch_norm((x, gain, offset, own, spread), epsilon)
    news = mean + momentum * (own - mean), variance + momentum * (spread * (count / (count - 1)) - variance)
    return out, own, torch.rsqrt(spread + epsilon), *news


def _rewrite(value: Any) -> Any:
    """Arguments that choose a precision or a device."""
    if isinstance(value, torch.dtype):
        return _WIDE.get(value, value)
    return _CPU if isinstance(value, torch.device) else value


def _real(value: Any, name: str) -> Any:
    if isinstance(value, torch.Tensor):
        if value.device.type == "meta":
            raise TraceError(
                f"the constant {name!r} is on the meta device, but the function needs its values. "
                "Build the network with real constants (for instance on the CPU)."
            )
        return value.detach().cpu()
    return value


def _last_uses(graph: torch.fx.Graph) -> dict[torch.fx.Node, list[torch.fx.Node]]:
    last: dict[torch.fx.Node, torch.fx.Node] = {}
    for node in graph.nodes:
        for operand in node.all_input_nodes:
            last[operand] = node
    out: dict[torch.fx.Node, list[torch.fx.Node]] = {}
    for operand, node in last.items():
        out.setdefault(node, []).append(operand)
    return out


class default_float64:
    """Operations that make a floating-point tensor without saying of which precision make a float64 one."""

    def __enter__(self) -> None:
        self._before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *_: Any) -> None:
        torch.set_default_dtype(self._before)
