"""Metanets on disk, in mixed precision, and compiled."""

import json

import pytest
import torch

from paramgraph.errors import FileFormatError, MetanetError
from paramgraph.metanets import GMN, Editor, ScaleGMN, load_metanet, save_metanet
from paramgraph.metanets.baselines import DMC, NGGNN, DeepSets, FlatMLP

from .handmade import everything, mlp
from .test_gmn import deviation

KINDS = {
    "GMN": lambda: GMN(8, 2, "torch", out=3, attention=2, bias_layout="features", direction="both"),
    "ScaleGMN": lambda: ScaleGMN(8, layers=2, backend="torch", out=2, direction="both"),
    "DeepSets": lambda: DeepSets(8, 2),
    "NG-GNN": lambda: NGGNN(8, 2, 2),
    "DMC": lambda: DMC(2, 8),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded(kind, dtype, tmp_path):
    torch.manual_seed(0)
    graphs = [mlp(dtype=dtype), everything(dtype=dtype)]
    net = KINDS[kind]().to(dtype).eval()
    expected = net(graphs)
    save_metanet(net, tmp_path / "net.safetensors")
    loaded = load_metanet(tmp_path / "net.safetensors")
    assert type(loaded) is type(net) and torch.equal(loaded(graphs), expected)
    assert getattr(loaded, "vocabulary", None) == getattr(net, "vocabulary", None)
    if hasattr(net, "backend"):
        other = load_metanet(tmp_path / "net.safetensors", backend="pyg")
        assert other.backend.name == "pyg" and deviation(other(graphs), expected) < 1e-5


def test_files_are_written_whole(tmp_path, monkeypatch):
    graphs = [mlp()]
    net = GMN(4, 1, "torch").eval()
    net(graphs)
    with pytest.raises(FileFormatError, match="no folder .*missing"):
        save_metanet(net, tmp_path / "missing" / "net.safetensors")
    path = tmp_path / "net.safetensors"
    save_metanet(net, path)

    def full(tensors, file, metadata):
        file.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(FileFormatError, match="No space left"):
        save_metanet(net, path)
    assert torch.equal(load_metanet(path)(graphs), net(graphs)) and list(tmp_path.iterdir()) == [path]


def test_editors(tmp_path):
    editor = Editor(GMN(8, 2, backend="torch", head="edge", out=2), mode="both", scale=0.3)
    editor([mlp()])
    torch.nn.init.normal_(editor.metanet.head.linear.weight)
    save_metanet(editor, tmp_path / "editor.safetensors")
    loaded = load_metanet(tmp_path / "editor.safetensors")
    assert deviation(dict(loaded([mlp()])[0].values), dict(editor([mlp()])[0].values)) == 0
    with pytest.raises(MetanetError, match="`edits` of your own"):
        save_metanet(Editor(GMN(8, 2, backend="torch", head="edge"), edits=lambda e: True), tmp_path / "other")


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(MetanetError, match="seen no batch"):
        save_metanet(GMN(8, 1, backend="torch"), tmp_path / "net")
    with pytest.raises(MetanetError, match="got FlatMLP"):
        save_metanet(FlatMLP(mlp()), tmp_path / "net")


def test_what_cannot_be_loaded(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "text").write_text("no safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign")
    for name in ("text", "foreign", "absent"):
        with pytest.raises(FileFormatError, match="written by `save_metanet`"):
            load_metanet(tmp_path / name)


CHANGES = {
    "no options": lambda header, tensors: header.pop("options"),
    "a list of options": lambda header, tensors: header.update(options=[1]),
    "an unknown option": lambda header, tensors: header["options"].update(depth=3),
    "an option of another type": lambda header, tensors: header["options"].update(hidden="8"),
    "another width": lambda header, tensors: header["options"].update(hidden=4),
    "another depth": lambda header, tensors: header["options"].update(layers=3),
    "another kind": lambda header, tensors: header.update(kind="ScaleGMN"),
    "a kind that holds another": lambda header, tensors: header.update(kind="Editor"),
    "a kind that is no name": lambda header, tensors: header.update(kind=["GMN"]),
    "no vocabulary": lambda header, tensors: header.update(vocabulary=None),
    "a vocabulary without a type": lambda header, tensors: header["vocabulary"][0].pop(),
    "a vocabulary of numbers": lambda header, tensors: header.update(vocabulary=[1, 2, 3]),
    "a tensor of another shape": lambda header, tensors: tensors.update({"head.mlp.0.bias": torch.zeros(3)}),
    "a later version": lambda header, tensors: header.update(version=2),
}


@pytest.mark.parametrize("change", [*CHANGES, "no mapping"])
def test_descriptions_that_were_changed(change, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    net = KINDS["GMN"]()
    net([mlp()])
    save_metanet(net, tmp_path / "net")
    with safe_open(tmp_path / "net", "pt") as file:
        header = json.loads(file.metadata()["paramgraph"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    if change in CHANGES:
        CHANGES[change](header, tensors)
    save_file(tensors, tmp_path / "net", metadata={"paramgraph": json.dumps(header if change in CHANGES else [])})
    with pytest.raises(FileFormatError, match="net"):
        load_metanet(tmp_path / "net")


@pytest.mark.parametrize(
    "way",
    [{"recompute": False}, {"recompute": True, "tile_edges": 50}, {"keep_edges": 0, "tile_edges": 50}],
    ids=["all kept", "states kept", "streamed"],
)
@pytest.mark.parametrize("kind", [GMN, ScaleGMN])
def test_mixed_precision(kind, way):
    torch.manual_seed(0)
    net = kind(16, 2, backend="torch", direction="both", **way)
    graphs = [mlp(), everything()]
    expected = net(graphs)
    expected.sum().backward()
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = net(graphs)
    found.sum().backward()
    others = [p.grad for p in net.parameters() if p.grad is not None]
    assert deviation(found.float(), expected) < 0.05 and not torch.equal(found.float(), expected)
    total = sum((a - b).square().sum() for a, b in zip(gradients, others, strict=True)) / sum(a.square().sum() for a in gradients)
    assert total.sqrt() < 0.1


@pytest.mark.parametrize(("kind", "way"), [(GMN, {}), (ScaleGMN, {"recompute": True})])
def test_compiled_by_torch(kind, way):
    """At once: the batch is laid out, and its types are learned, outside of what is compiled."""
    torch.manual_seed(0)
    net = kind(8, 2, backend="torch", **way)
    graphs = [mlp(s) for s in range(3)]
    compiled = torch.compile(net, backend="aot_eager")
    found = compiled(graphs)
    found.sum().backward()
    assert deviation(found, net(graphs)) < 1e-5
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
