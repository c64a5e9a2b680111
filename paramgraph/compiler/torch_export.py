"""The torch front end: `torch.export` graphs, functional and undecomposed, lowered onto a Program by rules."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils._pytree import tree_leaves, tree_map, tree_unflatten

from paramgraph.compiler.aten.elementwise import is_whole, tagged_rule
from paramgraph.compiler.builder import Builder
from paramgraph.compiler.calls import CALL, find_call
from paramgraph.compiler.diagnose import place as place_of
from paramgraph.compiler.lineage import TracedCalls
from paramgraph.compiler.program import Program, Value
from paramgraph.compiler.rules import is_exact, module_rules, operation_rule
from paramgraph.compiler.tidying import tidy
from paramgraph.errors import RuleError, TraceError
from paramgraph.graph import Alias

# Outputs that are new values of a parameter or buffer (of running statistics, of weights rescaled in place).
UPDATES = frozenset((OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION))
# Placements that constants are read with; dtypes and values stay the operation's own.
_PLACEMENT = ("device", "pin_memory", "layout")


class Storages:
    """Which tensors of a state dict share storage: base tensors, and aliases as views of them."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.values: dict[str, torch.Tensor] = {}
        self.aliases: dict[str, Alias] = {}
        groups: dict[int, list[str]] = {}
        for name, tensor in tensors.items():
            groups.setdefault(tensor.untyped_storage()._cdata, []).append(name)
        self.base_of: dict[str, str] = {}
        for names in groups.values():
            base = max(names, key=lambda name: (int(tensors[name].numel()), -names.index(name)))
            for name in names:
                self._place(name, base, tensors)
        self.values = {name: self.values[name] for name in tensors if name in self.values}
        # Tensors that overlap in memory without one being a view of the other: none of their elements may move.
        self.entangled: set[str] = {name for names in groups.values() for name in self._overlapping(names)}

    def _place(self, name: str, base: str, tensors: Mapping[str, torch.Tensor]) -> None:
        tensor, root = tensors[name], tensors[base]
        offset = int(tensor.storage_offset() - root.storage_offset())
        last = offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        if name != base and root.is_contiguous() and offset >= 0 and last < root.numel() and tensor.numel() and tensor.dtype == root.dtype:
            self.aliases[name] = Alias(base, tuple(tensor.shape), tuple(tensor.stride()), offset)
            self.base_of[name] = base
        else:
            self.values[name] = tensor
            self.base_of[name] = name


    def _overlapping(self, names: Sequence[str]) -> set[str]:
        """Base tensors of one storage whose ranges meet."""
        spans = sorted((*_span(self.values[name]), name) for name in names if name in self.values and self.values[name].numel())
        out: set[str] = set()
        reach, owner = -1, ""
        for start, end, name in spans:
            if start <= reach:
                out |= {name, owner}
            if end > reach:
                reach, owner = end, name
        return out


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """Where a tensor's first and last elements begin within its storage, in bytes."""
    start = int(tensor.storage_offset())
    last = start + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return start * tensor.element_size(), last * tensor.element_size()


class Lowering:
    """Lowers one exported program."""

    def __init__(self, exported: Any, name: str, state: Mapping[str, torch.Tensor]) -> None:
        self.exported = exported
        self.program = Program(name)
        self.builder = Builder(self.program)
        self.storages = Storages(state)
        self.values: dict[torch.fx.Node, Any] = {}
        self._folded: list[list[Any]] = []

    def run(self) -> Program:
        signature = self.exported.graph_signature
        specs = {spec.arg.name: spec for spec in signature.input_specs if hasattr(spec.arg, "name")}
        for name, tensor in self.storages.values.items():
            self.program.tensors[name] = Value(tensor.shape, "buffer" if is_whole(tensor.dtype) else "parameter", name)
            if tensor.is_complex():
                self.program.complex.add(name)
        for node in self.exported.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node, specs.get(node.name))
            elif node.op == "call_function":
                self.builder.where = node
                self.values[node] = self._call(node)
            elif node.op == "get_attr":
                self.values[node] = self._constant(getattr_nested(self.exported.graph_module, node.target), str(node.target))
            elif node.op == "output":
                self._outputs(node, signature)
        tidy(self.program, TracedCalls(self.values))
        return self.program

    # -- leaves --------------------------------------------------------------------------------------------------------

    def _placeholder(self, node: torch.fx.Node, spec: Any) -> Any:
        meta = node.meta.get("val")
        kind = spec.kind if spec is not None else InputKind.USER_INPUT
        if kind in (InputKind.PARAMETER, InputKind.BUFFER):
            target = spec.target
            if target in self.storages.base_of:
                if node.users and not self._moves(self.storages.base_of[target]):
                    self.program.tables.add(self.storages.base_of[target])
                return self._parameter(target)
            tensor = self.exported.constants.get(target)
            return self._constant(tensor, target)
        if kind == InputKind.CONSTANT_TENSOR:
            return self._constant(self.exported.constants[spec.target], spec.target)
        if not isinstance(meta, torch.Tensor):
            return meta
        value = Value(meta.shape, "input", node.name)
        value.integer, value.boolean = is_whole(meta.dtype), meta.dtype == torch.bool
        self.program.inputs.append(value)
        return value

    def _parameter(self, name: str) -> Value:
        base = self.storages.base_of[name]
        value = self.program.tensors[base]
        if not self._moves(base):
            return self._constant(self.storages.values[base], base)
        if base in self.storages.entangled:
            cause = "shares storage with another parameter under strides that are no view of it"
            value = self.builder.opaque("alias", [value], value.shape, cause)
        return value if base == name else self._alias(value, self.storages.aliases[name])

    def _moves(self, base: str) -> bool:
        """Floating-point tensors are parameters; integer and boolean buffers are constants whose values are read."""
        return not is_whole(self.storages.values[base].dtype)

    def _alias(self, base: Value, alias: Alias) -> Value:
        """A strided view of a base tensor as program operations; strides that are no permutation of a slice are opaque."""
        b = self.builder
        order = sorted(range(len(alias.size)), key=lambda d: -alias.stride[d])
        sorted_size = [alias.size[d] for d in order]
        dense, step = True, 1
        for d in reversed(order):
            dense = dense and (alias.size[d] == 1 or alias.stride[d] == step)
            step *= alias.size[d]
        if not dense:
            return b.opaque("alias", [base], alias.size, "shares storage with another parameter under strides that are no slice of it")
        flat = b.take(b.reshape(base, [-1]), 0, range(alias.offset, alias.offset + step)) if step != int(np.prod(base.shape)) else base
        return b.permute(b.reshape(flat, sorted_size), np.argsort(order).tolist())

    def _constant(self, tensor: Any, name: str) -> Any:
        if not isinstance(tensor, torch.Tensor):
            return tensor
        version = _version(tensor)

        def read() -> np.ndarray:
            if _version(tensor) != version:  # scales are typed later than it was compiled
                raise TraceError(f"constant {name!r} was changed in place after the network was compiled: compile it again.")
            return to_numpy(tensor)

        return self.builder.constant(tensor.shape, read, name, integer=is_whole(tensor.dtype))

    def forget(self) -> None:
        """Drop the values of folded constants: they are computed again if they are read again."""
        for cache in self._folded:
            cache.clear()

    # -- operations ----------------------------------------------------------------------------------------------------

    def _call(self, node: torch.fx.Node) -> Any:
        if node.target is operator.getitem:
            source, place = node.args
            return self.values[source][place] if source in self.values else None  # type: ignore[index]
        args = torch.fx.node.map_arg(node.args, self.values.__getitem__)
        kwargs = torch.fx.node.map_arg(node.kwargs, self.values.__getitem__)
        results = node.meta.get("val")
        for result in results if isinstance(results, (tuple, list)) else (results,):
            if not isinstance(result, torch.Tensor) or all([type(n) is int for n in result.shape]):
                continue
            try:  # a rule may know the size (of what a constant mask takes)
                return self.lower(node.target, args, kwargs, results)
            except Exception as error:
                raise TraceError(
                    f"the size of the result of {target_name(node.target)} depends on data, at {place_of(node) or 'an unknown line'}. "
                    "Sizes must be known: trace the network with fixed ones, or trace the parts before and after apart."
                ) from error
        return self.lower(node.target, args, kwargs, results)

    def lower(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], meta: Any) -> Any:
        """Lower one call: constants fold, then the rule, then a decomposition of this operation alone, then opaque."""
        results = [meta] if not isinstance(meta, (tuple, list)) else list(meta)
        name = target_name(target)
        if name == CALL:
            return self._call_module(args, [tuple(r.shape) for r in results])
        operands = tensors_in((args, kwargs))
        drawn = isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags
        if not drawn and all([value.kind == "constant" for value in operands]) and all(isinstance(r, torch.Tensor) for r in results):
            return self._fold(target, args, kwargs, meta)
        self.builder.shapes = shapes = [tuple(r.shape) if isinstance(r, torch.Tensor) else () for r in results]
        found = operation_rule(name) or tagged_rule(target)
        failure = ""
        if found is not None:
            try:
                with self.builder.writing(is_exact(found)):
                    out = found(self.builder, *args, **kwargs)
            except Exception as error:  # a rule may fail in any way on arguments it does not know: the operation is then as without it
                failure = f"the rule of {name} failed: {error!r}"
            else:
                self._check(name, out, results, shapes, operands)
                return out
        decomposed = self._decompose(target, args, kwargs) if found is not None or not drawn else None
        if decomposed is not None:
            return decomposed
        if found is None and drawn:
            cause = "random numbers: every element draws its own"
        else:
            self.program.unknown.append((name, self.builder.where, "it has no rule"))
            cause = failure or f"{name} has no rule"
        if not isinstance(meta, (tuple, list)):
            # A number read off tensors stays a value: what it goes into must not take it for a constant.
            shape = results[0].shape if isinstance(meta, torch.Tensor) else ()
            return self.builder.opaque(name, operands, shape, cause) if operands or isinstance(meta, torch.Tensor) else meta
        return tuple(self.builder.opaque(name, operands, r.shape, cause) if isinstance(r, torch.Tensor) else r for r in results)

    def _call_module(self, args: Any, shapes: list[tuple[int, ...]]) -> Any:
        """A module kept whole: its own rule says how its function uses its tensors."""
        tensors, parameters, key, form = args
        call = find_call(key)
        found = module_rules()[type(call.module)]
        self.builder.shapes = shapes
        positional, keywords = tree_unflatten(list(tensors), call.inputs[form])
        with self.builder.writing(is_exact(found)):
            out = found(self.builder, call.module, dict(zip(call.names, parameters, strict=True)), *positional, **keywords)
        flat = [value for value in tree_leaves(out) if isinstance(value, Value)]
        if [value.shape for value in flat] != shapes:
            raise RuleError(f"the rule of {type(call.module).__name__} returned shapes {[v.shape for v in flat]}; its forward returns {shapes}.")
        return flat

    def _check(self, name: str, out: Any, results: Sequence[Any], shapes: Sequence[tuple[int, ...]], operands: Sequence[Value]) -> None:
        """A rule whose result has the wrong shape is a defect of the rule: say so rather than type nonsense."""
        outs = out if isinstance(out, (tuple, list)) else (out,)
        for value, result, shape in zip(outs, results, shapes, strict=False):
            if not isinstance(value, Value) or not isinstance(result, torch.Tensor):
                continue
            if value.shape != shape:
                raise RuleError(f"the rule of {name} returned shape {value.shape}; the operation's result has {shape}.")
            if value not in operands:
                dtype = result.dtype
                value.integer, value.boolean = is_whole(dtype), dtype == torch.bool

    def _fold(self, target: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        """A result that depends on constants only, computed when it is read."""
        cache: list[Any] = []
        self._folded.append(cache)
        kwargs = {k: v for k, v in kwargs.items() if k not in _PLACEMENT}

        def compute() -> Any:
            if not cache:
                plain = tree_map(lambda v: torch.from_numpy(np.array(v.read())) if isinstance(v, Value) and v.read else v, (list(args), kwargs))
                with torch.no_grad():
                    cache.append(target(*plain[0], **plain[1]))
            return cache[0]

        def read(place: int | None) -> Callable[[], np.ndarray]:
            return lambda: to_numpy(compute() if place is None else compute()[place])

        label = target_name(target)
        if isinstance(meta, torch.Tensor):
            return self.builder.constant(meta.shape, read(None), label, is_whole(meta.dtype))
        return tuple(self.builder.constant(r.shape, read(i), label, is_whole(r.dtype)) for i, r in enumerate(meta))

    def _decompose(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Trace the operation's own decomposition and lower that; None if it has none or does not come down to known ones."""
        from torch._decomp import decomposition_table
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.proxy_tensor import make_fx

        table = decomposition_table.get(target)
        composite = isinstance(target, torch._ops.OpOverload) and target._can_decompose()
        if table is None and not composite:
            return None
        function: Any = table if table is not None else target.decompose
        operands = tensors_in((args, kwargs))
        try:
            with FakeTensorMode() as mode:
                fakes = [torch.empty(v.shape, dtype=torch.bool if v.boolean else torch.int64 if v.integer else torch.float32) for v in operands]

                def call(*tensors: torch.Tensor) -> Any:
                    it = iter(tensors)
                    a, k = tree_map(lambda v: next(it) if isinstance(v, Value) else v, (list(args), dict(kwargs)))
                    return function(*a, **k)

                graph = make_fx(call, tracing_mode="real", pre_dispatch=False)(*fakes)
            del mode
            with self.builder.transaction():
                return self._inline(graph, operands)
        except Exception:  # a decomposition may fail in any way; the operation is then opaque, and is reported
            return None

    def _inline(self, graph: torch.fx.GraphModule, operands: Sequence[Value]) -> Any:
        env: dict[torch.fx.Node, Any] = {}
        it = iter(operands)
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                env[node] = next(it)
            elif node.op == "get_attr":
                env[node] = self._constant(getattr_nested(graph, node.target), str(node.target))
            elif node.op == "output":
                return torch.fx.node.map_arg(node.args[0], env.__getitem__)
            elif node.target is operator.getitem:
                env[node] = env[node.args[0]][node.args[1]]
            else:
                if operation_rule(target_name(node.target)) is None:
                    raise LookupError(target_name(node.target))
                a = torch.fx.node.map_arg(node.args, env.__getitem__)
                k = torch.fx.node.map_arg(node.kwargs, env.__getitem__)
                env[node] = self.lower(node.target, a, k, node.meta.get("val", node.meta.get("tensor_meta")))
        return None

    # -- outputs -------------------------------------------------------------------------------------------------------

    def _outputs(self, node: torch.fx.Node, signature: Any) -> None:
        for argument, spec in zip(node.args[0], signature.output_specs, strict=True):  # type: ignore[arg-type]
            value = self.values.get(argument) if isinstance(argument, torch.fx.Node) else None
            if not isinstance(value, Value):
                continue
            if spec.kind in UPDATES:
                base = self.storages.base_of.get(spec.target)
                buffer = self.program.tensors.get(base) if base else None
                if buffer is not None and self._moves(base or ""):  # a new value of a view that is shaped otherwise stays where it is
                    self.program.outputs.append((value, buffer if buffer.shape == value.shape else None))
            else:
                self.program.outputs.append((value, None))


def _version(tensor: torch.Tensor) -> int | None:
    """How often a tensor was changed in place; None where torch does not count."""
    return None if tensor.is_inference() else tensor._version


def tensors_in(tree: Any) -> list[Value]:
    """The program values in nested arguments, in order."""
    found: list[Value] = []
    for item in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(item, Value):
            found.append(item)
        elif isinstance(item, (list, tuple, dict)):
            found += tensors_in(item)
    return found


@lru_cache(maxsize=4096)
def target_name(target: Any) -> str:
    """`namespace.name.overload` of an operation."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', target)}"


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    if tensor.device.type == "meta":
        raise TraceError(
            "a constant of the network is on the meta device, but its values matter to the group. "
            "Build the network with real constants (for instance on the CPU), or register the buffer as persistent."
        )
    tensor = tensor.detach().cpu()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return tensor.resolve_conj().resolve_neg().numpy()


def getattr_nested(module: Any, target: str) -> Any:
    for name in target.split("."):
        module = getattr(module, name)
    return module
