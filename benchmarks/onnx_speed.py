"""Parsing and compiling ONNX files, beside `onnx.load` and ONNX's own shape inference on the same file.

    python benchmarks/onnx_speed.py                    resnet18, vit_b_16 and a transformer's encoder
    python benchmarks/onnx_speed.py path/to/model.onnx
    python benchmarks/onnx_speed.py --repeats 9

Target: at most twice as long. Every number is the median of the repeats, in processor time; one run before them warms up.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from rich.console import Console
from rich.table import Table

import paramgraph as pg
from paramgraph.models import resolve

LIMIT = 2.0
NETWORKS: dict[str, Callable[[], tuple[torch.nn.Module, Any]]] = {
    "resnet18": lambda: (resolve("torchvision:resnet18").model.eval(), (torch.randn(3, 3, 224, 224),)),
    "vit_b_16": lambda: (resolve("torchvision:vit_b_16").model.eval(), (torch.randn(3, 3, 224, 224),)),
    "encoder": lambda: (torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(64, 4, 128), 4).eval(), (torch.randn(7, 3, 64),)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    table = Table("file", "nodes", "load and infer", "compile", "ratio", title="ONNX files (processor time)")
    with tempfile.TemporaryDirectory() as folder:
        files = chosen.files or [_exported(name, Path(folder)) for name in NETWORKS]
        for path in files:
            theirs = _median(lambda path=path: onnx.shape_inference.infer_shapes(onnx.load(str(path))), chosen.repeats)
            ours = _median(lambda path=path: pg.compile(path), chosen.repeats)
            ratio = ours / theirs
            table.add_row(path.stem, str(len(onnx.load(str(path), load_external_data=False).graph.node)), f"{theirs:.3f} s", f"{ours:.3f} s",
                          f"{ratio:.2f}{'' if ratio <= LIMIT else '  over'}")
    Console().print(table)


def _exported(name: str, folder: Path) -> Path:
    model, inputs = NETWORKS[name]()
    program = torch.onnx.export(model, inputs, dynamo=True, optimize=False, verbose=False)
    assert program is not None
    path = folder / f"{name}.onnx"
    onnx.save(program.model_proto, str(path))
    return path


def _median(run: Callable[[], object], repeats: int) -> float:
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
