"""Any folder of state dicts: suffixes, nested keys, metadata in JSON and CSV, several architectures."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import paramgraph as pg
from paramgraph.errors import FileFormatError, UnknownNameError
from paramgraph.metanets import GMN, run

X = torch.rand(5, 4)


def mlp(width=6, function="tanh"):
    return nn.Sequential(nn.Linear(4, width), {"tanh": nn.Tanh, "relu": nn.ReLU}[function](), nn.Linear(width, 3))


def same(zoo, nets):
    for number, net in enumerate(nets):
        stack, row = zoo._places[number]
        torch.testing.assert_close(run(zoo.models[stack], zoo.stacks[stack].take([row]), X)[0], net.eval()(X))


def ray(folder, runs=3, iterations=(0, 1, 2)):
    """Runs as Ray Tune keeps them: parameters, a line of results per iteration, and folders of checkpoints without suffixes."""
    nets = {}
    for number in range(runs):
        function = ("tanh", "relu")[number % 2]
        path = folder / f"NN_tune_{number}"
        path.mkdir(parents=True)
        (path / "params.json").write_text(json.dumps({"model::nlin": function, "optim": {"lr": 0.1 * number}, "seed": number}))
        lines = [json.dumps({"training_iteration": step, "test_acc": 0.1 * step + 0.01 * number, "config": {"seed": number}}) for step in iterations]
        (path / "result.json").write_text("\n".join(lines) + "\n" + '{"training_iteration": 3, "test_')
        for step in iterations:
            nets[number, step] = mlp(function=function)
            (path / f"checkpoint_{step:06d}").mkdir()
            torch.save(nets[number, step].state_dict(), path / f"checkpoint_{step:06d}" / "checkpoints")
    return nets


def test_a_model_zoo_in_the_folders_of_ray(tmp_path):
    nets = ray(tmp_path)
    options = {"by": ["model::nlin"], "metadata": ["params.json", "result.json"], "label": "test_acc"}
    zoo = pg.zoos.read_state_dicts(
        tmp_path, lambda facts: mlp(function=facts["model::nlin"]), X, pattern="*/checkpoint_000002/checkpoints", **options
    )
    assert [len(stack) for stack in zoo.stacks] == [2, 1]
    same(zoo, [nets[number, 2] for number in range(3)])
    torch.testing.assert_close(zoo.labels, torch.tensor([0.2, 0.21, 0.22]))
    np.testing.assert_allclose(zoo.table["optim.lr"], [0, 0.1, 0.2])
    assert zoo.table["config.seed"].tolist() == [0, 1, 2] and zoo.table["model::nlin"].tolist() == ["tanh", "relu", "tanh"]
    assert pg.verify(zoo.stacks[1].graph, zoo.models[1], X).passed
    assert GMN(8, 2, backend="torch")(zoo.stacks).shape[0] == 3
    good = pg.zoos.read_state_dicts(
        tmp_path,
        lambda facts: mlp(function=facts["model::nlin"]),
        X,
        pattern="*/*/checkpoints",
        where=lambda table: table["test_acc"] > 0.105,
        **options,
    )
    same(good, [nets[key] for key in ((0, 2), (1, 1), (1, 2), (2, 1), (2, 2))])
    with pytest.raises(FileFormatError, match="looks at 'seed', which is not among `by`"):
        pg.zoos.read_state_dicts(tmp_path, lambda facts: mlp(facts["seed"] + 4), X, pattern="*/*_000002/checkpoints", **options)
    with pytest.raises(UnknownNameError, match="expected `by`"):
        pg.zoos.read_state_dicts(tmp_path, lambda facts: mlp(), X)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_suffixes_are_found_at_any_depth(tmp_path, suffix):
    nets = [mlp() for _ in range(11)]
    for number, net in enumerate(nets):
        path = tmp_path / f"part{number // 3}" / f"net{number}{suffix}"
        path.parent.mkdir(exist_ok=True)
        save_file(net.state_dict(), path) if suffix == ".safetensors" else torch.save(net.state_dict(), path)
    (tmp_path / "notes.txt").write_text("about these networks")
    model = mlp().train()
    zoo = pg.zoos.read_state_dicts(tmp_path, model, X, label=re.compile(r"net(\d+)"))
    same(zoo, nets)
    assert zoo.labels.tolist() == list(range(11)) and model.training and not zoo.models[0].training
    graph = pg.compile(mlp(), X)
    assert len(pg.zoos.read_state_dicts(tmp_path, graph, rows=slice(2)).stacks[0]) == 2


@pytest.mark.parametrize("key", [None, "state_dict", "run.model"])
def test_nested_state_dicts_with_facts_beside(tmp_path, key):
    nets = [mlp() for _ in range(2)]
    for number, net in enumerate(nets):
        content = {"state_dict": net.state_dict(), "epoch": number, "name": f"n{number}", "run": {"model": net.state_dict()}, "args": object}
        content["optimizer"] = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9).state_dict()
        torch.save(content, tmp_path / f"{number}.pt")
    zoo = pg.zoos.read_state_dicts(tmp_path, mlp(), X, key=key, label="epoch")
    same(zoo, nets)
    assert zoo.labels.tolist() == [0, 1] and zoo.table["name"].tolist() == ["n0", "n1"]
    with pytest.raises(FileFormatError, match="under the key 'weights'; got a mapping with keys .'state_dict', 'epoch'"):
        pg.zoos.read_state_dicts(tmp_path, mlp(), X, key="weights")
    with pytest.raises(FileFormatError, match="a column 'accuracy' in the metadata; it has epoch, name"):
        pg.zoos.read_state_dicts(tmp_path, mlp(), X, label="accuracy")


class Tied(nn.Module):
    """One matrix under two names."""

    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(4, 6, bias=False), nn.Linear(4, 6, bias=False)
        self.out.weight = self.into.weight

    def forward(self, x):
        return torch.relu(self.into(x)) @ self.out.weight


def test_tied_weights_and_old_formats(tmp_path):
    nets = [Tied() for _ in range(3)]
    torch.save(nets[0].state_dict(), tmp_path / "0.pt")
    save_file({"into.weight": nets[1].into.weight.detach()}, tmp_path / "1.safetensors")  # a shared tensor once
    torch.save(nets[2].state_dict(), tmp_path / "2.pt", _use_new_zipfile_serialization=False)
    same(pg.zoos.read_state_dicts(tmp_path, Tied(), X), nets)


def test_pickled_networks_are_refused(tmp_path):
    torch.save(mlp(), tmp_path / "0.pt")
    with pytest.raises(FileFormatError, match=r"got a pickled Sequential.*Save its state_dict\(\)"):
        pg.zoos.read_state_dicts(tmp_path, mlp(), X)


def test_names_of_wrapped_networks_are_unwrapped(tmp_path):
    nets = [mlp(), mlp()]
    torch.save({f"module.{name}": value for name, value in nets[0].state_dict().items()}, tmp_path / "a.pt")
    torch.save({f"module._orig_mod.{name}": value for name, value in nets[1].state_dict().items()}, tmp_path / "b.pt")
    same(pg.zoos.read_state_dicts(tmp_path, mlp(), X), nets)


@pytest.mark.parametrize("naming", ["runs/{}/net.pt", "{}/net", "{}"])
def test_metadata_in_a_table(tmp_path, naming):
    nets = [mlp() for _ in range(3)]
    for number, net in enumerate(nets):
        (tmp_path / "runs" / f"run{number}").mkdir(parents=True)
        torch.save(net.state_dict(), tmp_path / "runs" / f"run{number}" / "net.pt")
    lines = [f"{naming.format(f'run{number}')},{number / 10},{'a' if number else ''}" for number in (2, 0, 1)]
    (tmp_path / "table.csv").write_text("\n".join(["name,accuracy,note", *lines]))
    if naming == "{}":  # folders are named from where the table lies
        (tmp_path / "table.csv").rename(tmp_path / "runs" / "table.csv")
    zoo = pg.zoos.read_state_dicts(tmp_path, mlp(), X, metadata="table.csv", label="accuracy")
    torch.testing.assert_close(zoo.labels, torch.tensor([0.0, 0.1, 0.2]))
    assert zoo.table["note"].tolist() == ["", "a", "a"]
    table = next(tmp_path.rglob("table.csv"))
    table.write_text("\n".join(table.read_text().splitlines()[:-1]))
    with pytest.warns(UserWarning, match="expected a row for .*run1"):
        assert len(pg.zoos.read_state_dicts(tmp_path, mlp(), X, metadata="table.csv", on_error="skip")) == 2


def test_metadata_by_a_function_and_what_is_missing(tmp_path):
    torch.save(mlp().state_dict(), tmp_path / "lr=0.1.pt")
    found = pg.zoos.read_state_dicts(tmp_path, mlp(), X, metadata=lambda path: {"lr": float(path.stem[3:]), "in": {"er": path.suffix}}, label="lr")
    assert found.table["in.er"].tolist() == [".pt"]
    torch.testing.assert_close(found.labels, torch.tensor([0.1]))
    with pytest.raises(FileFormatError, match=r"params.json beside it or in a folder above"):
        pg.zoos.read_state_dicts(tmp_path, mlp(), X, metadata="params.json")
    (tmp_path / "params.json").write_text('{"a": ')
    with pytest.raises(FileFormatError, match=r"params.json: expected a JSON"):
        pg.zoos.read_state_dicts(tmp_path, mlp(), X, metadata="params.json")
    with pytest.raises(UnknownNameError, match="example inputs"):
        pg.zoos.read_state_dicts(tmp_path, mlp())


def test_several_results_need_an_iteration_in_the_path(tmp_path):
    ray(tmp_path, runs=1)
    (tmp_path / "NN_tune_0" / "result.json").write_text('{"training_iteration": 7}\n{"training_iteration": 8}')
    with pytest.raises(FileFormatError, match="2 objects to have training_iteration 0, as the path says"):
        pg.zoos.read_state_dicts(tmp_path, mlp(), X, pattern="*/*/checkpoints", metadata="result.json")


def test_networks_that_do_not_fit_say_so(tmp_path):
    torch.save(mlp(6).state_dict(), tmp_path / "0.pt")
    torch.save(mlp(7).state_dict(), tmp_path / "1.pt")
    save_file(mlp(6).state_dict(), tmp_path / "2.safetensors")
    (tmp_path / "2.safetensors").write_bytes((tmp_path / "2.safetensors").read_bytes()[:-20])
    torch.save({"epoch": 3}, tmp_path / "3.pt")
    wrong = {1: r"expected shape \(6, 4\), got \(7, 4\)", 2: "safetensors file, but it is damaged", 3: "Say where it stands by `key`"}
    for number, said in wrong.items():
        with pytest.raises(FileFormatError, match=rf"{number}\.\w+: .*{said}"):
            pg.zoos.read_state_dicts(tmp_path, mlp(), X, rows=[0, number])
    with pytest.warns(UserWarning, match="3 of 4 files were left out"):
        zoo = pg.zoos.read_state_dicts(tmp_path, mlp(), X, on_error="skip")
    assert len(zoo) == 1 and len(zoo.skipped) == 3


def test_buffers_and_integers_are_kept(tmp_path):
    def net():
        made = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
        made(torch.randn(7, 4))
        return made

    nets = [net() for _ in range(30)]
    for number, made in enumerate(nets):
        torch.save(made.state_dict(), tmp_path / f"{number}.pt")
    zoo = pg.zoos.read_state_dicts(tmp_path, net(), X)
    same(zoo, nets)
    for number, made in enumerate(nets):
        found = zoo[number][0].state_dict()
        assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in made.state_dict().items())
