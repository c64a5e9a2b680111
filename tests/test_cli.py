"""The command line: what it prints and writes, and one clear message with the right exit code where it cannot."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.cli import main


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as exit:
        main([str(argument) for argument in arguments])
    return int(exit.value.code or 0)


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's own network in the working folder."""
    (tmp_path / "usernets.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net():\n"
        "    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))\n"
        "    return model, torch.zeros(5, 3)\n"
        "class Branching(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x if x.sum() > 0 else -x\n"
        "def branching():\n"
        "    return Branching(), torch.zeros(5, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "usernets", raising=False)
    return "usernets:net"


@pytest.fixture
def file(factory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert run("compile", factory, "-o", tmp_path / "net.pgraph") == 0
    capsys.readouterr()
    return tmp_path / "net.pgraph"


def test_compile_writes_a_graph(factory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compile", factory, "-o", "a.pgraph") == 0
    graph = pg.load(tmp_path / "a.pgraph")
    assert graph.num_parameters == 38 and [f.kind for f in graph.symmetry.factors] == ["permutation", "scale"]
    assert "ln order 6.58" in capsys.readouterr().out


def test_compile_on_meta_with_another_shape(tmp_path: Path) -> None:
    output = tmp_path / "a.pgraph"
    assert run("compile", "torchvision:alexnet", "--meta", "-s", "3,3,127,127", "-o", output) == 0
    graph = pg.load(output)
    assert graph.num_parameters == 61_100_840 and output.stat().st_size < 2e6
    assert all(value.device.type == "meta" for value in graph.values.values())


def test_inspect(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", file, "--sets", "--factors", "--diagnostics") == 0
    text = capsys.readouterr().out
    for part in ("Nodes by type", "Edges by type", "Group", "S_6", "0.weight", "Edge sets", "Diagnostics", "pinned"):
        assert part in text


def test_verify(file: Path, factory: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", factory, "--graph", file, "--elements", 1, "--inputs", 1) == 0
    assert "passed" in capsys.readouterr().out
    assert run("verify", factory, "--elements", 1, "--inputs", 1) == 0


def test_verify_fails_on_another_networks_graph(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "usernets.py").write_text("import torch\nfrom torch import nn\ndef net():\n    return nn.Linear(3, 2), torch.zeros(5, 3)\n")
    sys.modules.pop("usernets")
    assert run("verify", "usernets:net", "--graph", file) == 1
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dgl", "networkx", "graphml", "dot", "png", "svg", "pgraph"])
def test_export(name: str, file: Path, tmp_path: Path) -> None:
    assert run("export", file, "--to", name, "-o", tmp_path / "a") == 0
    assert (tmp_path / "a").stat().st_size > 0


def test_export_by_suffix_with_options(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", file, "-o", tmp_path / "a.graphml", "--no-values") == 0
    assert 'attr.name="value"' not in (tmp_path / "a.graphml").read_text()
    assert run("export", file, "-o", tmp_path / "b.graphml", "--max-edges", 3) == 1
    assert "38 edges; expected at most 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["compile", "torchvision:resnet5", "-o", "a"], 2, "Did you mean torchvision:resnet50"),
        (["compile", "resnet50", "-o", "a"], 2, "expected torchvision:NAME"),
        (["compile", "usernets:net", "-o", "none/a.pgraph"], 1, "there is no folder none"),
        (["compile", "usernets:net", "-s", "x", "-o", "a"], 2, "unknown input shape 'x'"),
        (["compile", "usernets:net", "-s", "2,7", "-o", "a"], 1, "could not be traced with inputs"),
        (["compile", "usernets:branching", "-o", "a"], 1, "Branching could not be traced"),
        (["export", "net.pgraph", "--to", "gexf", "-o", "a"], 2, "unknown export format 'gexf'"),
        (["inspect", "none.pgraph"], 1, "no file none.pgraph"),
        (["inspect", "bad.pgraph"], 1, "bad.pgraph: expected a .pgraph file, got a Python pickle"),
        (["inspect", "cut.pgraph"], 1, "cut off"),
        (["verify", "nowhere:net"], 2, "there is no module 'nowhere'"),
    ],
)
def test_bad_input_is_one_clear_message(
    arguments: list[str], code: int, message: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.pgraph").write_bytes(pickle.dumps([1]))
    Path("cut.pgraph").write_bytes(file.read_bytes()[:-1])
    before = sorted(path.name for path in Path.cwd().iterdir())
    assert run(*arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err.replace("\n", " ") and captured.err.count("error: ") == 1
    assert "Traceback" not in captured.err + captured.out
    assert sorted(path.name for path in Path.cwd().iterdir() if path.name != "__pycache__") == [n for n in before if n != "__pycache__"]


def test_wrong_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compile") == 2 and run("nonsense") == 2 and run("compile", "a", "--batch", 1, "-o", "b") == 2
    assert "Usage" in capsys.readouterr().err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == f"paramgraph {pg.__version__}"
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("compile", "inspect", "verify", "export"))


def test_as_a_module_and_as_a_script() -> None:
    done = subprocess.run([sys.executable, "-m", "paramgraph", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"paramgraph {pg.__version__}"


def test_results_go_to_stdout_and_progress_to_stderr(factory: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("compile", factory, "-o", "a.pgraph")
    captured = capsys.readouterr()
    assert "compiling usernets:net" in captured.err and "compiling" not in captured.out
    assert "ln order" in captured.out


def test_a_pt2_file(tmp_path: Path) -> None:
    exported = torch.export.export(nn.Linear(3, 4), (torch.zeros(2, 3),))
    torch.export.save(exported, tmp_path / "a.pt2")
    assert run("compile", tmp_path / "a.pt2", "-o", tmp_path / "a.pgraph") == 0
    assert pg.load(tmp_path / "a.pgraph").num_parameters == 16
