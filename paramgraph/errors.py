"""Every exception of the package: what was expected, what came, and what to do about it."""

from __future__ import annotations


class ParamGraphError(Exception):
    """Base of all errors that paramgraph raises on purpose."""


class TraceError(ParamGraphError):
    """A network could not be traced, or its example inputs do not fit it."""


class StateDictError(ParamGraphError):
    """A state dict does not fit the graph: names, shapes or dtypes differ."""


class FileFormatError(ParamGraphError):
    """A file is truncated, foreign, or of an unknown version."""


class UnknownNameError(ParamGraphError):
    """A backend, export format, model or factor name is not known."""


class MissingDependencyError(ParamGraphError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class RuleError(ParamGraphError):
    """A rule was registered twice, or does not fit the operation it was registered for."""


class GroupError(ParamGraphError):
    """Group elements of different groups were combined, or a factor selection is empty."""


class MetanetError(ParamGraphError):
    """A batch does not fit a metanet: unknown types, dtypes or devices that differ, no graphs, NaN."""


def first_line(error: BaseException, longest: int = 160) -> str:
    """The first line of an error's text that says something, shortened; its type where it says nothing."""
    return shortened(next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__), longest)


def shortened(text: str, longest: int = 160) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= longest else text[: longest - 1] + "…"
