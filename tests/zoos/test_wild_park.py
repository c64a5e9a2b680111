"""Checkpoints of the CNN Wild Park, with configurations as mappings, as dataclasses, and as OmegaConf pickles them."""

import json
import random
import sys
from dataclasses import asdict, dataclass
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import paramgraph as pg
from paramgraph.errors import FileFormatError, UnknownNameError
from paramgraph.metanets import GMN, run

IMAGES = torch.rand(2, 3, 32, 32)
FUNCTIONS = {"relu": F.relu, "gelu": F.gelu, "tanh": F.tanh, "sigmoid": F.sigmoid, "leaky_relu": F.leaky_relu, "none": nn.Identity()}


@dataclass(frozen=True)
class Config:
    n_layers: int
    n_classes: int
    channels: list
    kernel_size: list
    stride: list
    padding: list
    residual: list
    activation: list


def config(seed):
    rng = random.Random(seed)
    depth = rng.randint(2, 5)
    kernels = [rng.choice([3, 5, 7]) for _ in range(depth)]
    return Config(
        n_layers=depth,
        n_classes=10,
        channels=[3, *(rng.choice([4, 8, 16]) for _ in range(depth))],
        kernel_size=kernels,
        stride=[1] * depth,
        padding=[kernel // 2 for kernel in kernels],
        residual=[rng.choice([-1, *range(number - 1)]) if number > 1 else -1 for number in range(depth)],
        activation=[rng.choice(list(FUNCTIONS)) for _ in range(depth)],
    )


class Oracle(nn.Module):
    """Channel by channel, as the data set's description says it."""

    def __init__(self, made):
        super().__init__()
        self.made = made
        sizes = zip(made.channels[:-1], made.channels[1:], made.kernel_size, made.padding, strict=True)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, kernel, padding=padding) for a, b, kernel, padding in sizes)
        self.fc = nn.Linear(made.channels[-1], 10)

    def forward(self, x):
        past = []
        for number, layer in enumerate(self.layers):
            channels = list(layer(x).unbind(1))
            source = self.made.residual[number]
            if source != -1:
                for channel in range(min(len(channels), past[source].shape[1])):
                    channels[channel] = channels[channel] + past[source][:, channel]
            x = FUNCTIONS[self.made.activation[number]](torch.stack(channels, dim=1))
            past.append(x)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def write(path, made, score=0.5, step=50, stored=None):
    torch.manual_seed(step)
    net = Oracle(made)
    path.parent.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.Adam(net.parameters())
    content = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "config": asdict(made) if stored is None else stored}
    torch.save({**content, "iteration": step, "last_result": {"test/acc": score, "training_iteration": step}}, path)
    return net


def park(folder, seeds=(0, 1, 2, 3), steps=(25, 50)):
    nets = {}
    for seed in seeds:
        for step in steps:
            path = folder / "cifar10_zooV2" / f"run_{seed}" / f"checkpoint_{step:06d}" / "checkpoint.pt"
            nets[path.relative_to(folder).as_posix()] = write(path, config(seed), score=step / 100 + seed / 1000, step=step)
    return nets


def same(zoo, nets):
    for number, path in enumerate(zoo.table["path"]):
        stack, row = zoo._places[number]
        found = run(zoo.models[stack], zoo.stacks[stack].take([row]), IMAGES)[0]
        torch.testing.assert_close(found, nets[path](IMAGES), atol=1e-5, rtol=1e-5)


def test_networks_compute_what_was_written(tmp_path):
    nets = park(tmp_path, seeds=range(8), steps=(50,))
    zoo = pg.zoos.read_wild_park(tmp_path)
    assert len(zoo) == 8 and len(zoo.stacks) == 8
    same(zoo, nets)
    torch.testing.assert_close(zoo.labels, torch.tensor([0.5 + seed / 1000 for seed in range(8)]))
    assert zoo.table["n_layers"].tolist() == [config(seed).n_layers for seed in range(8)]
    assert zoo.table["activation"][0] == " ".join(config(0).activation) and zoo.table["step"].tolist() == [50] * 8
    assert any(max(config(seed).residual) >= 0 for seed in range(8))


@pytest.mark.parametrize("widths", [(8, 6, 4, 7), (4, 6, 8, 7), (5, 6, 5, 7)])
def test_partial_residuals_are_annotated_soundly(tmp_path, widths):
    made = Config(4, 10, [3, *widths], [3] * 4, [1] * 4, [1] * 4, [-1, -1, 0, 1], ["relu", "tanh", "leaky_relu", "gelu"])
    net = write(tmp_path / "checkpoint.pt", made)
    zoo = pg.zoos.read_wild_park(tmp_path)
    same(zoo, {"checkpoint.pt": net})
    assert pg.verify(zoo.stacks[0].graph, zoo.models[0], IMAGES[..., :9, :9]).passed


def test_networks_of_one_configuration_are_one_stack(tmp_path):
    nets = park(tmp_path)
    zoo = pg.zoos.read_wild_park(tmp_path)
    assert [len(stack) for stack in zoo.stacks] == [2, 2, 2, 2]
    same(zoo.subset([7, 0, 2, 1]), nets)


def test_splits_bring_scores_and_steps_before_files_are_read(tmp_path):
    nets = park(tmp_path)
    paths = list(nets)
    splits = {"train": {"path": paths[:6], "score": [0.1 * n for n in range(6)], "step": [25, 50] * 3}, "test": {"path": paths[6:], "score": [0, 1]}}
    (tmp_path / "cnn_park_splits.json").write_text(json.dumps(splits))
    (tmp_path / paths[0]).write_bytes(b"nonsense")
    zoo = pg.zoos.read_wild_park(tmp_path, split="train", where=lambda table: table["step"] == 50)
    torch.testing.assert_close(zoo.labels, torch.tensor([0.1, 0.3, 0.5]))
    assert zoo.table["path"].tolist() == paths[1:6:2]
    same(zoo, nets)
    assert len(pg.zoos.read_wild_park(tmp_path, split="train", where=lambda table: table["score"] > 0.25)) == 3
    assert pg.zoos.read_wild_park(tmp_path, split="test").labels.tolist() == [0, 1]
    with pytest.raises(UnknownNameError, match="among train, test"):
        pg.zoos.read_wild_park(tmp_path, split="val")


class Node:
    """In the shape of OmegaConf's: containers with `_content`, leaves with `_val`, and links to their parents."""

    def __init__(self, value, parent=None):
        self._metadata, self._parent = {"key": None}, parent
        if isinstance(value, dict):
            self._content = {name: Node(item, self) for name, item in value.items()}
        elif isinstance(value, list):
            self._content = [Node(item, self) for item in value]
        else:
            self._val = value


def test_configurations_are_read_without_their_classes(tmp_path, monkeypatch):
    made = config(3)
    module = ModuleType("somebodys_package")
    module.Node, module.Config = Node, Config
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "somebodys_package", module)
        patch.setattr(Node, "__module__", "somebodys_package")
        patch.setattr(Config, "__module__", "somebodys_package")
        nets = {"a/checkpoint.pt": write(tmp_path / "a" / "checkpoint.pt", made, stored=made)}
        nets["b/checkpoint.pt"] = write(tmp_path / "b" / "checkpoint.pt", made, stored=Node(asdict(made)))
    assert "somebodys_package" not in sys.modules
    zoo = pg.zoos.read_wild_park(tmp_path)
    assert len(zoo.stacks) == 1
    same(zoo, nets)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"channels": None}, "expected lists channels"),
        ({"residual": [-1, 1]}, "among the layers before"),
        ({"residual": [-1]}, "one entry per layer"),
        ({"activation": ["relu", "swish"]}, "got .'swish'"),
        ({"kernel_size": [3, 0]}, "expected sizes"),
        ({"kernel_size": [3, 7]}, "layers.1.weight: expected shape"),
        ({"channels": [3, 4, 10**9]}, "layers.1.weight: expected shape"),
        ({"padding": [1, -1]}, "expected sizes"),
    ],
)
def test_configurations_that_do_not_fit_say_so(tmp_path, change, said):
    made = Config(2, 10, [3, 4, 5], [3, 3], [1, 1], [1, 1], [-1, -1], ["relu", "tanh"])
    write(tmp_path / "a" / "checkpoint.pt", made, stored={**asdict(made), **change})
    with pytest.raises(FileFormatError, match=rf"a.checkpoint.pt: .*{said}"):
        pg.zoos.read_wild_park(tmp_path)
    write(tmp_path / "b" / "checkpoint.pt", made)
    with pytest.warns(UserWarning, match="1 of 2 files"):
        assert len(pg.zoos.read_wild_park(tmp_path, on_error="skip")) == 1


def test_checkpoints_without_a_configuration_or_score_say_so(tmp_path):
    torch.save(Oracle(config(0)).state_dict(), tmp_path / "checkpoint.pt")
    with pytest.raises(FileFormatError, match="expected a checkpoint with model and config"):
        pg.zoos.read_wild_park(tmp_path)
    torch.save({"model": Oracle(config(0)).state_dict(), "config": asdict(config(0))}, tmp_path / "checkpoint.pt")
    with pytest.raises(FileFormatError, match="expected a score"):
        pg.zoos.read_wild_park(tmp_path)
    assert pg.zoos.read_wild_park(tmp_path, label=False).labels.tolist() == [0]


def test_a_metanet_reads_a_park(tmp_path):
    park(tmp_path, steps=(50,))
    zoo = pg.zoos.read_wild_park(tmp_path)
    assert GMN(8, 2, backend="torch", out=1)(zoo.stacks).shape == (4, 1)
