"""What to say of a network that cannot be traced: which line of the network it was, why, and what to do."""

from __future__ import annotations

import io
import linecache
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

from paramgraph.errors import first_line, shortened

# Files of torch and of this package: what happens there is no line of the network.
_FOREIGN = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parent}{os.sep}", "<")


def explain(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], error: Exception) -> str:
    """What failed, where in the network's own code, and what to do.

    Args:
        model: the network.
        args: positional example inputs.
        kwargs: keyword example inputs.
        error: what tracing raised.
    """
    name = type(model).__name__
    shown = ", ".join([_show(a) for a in args] + [f"{k}={_show(v)}" for k, v in kwargs.items()])
    lines = [f"{name} could not be traced with inputs ({shown}): {type(error).__name__}: {first_line(error)}"]
    paths = {id(module): path for path, module in model.named_modules() if path}
    places = list(_places(error, paths))
    lines += [f"  at {place}" for place, _ in places]
    if depends_on_data(error):
        inside = {path.partition(".")[0] for _, path in places}
        others = [part for part, module in model.named_children() if part not in inside and any(True for _ in module.parameters())]
        apart = f" (of this network, apart from {', '.join(sorted(inside - {''})) or 'that line'}: {', '.join(others)})" if others else ""
        lines.append("Its forward branches on data, or makes tensors whose sizes depend on data: no trace can follow that line. Trace the parts "
                     f"before and after it on their own, backbone and head apart{apart}, or register a rule for the class of the module "
                     "that cannot be traced (paramgraph.rule; docs/registering-rules.md).")
    else:
        lines.append("Check that the example inputs run through the model. If its forward branches on data, trace the traceable part alone "
                     "(backbone and head apart), or register a rule for the module class that cannot be traced (paramgraph.rule; "
                     "docs/registering-rules.md).")
    return "\n".join(lines)


def depends_on_data(error: Exception) -> bool:
    """Whether a trace failed because the network asked for values that it has not."""
    return "data-dependent" in str(error) or "DataDependent" in type(error).__name__


def _places(error: Exception, paths: Mapping[int, str]) -> Iterator[tuple[str, str]]:
    """The network's own lines, with the paths of their modules: of the innermost module's forward, and the innermost of all."""
    frames: list[tuple[FrameType, int]] = []
    trail = error.__traceback__
    while trail is not None:
        if not trail.tb_frame.f_code.co_filename.startswith(_FOREIGN):
            frames.append((trail.tb_frame, trail.tb_lineno))
        trail = trail.tb_next
    called = [number for number, (frame, _) in enumerate(frames) if isinstance(_owner(frame), nn.Module)]
    if not called:  # nothing of the network had run
        return
    forwards = [number for number in called if frames[number][0].f_code.co_name == "forward"]
    shown = sorted({(forwards or called)[-1], len(frames) - 1})
    for frame, line in (frames[number] for number in shown):
        owner = _owner(frame)
        path = paths.get(id(owner), "") if isinstance(owner, nn.Module) else ""
        of = f" of {path} ({type(owner).__name__})" if path else ""
        yield f"{Path(frame.f_code.co_filename).name}:{line}, in {_function(frame.f_code)}{of}{_source(frame, line)}", path


def _owner(frame: FrameType) -> Any:
    """What a method is called on: the first argument, whatever its name."""
    code = frame.f_code
    return frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None


def _function(code: CodeType) -> str:
    return getattr(code, "co_qualname", code.co_name).rpartition("<locals>.")[2]


def _source(frame: FrameType, line: int) -> str:
    text = linecache.getline(frame.f_code.co_filename, line, frame.f_globals).strip()
    return f": {shortened(text)}" if text else ""


def _show(value: Any) -> str:
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__


@contextmanager
def graphs_not_printed() -> Iterator[None]:
    """While the body runs, hold back what goes to the standard error; drop it if the body fails: torch prints the graph that it had so far."""
    held = io.StringIO()
    with redirect_stderr(held):
        yield
    sys.stderr.write(held.getvalue())
