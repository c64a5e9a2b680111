"""What is in checkpoint files, without running any code from them: tensors, numbers and text; everything else becomes an inert stand-in."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from paramgraph.errors import FileFormatError, StateDictError, first_line

NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "params", "weights")
"""Keys under which checkpoints keep a state dict, in the order in which they are looked for."""

WRAPPED = ("module.", "_orig_mod.")
"""What `DataParallel` and `torch.compile` put before every name."""

# What torch raises on damaged files of one kind or another.
_DAMAGED = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError)


class StandIn:
    """In the place of an object whose class torch does not know to be plain data: keeps what the file says of it, and does nothing."""

    def __new__(cls, *arguments: Any, **named: Any) -> StandIn:
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Checkpoints:
    """Reads checkpoints one after the other; remembers which classes stood in them, so that each file is read once."""

    def __init__(self) -> None:
        self._stand_ins: dict[str, type] = {}

    def __call__(self, path: Path) -> Any:
        """The content of a `.safetensors` file or of one that `torch.save` wrote.

        Raises:
            FileFormatError: there is no such file, or it is damaged or foreign.
        """
        try:
            if path.suffix == ".safetensors":
                return _safetensors(path)
            return self._torch(path)
        except OSError as error:
            raise FileFormatError(f"cannot be opened ({error.strerror or first_line(error)}).") from error

    def _torch(self, path: Path) -> Any:
        try:
            return self._load(path)
        except pickle.UnpicklingError:
            pass  # perhaps for a class that is not among the known ones yet
        except _DAMAGED as error:
            raise _damaged(error) from error
        try:
            names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
            self._stand_ins.update((name, type(name.rpartition(".")[2], (StandIn,), {})) for name in names if name not in self._stand_ins)
            return self._load(path)
        except _DAMAGED as error:
            raise _damaged(error) from error

    def _load(self, path: Path) -> Any:
        # Only these classes may be built from the file, and all that any of them does is to keep its arguments.
        with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in self._stand_ins.items()]):
            return torch.load(path, map_location="cpu", weights_only=True)


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise FileFormatError(f"expected a safetensors file, but it is damaged or foreign ({first_line(error)}).") from error


def _damaged(error: Exception) -> FileFormatError:
    said = first_line(error, 90)
    return FileFormatError(f"expected a file written by torch.save, but it is truncated, damaged or foreign ({type(error).__name__}: {said}).")


def state_dict(content: Any, key: str | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name.

    Args:
        content: what `Checkpoints` read.
        key: where the state dict stands, with dots between keys of nested mappings; by default it is looked for.

    Raises:
        StateDictError: there are no tensors.
    """
    if key is not None:
        for part in key.split("."):
            if not isinstance(content, Mapping) or part not in content:
                raise StateDictError(f"expected a state dict under the key {key!r}; {_contents(content)}.")
            content = content[part]
    found = _tensors(content)
    if not found and key is None and isinstance(content, Mapping):
        found = next((tensors for name in NESTED if (tensors := _tensors(content.get(name)))), {})
    if not found:
        raise StateDictError(f"expected a state dict, tensors by name; {_contents(content)}. Say where it stands by `key`.")
    for prefix in WRAPPED:
        if all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def _tensors(content: Any) -> dict[str, torch.Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value.detach() for name, value in content.items() if isinstance(value, torch.Tensor)}


def _contents(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"got a mapping with keys {[str(name) for name in content][:8]}"
    if isinstance(content, StandIn):
        return f"got a pickled {type(content).__name__}, which only its own code could read. Save its state_dict() instead"
    return f"got {type(content).__name__}"


def facts(content: Any) -> dict[str, Any]:
    """Numbers and text that stand beside a state dict: epoch, accuracy, label."""
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value for name, value in content.items() if isinstance(value, (bool, int, float, str))}


def plain(value: Any) -> Any:
    """Mappings, lists, numbers and text out of what a file says of other objects: configurations by OmegaConf, dataclasses."""
    if isinstance(value, StandIn):
        state = value.state if isinstance(value.state, Mapping) else {}
        inner = next((state[name] for name in ("_content", "_val") if name in state), None)  # OmegaConf's containers, and its leaves
        if inner is not None:
            return plain(inner)
        return {str(name): plain(item) for name, item in state.items() if not str(name).startswith("_")}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
