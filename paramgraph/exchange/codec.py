"""Dataclasses to JSON values and back, driven by their type annotations.

Only the classes listed in `CLASSES` are ever made, and every value is checked against the annotation of its field, so that a file can
neither execute code nor smuggle in a value of the wrong kind. A field added to a class needs no edit here.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch

from paramgraph.errors import FileFormatError
from paramgraph.graph import Alias, Diagnostic, EdgeSet, NodeSet, ParameterView, ScaleDomain
from paramgraph.symmetries.affine_scales import AffineScaleFactor
from paramgraph.symmetries.commuting import CommutingFactor, CommutingPart
from paramgraph.symmetries.group import ActionBlock, Factor, IndexSpace, SymmetryGroup, TensorAction
from paramgraph.symmetries.matrices import MatrixFactor, MatrixPart
from paramgraph.symmetries.offsets import Change, OffsetFactor, Step
from paramgraph.symmetries.orientations import OrientationFactor, OrientedPart
from paramgraph.symmetries.phases import PhaseFactor
from paramgraph.symmetries.readers import Reader, ReadOffsetFactor
from paramgraph.symmetries.reflections import ReflectedPart, ReflectionFactor, ReflectionShift
from paramgraph.symmetries.rotations import RotatedPart, RotationFactor
from paramgraph.symmetries.scales import ScaleBlock, Scales, ScaleTerm, ScaleVariable
from paramgraph.symmetries.statistics import CentreFactor, SpreadFactor
from paramgraph.symmetries.translations import TranslationFactor
from paramgraph.symmetries.vanishing import VanishingFactor

CLASSES: tuple[type, ...] = (
    *(Alias, Diagnostic, EdgeSet, NodeSet, ParameterView),
    *(ActionBlock, Factor, IndexSpace, SymmetryGroup, TensorAction),
    *(ScaleBlock, ScaleDomain, ScaleTerm, ScaleVariable, Scales),
    *(MatrixFactor, MatrixPart, TranslationFactor),
    *(CentreFactor, Change, OffsetFactor, Reader, ReadOffsetFactor, SpreadFactor, Step),
    *(CommutingFactor, CommutingPart, RotatedPart, RotationFactor),
    *(OrientationFactor, OrientedPart, PhaseFactor, ReflectedPart, ReflectionFactor, ReflectionShift),
    *(AffineScaleFactor, VanishingFactor),
)

Put = Callable[[np.ndarray], int]
Get = Callable[[int], np.ndarray]


def encode(value: Any, put: Put) -> Any:
    """A JSON value.

    Args:
        value: a dataclass of `CLASSES`, or containers and plain values made of them.
        put: stores an array elsewhere and returns its number.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.ndarray):
        return {"array": put(value)}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, Mapping):
        return {str(key): encode(item, put) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [encode(item, put) for item in value]
    if dataclasses.is_dataclass(value) and isinstance(value, CLASSES):
        return {f.name: encode(getattr(value, f.name), put) for f in dataclasses.fields(value) if not _is_default(f, value)}
    raise FileFormatError(f"cannot save a {type(value).__name__}: expected one of {', '.join(c.__name__ for c in CLASSES)} or plain data.")


def decode(hint: Any, value: Any, get: Get, place: str) -> Any:
    """The value of type `hint` that a JSON value stands for.

    Args:
        hint: a type annotation.
        value: what `encode` returned.
        get: returns the array of a number.
        place: where in the file, for error messages.

    Raises:
        FileFormatError: the value is not of this type.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _decode_union(arguments, value, get, place)
    if hint in CLASSES:
        return _decode_class(hint, value, get, place)
    if origin is tuple:
        return _decode_tuple(arguments, value, get, place)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise _wrong(place, "a table", value)
        return {key: decode(arguments[1], item, get, f"{place}[{key!r}]") for key, item in value.items()}
    if hint is np.ndarray or origin is np.ndarray:
        number = _tagged(value, "array", int)
        if number is None:
            raise _wrong(place, "an array", value)
        return get(number)
    if hint is range:
        bounds = _tagged(value, "range", list)
        if bounds is None or len(bounds) != 3 or not all(type(b) is int for b in bounds) or bounds[2] == 0:
            raise _wrong(place, "a range", value)
        return range(*bounds)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise _wrong(place, getattr(hint, "__name__", str(hint)), value)
    return value


def _decode_union(options: tuple[Any, ...], value: Any, get: Get, place: str) -> Any:
    if value is None and type(None) in options:
        return None
    rest = [option for option in options if option is not type(None)]
    if len(rest) == 1:
        return decode(rest[0], value, get, place)
    for option in rest:
        try:
            return decode(option, value, get, place)
        except FileFormatError:
            continue
    raise _wrong(place, " or ".join(getattr(o, "__name__", str(o)) for o in options), value)


def _decode_class(cls: type, value: Any, get: Get, place: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(place, cls.__name__, value)
    hints = field_types(cls)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise FileFormatError(f"{place}: {cls.__name__} has no field {unknown[0]!r}. The file is damaged; write it again.")
    given = {name: decode(hints[name], item, get, f"{place}.{name}") for name, item in value.items()}
    for f in dataclasses.fields(cls):
        if f.name not in given and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise FileFormatError(f"{place}: {cls.__name__} lacks its field {f.name!r}. The file is damaged; write it again.")
    return cls(**given)


def _decode_tuple(arguments: tuple[Any, ...], value: Any, get: Get, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _wrong(place, "a list", value)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(decode(arguments[0], item, get, f"{place}[{i}]") for i, item in enumerate(value))
    if len(value) != len(arguments):
        raise _wrong(place, f"a list of {len(arguments)}", value)
    return tuple(decode(a, item, get, f"{place}[{i}]") for i, (a, item) in enumerate(zip(arguments, value, strict=True)))


@cache
def field_types(cls: type) -> dict[str, Any]:
    """Types of a class's fields. Annotations may name classes that their module imports for type checking only."""
    hints = get_type_hints(cls, localns={"torch": torch, **{c.__name__: c for c in CLASSES}})
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _is_default(f: dataclasses.Field[Any], owner: Any) -> bool:
    """Whether a field may be left out: it holds its (plain) default value."""
    value = getattr(owner, f.name)
    return f.default is not dataclasses.MISSING and type(value) is type(f.default) and value == f.default


def _tagged(value: Any, tag: str, kind: type) -> Any:
    return value[tag] if isinstance(value, dict) and set(value) == {tag} and type(value[tag]) is kind else None


def _wrong(place: str, expected: str, value: Any) -> FileFormatError:
    shown = repr(value)
    return FileFormatError(
        f"{place}: expected {expected}, got {shown[:60]}{'…' if len(shown) > 60 else ''}. The file is damaged; write it again."
    )
