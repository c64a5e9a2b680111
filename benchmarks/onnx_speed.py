"""Parsing and compiling ONNX files, beside `onnx.load` and ONNX's own shape inference on the same file.

    python benchmarks/onnx_speed.py                    resnet18, vit_b_16 and transformers' encoders, large and small
    python benchmarks/onnx_speed.py --published        the files that ship in packages, which the tests compile
    python benchmarks/onnx_speed.py path/to/model.onnx
    python benchmarks/onnx_speed.py --repeats 9

Target: at most twice as long. Every number is the least of the repeats, in processor time, the columns' runs one after the other; one run
before them warms up.

ONNX's own inference is compiled code whose time goes with a file's bytes; ours goes with its nodes. The columns of what onnx-ir alone needs to
read the file's message, and of what reading and lowering need without typing, say how near to the target files of few weights can come.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from rich.console import Console
from rich.table import Table

import paramgraph as pg
from paramgraph.compiler.onnx.lowering import OnnxLowering
from paramgraph.compiler.onnx.source import open_model, source_of
from paramgraph.models import resolve

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

LIMIT = 2.0
NETWORKS: dict[str, Callable[[], tuple[torch.nn.Module, Any]]] = {
    "resnet18": lambda: (resolve("torchvision:resnet18").model.eval(), (torch.randn(3, 3, 224, 224),)),
    "vit_b_16": lambda: (resolve("torchvision:vit_b_16").model.eval(), (torch.randn(3, 3, 224, 224),)),
    "encoder of width 512": lambda: _encoder(512),
    "encoder of width 256": lambda: _encoder(256),
    "encoder of width 64": lambda: _encoder(64),
}


def _encoder(width: int) -> tuple[torch.nn.Module, Any]:
    layer = torch.nn.TransformerEncoderLayer(width, 4, 4 * width)
    return torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False).eval(), (torch.randn(7, 3, width),)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--published", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    table = Table("file", "MB", "nodes", "load and infer", "onnx-ir reads", "lowered", "compiled", "ratio", title="ONNX files (processor time, ms)")
    with tempfile.TemporaryDirectory() as folder:
        files = [*chosen.files, *(_published() if chosen.published else ())] or [_exported(name, Path(folder)) for name in NETWORKS]
        for path in files:
            message = onnx.load(str(path), load_external_data=False)
            theirs, read, lowered, ours = _least([
                lambda path=path: onnx.shape_inference.infer_shapes(onnx.load(str(path))),
                lambda message=message: _deserialized(message),
                lambda path=path: OnnxLowering(open_model(source_of(path)), "model").run(),
                lambda path=path: pg.compile(path),
            ], chosen.repeats)
            ratio = ours / theirs
            table.add_row(f"{path.parent.name}/{path.stem}", f"{path.stat().st_size / 1e6:.2f}", str(len(message.graph.node)),
                          *(f"{1e3 * seconds:.1f}" for seconds in (theirs, read, lowered, ours)), f"{ratio:.2f}{'' if ratio <= LIMIT else '  over'}")
    Console().print(table)


def _deserialized(message: onnx.ModelProto) -> None:
    """onnx-ir's reading, as far as it gets: it has no maps, which classifiers of `ai.onnx.ml` return."""
    with contextlib.suppress(onnx_ir.serde.SerdeError):
        onnx_ir.serde.deserialize_model(message)


def _published() -> list[Path]:
    from tests.compiler.onnx.test_real_files import FILES, located

    return [located(package, file) for package, file, *_ in FILES]


def _exported(name: str, folder: Path) -> Path:
    model, inputs = NETWORKS[name]()
    program = torch.onnx.export(model, inputs, dynamo=True, optimize=False, verbose=False)
    assert program is not None
    path = folder / f"{name}.onnx"
    onnx.save(program.model_proto, str(path))
    return path


def _least(runs: list[Callable[[], object]], repeats: int) -> list[float]:
    """The least processor time of each of some runs, taken in turn: what else the machine does falls on all alike."""
    least = [float("inf")] * len(runs)
    for repeat in range(repeats + 1):
        for place, run in enumerate(runs):
            start = time.process_time()
            run()
            if repeat:
                least[place] = min(least[place], time.process_time() - start)
    return least


if __name__ == "__main__":
    main()
