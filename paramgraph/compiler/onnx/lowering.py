"""The ONNX front end: a model's nodes lowered onto a Program by rules, with shapes inferred and constants folded on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from paramgraph.compiler.builder import Builder
from paramgraph.compiler.onnx.checks import check_branches
from paramgraph.compiler.onnx.counts import Counts
from paramgraph.compiler.onnx.dimensions import GUESSES, LONGEST, Given, Guess, input_shapes
from paramgraph.compiler.onnx.folding import evaluate
from paramgraph.compiler.onnx.keys import KEY, subgraphs
from paramgraph.compiler.onnx.leaves import BOOL, FLOATING, WITH_SUBGRAPHS, shared_fills, state_of, tensor_of, to_torch, values_of
from paramgraph.compiler.onnx.operands import flattened, plain, values_in
from paramgraph.compiler.onnx.places import Nodes
from paramgraph.compiler.onnx.shapes import Shapes, Type
from paramgraph.compiler.onnx.source import require, stated_type
from paramgraph.compiler.onnx.subgraphs import Subgraphs
from paramgraph.compiler.onnx.tabular import why_pinned
from paramgraph.compiler.program import Program, Value
from paramgraph.compiler.rules import is_exact, operator_rule
from paramgraph.compiler.tidying import tidy
from paramgraph.errors import TraceError, first_line

# Constants up to this many elements are computed at once, and inference knows their values: shapes are made of them.
SMALL = 256
# Operators whose results are larger than their operands, or differ from run to run: not computed from constants at once, or never.
GROWING = frozenset("ConstantOfShape Expand Tile EyeLike OneHot Range Pad Resize Upsample CenterCropPad".split())
# Constants of more elements than this are not computed, but taken as any value.
LARGEST = 1 << 28
# Operators whose operands say the shape of the result, whatever their size and element type.
READ_WHOLE = frozenset(["Resize", "Upsample", "Range"])
RANDOM = frozenset("RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial".split())
_INT64 = 7


class OnnxLowering:
    """Lowers one model.

    Args:
        model: an `onnx_ir.Model`, functions inlined, nodes in order.
        name: of the program.
        examples: example inputs, or None.
        dimensions: sizes of open dimensions by name.
        guess: what dimensions are that nothing tells.

    Attributes:
        program: what comes of it.
        state: parameters and buffers by name, as torch tensors, by reference.
        parameters: the `onnx_ir` values of those.
        values: what each `onnx_ir` value was lowered to.
        types: their element types and shapes.
        lineage: the places of nodes.
        shapeless: values whose shape depends on data: who reads them is opaque.
        inputs: the concrete shape of every input by name.
    """

    def __init__(self, model: Any, name: str, examples: Any = None, dimensions: Given = None, guess: Guess = GUESSES[0]) -> None:
        self.graph = model.graph
        self.name, self.guess = name, guess
        self.examples, self.dimensions = examples, dimensions
        self.opsets = {("" if d == "ai.onnx" else d): v for d, v in model.opset_imports.items()}
        self.shapes = Shapes(self.opsets, model.ir_version)
        self.program = Program(name)
        self.builder = Builder(self.program)
        self.leaves = state_of(self.graph)
        self.parameters = set(self.leaves.values())
        self._fills = set(shared_fills(self.graph))
        self.state = {key: to_torch(tensor_of(value)) for key, value in self.leaves.items()}
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.values: dict[Any, Any] = {}
        self.lineage = Nodes(self.values)
        self._subgraphs = Subgraphs(self)
        self.counts = Counts(self.builder)
        self.types: dict[Any, Type] = {}
        self.shapeless: set[Value] = set()
        self._sizes: dict[str, int] = {}
        # Values of large constants, kept while they are lowered and typed.
        self._folded: list[list[list[np.ndarray]]] = []

    @property
    def fits(self) -> bool:
        """Whether all operators fit their operands, in subgraphs too."""
        return not self._subgraphs.misfits

    def forget(self) -> None:
        """Drop the values of folded constants: they are computed again if they are read again."""
        for cache in self._folded:
            cache.clear()

    def prepare(self) -> None:
        """Give parameters, constants and inputs their values; the shapes of inputs are known then."""
        self._leaves()
        self._inputs()

    def run(self) -> Program:
        """Lower all nodes."""
        if not self.inputs:
            self.prepare()
        self.nodes(self.graph)
        for output in self.graph.outputs:
            if output not in self.values:
                raise TraceError(f"{self.name}: the output {output.name!r} is defined by nothing. Export it again.")
            for value in values_in(self.values[output]):
                self.program.outputs.append((value, None))
        tidy(self.program, self.lineage)
        return self.program

    # -- leaves --------------------------------------------------------------------------------------------------------

    def _leaves(self) -> None:
        for key, leaf in self.leaves.items():
            tensor = tensor_of(leaf)
            kind = "parameter" if int(tensor.dtype) in FLOATING or self._integer_weight(leaf) else "buffer"
            value = Value(tuple(tensor.shape), kind, key)
            value.integer = int(tensor.dtype) not in FLOATING
            self.program.tensors[key] = value
            self.set(leaf, value if kind == "parameter" else self._constant(tensor, key), (int(tensor.dtype), value.shape))
        self.initialisers(self.graph)

    def initialisers(self, graph: Any) -> None:
        """Give a graph's initialisers their values: parameters, or constants."""
        for key, leaf in graph.initializers.items():
            if leaf not in self.values and not self.take_leaf(leaf):
                self.set(leaf, self._constant(leaf.const_value, key), (int(leaf.const_value.dtype), tuple(leaf.const_value.shape)))

    def take_leaf(self, leaf: Any) -> bool:
        """Let a clone of a parameter be that parameter."""
        own = self.leaves.get(leaf.meta.get(KEY)) if KEY in leaf.meta else None
        if own is None:
            return False
        self.set(leaf, self.values[own], self.types[own])
        return True

    def _integer_weight(self, leaf: Any) -> bool:
        """Integers are weights where the file was not written by torch's exporter, which would have said so; its buffers are read."""
        return not any(key.startswith("pkg.torch.export") for key in leaf.metadata_props)

    def _inputs(self) -> None:
        given = [value for value in self.graph.inputs if value not in self.values]
        taken = {n for value in self.types.values() for n in value[1] or ()}
        self.inputs, self._sizes = input_shapes(given, self.examples, self.dimensions, taken, self.name, self.guess)
        for leaf in given:
            value = Value(self.inputs[leaf.name], "input", leaf.name)
            value.integer = int(leaf.dtype) not in FLOATING
            self.program.inputs.append(value)
            self.set(leaf, value, (int(leaf.dtype), value.shape))

    def _constant(self, tensor: Any, name: str) -> Value:
        return self.builder.constant(tuple(tensor.shape), lambda: plain(values_of(tensor)), name or "constant", int(tensor.dtype) not in FLOATING)

    def set(self, key: Any, value: Any, type_: Type | None) -> None:
        self.values[key] = value
        if type_ is not None:
            self.types[key] = type_

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def nodes(self, graph: Any) -> None:
        for node in graph:
            self.builder.where = self.lineage.at(node)
            self._node(node)

    def _node(self, node: Any) -> None:
        if not node.outputs:
            raise TraceError(f"{self.name}: the node {node.name or node.op_type!r} has no results. Export it again.")
        if node.op_type == "Constant" and node.domain == "":
            if node.outputs[0] not in self.values and not self.take_leaf(node.outputs[0]):
                self._constant_node(node)
            return
        if node.op_type in WITH_SUBGRAPHS and node.domain == "":
            check_branches(node, self.name)
            if self._subgraphs.lower(node):
                return
        inputs = node.inputs
        operands = [None if value is None else self._operand(value) for value in inputs]
        flat = flattened(operands)
        types = [None if value is None else self.types.get(value) for value in inputs]
        attributes = {key: attribute.value for key, attribute in node.attributes.items()} if node.attributes else {}
        if node.op_type in ("Shape", "Size") and node.domain == "" and flat and operands[0] not in self.shapeless:
            self._measure(node, operands[0], attributes)
            self.counts.hold([self.values[node.outputs[0]]], self.counts.masks_of(operands[0].shape if operands[0] is not None else ()))
            return
        if node.op_type == "CastLike" and node.domain == "" and self._cast_constant(node.outputs[0], operands[0], types):
            return
        masks = self.counts.masks_in(operands)
        constant = bool(flat) and all(value.kind == "constant" and value.read is not None for value in flat) and node.op_type not in RANDOM
        constant = constant and len(flat) == sum(o is not None for o in operands)
        small = constant and node.op_type not in GROWING and all(math.prod(value.shape) <= SMALL for value in flat)
        if small and self._fold_now(node, operands, attributes):
            self.counts.folded(node, operands, [self.values[output] for output in node.outputs], masks)
            return
        if self.counts and self._counted(node, operands):
            return
        try:
            found = self._infer(node, operands, types, attributes)
        except TraceError:  # runtimes are less strict than the inference: what can be computed fits
            if constant and self._fold_now(node, operands, attributes):
                return
            raise
        if constant and all(t is not None and t[1] is not None and math.prod(t[1]) <= LARGEST for t in found):
            self._fold_later(node, operands, attributes, found)
            self.counts.folded(node, operands, [self.values[output] for output in node.outputs], masks)
            return
        for shape in () if constant else [t[1] for t in found if t is not None and t[1] is not None]:
            if max(shape, default=1) > LONGEST:
                raise self.shapes.misfit(node, types, f"its result would be of shape {list(shape)}.")
        if masks:
            operands = self.counts.replaced(node, operands)
        self._lower(node, operands, attributes, found)

    def _counted(self, node: Any, operands: Sequence[Any]) -> bool:
        """How many elements a mask keeps, where that is a size already, is that size."""
        count = self.counts.counted(node, operands)
        if count is None or self.types.get(node.outputs[0], (_INT64,))[0] in FLOATING:
            return False
        dims = [value.read for value in operands[1:] if value is not None]
        if dims and (dims[0] is None or len(np.asarray(dims[0]()).reshape(-1)) not in (0, operands[0].ndim)):
            return False
        keep = "keepdims" not in node.attributes or node.attributes["keepdims"].value
        self.set_array(node.outputs[0], np.full((1,) * operands[0].ndim if keep else (), count, np.int64))
        self.counts.hold([self.values[node.outputs[0]]], self.counts.masks_of([count]))
        return True

    def _operand(self, value: Any) -> Any:
        """What a node reads; of a constant that several read, each has its own: nothing links their axes."""
        if value in self._fills:
            return self._constant(tensor_of(value), value.name)
        if value not in self.values:  # of a graph that does not hold the node
            raise TraceError(f"{self.name}: a node reads {value.name!r}, which nothing before it defines. Export it again.")
        held = self.values[value]
        shared = isinstance(held, Value) and held.kind == "constant" and max(held.shape, default=1) > 1 and len(value.uses()) > 1
        if not shared or self.counts.holds(held):
            return held
        return self.builder.constant(held.shape, held.read, held.name, held.integer)

    def _constant_node(self, node: Any) -> None:
        if len(node.attributes) != 1 or len(node.outputs) != 1:
            raise TraceError(f"{self.name}: the Constant {node.name or 'of a graph'} must have one value. Export it again.")
        ((key, attribute),) = node.attributes.items()
        if key == "value":
            tensor = attribute.value
        elif key in ("value_float", "value_floats", "value_int", "value_ints"):
            self.set_array(node.outputs[0], np.asarray(attribute.value, dtype=np.float32 if "float" in key else np.int64))
            return
        else:
            self.set(node.outputs[0], self.builder.opaque("Constant", [], (), f"a constant of the form {key}"), None)
            self.shapeless.add(self.values[node.outputs[0]])
            return
        self.set(node.outputs[0], self._constant(tensor, node.outputs[0].name), (int(tensor.dtype), tuple(tensor.shape)))

    def _measure(self, node: Any, x: Any, attributes: dict[str, Any]) -> None:
        """The shape of a value is a constant, whatever the value is."""
        if node.op_type == "Size":
            data = np.asarray(math.prod(x.shape), dtype=np.int64)
        else:
            data = np.asarray(x.shape, dtype=np.int64)[slice(attributes.get("start", 0), attributes.get("end"))]
        self.set_array(node.outputs[0], data)

    def set_array(self, key: Any, data: np.ndarray, dtype: int | None = None) -> None:
        onnx, _ = require()
        number = dtype if dtype is not None else int(onnx.helper.np_dtype_to_tensor_dtype(data.dtype))
        self.set(key, self.builder.constant(data.shape, lambda: data, key.name or "constant", number not in FLOATING), (number, data.shape))

    def _cast_constant(self, output: Any, x: Any, types: Sequence[Type | None]) -> bool:
        """A constant with the element type of another value, which need not be a constant."""
        own, like = types
        if not isinstance(x, Value) or x.kind != "constant" or x.read is None or own is None or like is None:
            return False
        onnx, _ = require()
        read, dtype = x.read, onnx.helper.tensor_dtype_to_np_dtype(like[0])
        value = self.builder.constant(x.shape, lambda: plain(np.asarray(read()).astype(dtype)), x.name, like[0] not in FLOATING)
        self.set(output, value, (like[0], own[1]))
        return True

    # -- constants -----------------------------------------------------------------------------------------------------

    def _fold_now(self, node: Any, operands: Sequence[Any], attributes: dict[str, Any]) -> bool:
        try:
            results = evaluate(node, [None if v is None else np.asarray(v.read()) for v in operands], attributes, self.opsets)
        except Exception:  # an operator that the reference implementation lacks is lowered as any other
            return False
        if len(results) < len(node.outputs):
            return False
        for output, data in zip(node.outputs, results, strict=False):
            self.set_array(output, data)
        return True

    def _fold_later(self, node: Any, operands: Sequence[Any], attributes: dict[str, Any], found: Sequence[Any]) -> None:
        """Large constants are computed where their values matter."""
        cache: list[list[np.ndarray]] = []
        self._folded.append(cache)

        def read(place: int) -> Callable[[], np.ndarray]:
            def compute() -> np.ndarray:
                if not cache:
                    given = [None if v is None else np.asarray(v.read()) for v in operands]
                    try:
                        cache.append(evaluate(node, given, attributes, self.opsets))
                    except Exception as error:  # operands may be anything
                        raise TraceError(f"{self.name}: the operator {node.op_type} ({node.name or node.outputs[0].name!r}) cannot be computed "
                                         f"({first_line(error)}). Export it again.") from error
                return cache[0][place]

            return compute

        for place, (output, (dtype, shape)) in enumerate(zip(node.outputs, found, strict=True)):
            self.set(output, self.builder.constant(shape, read(place), node.op_type, dtype not in FLOATING), (dtype, shape))

    # -- operators -----------------------------------------------------------------------------------------------------

    def _infer(self, node: Any, operands: Sequence[Any], types: Sequence[Type | None], attributes: dict[str, Any]) -> list[Type | None]:
        """Types of the results: inferred, else as the file declares them."""
        picked = self.counts.result(node, operands)
        if picked is not None:
            return [(_INT64 if node.op_type == "NonZero" else (types[0] or (1,))[0], picked)]
        data: dict[int, np.ndarray] = {}
        for place, value in enumerate(operands):
            if isinstance(value, Value) and value.kind == "constant" and value.read is not None and (
                    node.op_type in READ_WHOLE or (math.prod(value.shape) <= SMALL and (types[place] or (1,))[0] == _INT64)):
                with suppress(TraceError):  # one that cannot be computed is any value
                    data[place] = np.asarray(value.read())
        if any(isinstance(value, list) for value in operands):
            return [None] * len(node.outputs)
        known = [None if t is None else (t[0], None) if value in self.shapeless else t for value, t in zip(operands, types, strict=True)]
        try:
            found = self.shapes.infer(node, known, data, attributes)
        except TraceError:
            if not self.counts:
                raise
            return [None] * len(node.outputs)  # sizes that data decide need not fit as the numbers do that stand for them
        return [t if t is not None and t[1] is not None else self._declared(output, t) for output, t in zip(node.outputs, found, strict=True)]

    def _declared(self, output: Any, found: Type | None) -> Type | None:
        """The type that the file states for a value, if all its sizes are known."""
        dtype, shape = stated_type(self.graph, output)
        dtype = dtype if found is None else found[0]
        if dtype is None or shape is None:
            return found
        sizes = [d if isinstance(d, int) else self._sizes.get(d or "") for d in shape]
        known = [int(n) for n in sizes if n is not None and n >= 0]
        return dtype, tuple(known) if len(known) == len(sizes) else None

    def _lower(self, node: Any, operands: list[Any], attributes: dict[str, Any], found: Sequence[Type | None]) -> None:
        """The operator's rule, else its own definition by simpler operators, else opaque."""
        name = f"{node.domain or 'ai.onnx'}::{node.op_type}"
        flat = flattened(operands)
        rule = operator_rule(node.domain, node.op_type)
        failure = self._subgraphs.failures.pop(node, "") or why_pinned(node.domain, node.op_type)
        unknown = self.shapeless.intersection(flat)
        if unknown:
            failure = "the sizes of its operands are not known"
        elif rule is not None:
            self.builder.shapes = [() if t is None or t[1] is None else t[1] for t in found]
            self.builder.version = self.opsets.get(node.domain, 1)
            try:
                with self.builder.writing(is_exact(rule)):
                    out = rule(self.builder, *operands, **attributes)
                    results = list(out) if isinstance(out, tuple) else [out]
                    self._check(name, results, found)
            except Exception as error:  # a rule may fail in any way on arguments it does not know: the operator is then as without it
                failure = f"its rule does not fit ({first_line(error)})"
            else:
                for output, value, type_ in zip(node.outputs, results, found, strict=False):
                    self._give(output, self.counts.kept(node, operands, value) if self.counts else value, type_, operands)
                return
        if not unknown and self._by_definition(node, operands):
            return
        captured = [value for _, graph in subgraphs(node) for value in self.read_in(graph) if value not in flat]
        self.program.unknown.append((name, self.builder.where, failure))
        for output, type_ in zip(node.outputs, found, strict=True):
            shape = None if type_ is None else type_[1]
            value = self.builder.opaque(node.op_type, [*flat, *captured], shape or (), f"{name}: {failure}")
            value.integer = type_ is not None and type_[0] not in FLOATING
            if shape is None:
                self.shapeless.add(value)
            self.set(output, value, type_)

    def _check(self, name: str, results: Sequence[Any], found: Sequence[Type | None]) -> None:
        """A rule whose result has the wrong shape is a defect of the rule: nonsense must not be typed."""
        for value, type_ in zip(results, found, strict=False):
            if isinstance(value, Value) and type_ is not None and type_[1] is not None and value.shape != type_[1]:
                raise ValueError(f"the rule of {name} returned shape {value.shape}; the result has {type_[1]}")
        if len(results) < len(found):
            raise ValueError(f"the rule of {name} returned {len(results)} results of {len(found)}")

    def _give(self, output: Any, value: Any, type_: Type | None, operands: Sequence[Any]) -> None:
        if isinstance(value, Value):
            if type_ is None or type_[1] is None:  # sequences: the rule knows the shape, the elements are what the operands were
                dtype = type_[0] if type_ is not None else stated_type(self.graph, output)[0] or 1
                type_ = (dtype, value.shape)
            if value.kind == "op" and not any(value is operand for operand in flattened(operands)):
                value.integer, value.boolean = type_[0] not in FLOATING, type_[0] == BOOL
        self.set(output, value, type_)

    def _by_definition(self, node: Any, operands: Sequence[Any]) -> bool:
        """Lower the operators that ONNX defines an operator by, if it does."""
        schema = self.shapes.schema(node.domain, node.op_type)
        if schema is None or not (schema.has_function or schema.has_context_dependent_function):
            return False
        from paramgraph.compiler.onnx.definition import definition_of

        mark = len(self.program.unknown)
        try:
            body = definition_of(schema, node, [self.types.get(v) if v is not None else None for v in node.inputs], self.opsets)
            with self.builder.transaction():
                for inner, value, outer in zip(body.inputs, operands, node.inputs, strict=False):
                    if value is not None:
                        self.set(inner, value, self.types.get(outer))
                for step in body.nodes:
                    self._node(step)
                if len(self.program.unknown) > mark:
                    raise LookupError("an operator of the definition has no rule")
                # Results that the node leaves out are not made by its definition either.
                made = [(output, inner) for output, inner in zip(node.outputs, body.outputs, strict=False) if output.name]
                results = [(output, self.values[inner], self.types.get(inner)) for output, inner in made]
                for output, value, type_ in results:
                    self.set(output, value, type_)
        except Exception:  # a definition may use anything; the operator is then opaque, and is reported
            del self.program.unknown[mark:]
            return False
        return True

    def read_in(self, graph: Any) -> Iterator[Value]:
        """Values of the outer graphs, and parameters, that a subgraph reads."""
        for inner in graph:
            for value in inner.inputs:
                if value is not None and value in self.values:
                    yield from values_in(self.values[value])
            for _, within in subgraphs(inner):
                yield from self.read_in(within)
        for value in graph.outputs:
            if value in self.values:
                yield from values_in(self.values[value])


def lowered(model: Any, name: str, examples: Any = None, dimensions: Given = None) -> tuple[OnnxLowering, Program]:
    """A model's lowering, done, and its program.

    Where the model, or a branch or a loop in it, does not fit the sizes that were taken for its open dimensions, others are tried.

    Raises:
        TraceError: the model does not run with any; it says what was wrong with the first.
    """
    first: TraceError | None = None
    found: tuple[OnnxLowering, Program] | None = None
    tried: list[dict[str, tuple[int, ...]]] = []
    for guess in GUESSES:
        lowering = OnnxLowering(model, name, examples, dimensions, guess)
        lowering.prepare()
        if lowering.inputs in tried:
            continue
        tried.append(lowering.inputs)
        try:
            program = lowering.run()
        except TraceError as error:
            first = first or error
            continue
        if lowering.fits:
            return lowering, program
        if found is None or len(program.unknown) < len(found[1].unknown):
            found = lowering, program
    if found is None:
        raise first or AssertionError("some guess was tried")
    return found
