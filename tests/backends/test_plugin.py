"""The example of a backend by entry point: installed with pip, it passes the suite that ships and runs a GMN."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "incidence-backend"

USE = """
import sys
import torch
import paramgraph as pg
from paramgraph.backends import backend_names, get_backend
from paramgraph.backends.conformance import CASES, DTYPES, check_mixture, check_primitives

if "incidence" not in backend_names():
    print("unknown")
    sys.exit()
backend = get_backend("incidence")
for dtype in DTYPES:
    check_mixture(backend, dtype)
    for case in CASES:
        check_primitives(backend, case, dtype)
model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)).double()
graph = pg.compile(model, torch.randn(2, 3).double())
scores = []
for name in ("incidence", "torch"):
    torch.manual_seed(0)
    scores.append(pg.metanets.GMN(8, 2, backend=name, vocabulary=pg.metanets.Vocabulary.from_graphs([graph])).double()([graph]))
print(float((scores[0] - scores[1]).abs().max()) < 1e-10)
"""


def _run(*places: Path) -> str:
    paths = os.pathsep.join([*map(str, places), str(ROOT)])
    out = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths})
    assert out.returncode == 0, out.stderr
    return out.stdout.strip()


def test_installed_backend(tmp_path: Path) -> None:
    source, place = tmp_path / "source", tmp_path / "site"
    shutil.copytree(EXAMPLE, source)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(place),
                    str(source)], check=True, capture_output=True)  # fmt: skip
    assert _run(place) == "True"
    assert _run(EXAMPLE) == "unknown", "without its metadata a package adds no backend"
