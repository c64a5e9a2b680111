"""Implicit networks in the layouts of MNIST's, Fashion-MNIST's and CIFAR-10's populations: what is read computes what was written."""

import json
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import paramgraph as pg
from paramgraph.errors import FileFormatError, UnknownNameError
from paramgraph.metanets import GMN, collate, run, wrap_phases

PLACES = torch.rand(9, 2, dtype=torch.float64) * 2 - 1


class Sines(nn.Module):
    """The oracle: layers under `seq`, or under `net` with one more name for all but the last."""

    def __init__(self, style="seq", width=8, outputs=1, w0=30.0):
        super().__init__()
        self.w0, self.shift = w0, 0.5 if style == "seq" else 0.0
        layers = [nn.Linear(2, width), nn.Linear(width, width), nn.Linear(width, outputs)]
        if style == "net":
            for number in (0, 1):
                layers[number] = nn.ModuleDict({"linear": layers[number]})
        self.add_module(style, nn.ModuleList(layers))
        self.double()

    def forward(self, x):
        for layer in list(self.children())[0]:
            layer = layer["linear"] if isinstance(layer, nn.ModuleDict) else layer
            x = layer(x)
            if layer.out_features not in (1, 3):
                x = torch.sin(self.w0 * x)
        return x + self.shift


def mnist(folder, images=(3, 20, 100, 7), **options):
    nets = {}
    for number, image in enumerate(images):
        nets[image] = net = Sines(**options)
        path = folder / f"mnist_png_{'testing' if image == 7 else 'training'}_{number + 4}_{image}" / "checkpoints" / "model_final.pth"
        path.parent.mkdir(parents=True)
        torch.save(net.state_dict(), path)
    return nets


def outputs(zoo, number):
    stack, row = zoo._places[number]
    return run(zoo.models[stack], zoo.stacks[stack].take([row]), PLACES)[0]


def test_mnist_networks_have_their_values_labels_and_images(tmp_path):
    nets = mnist(tmp_path)
    zoo = pg.zoos.read_inrs(tmp_path)
    assert len(zoo) == 4 and len(zoo.stacks) == 1 and not zoo.skipped
    assert zoo.table["image"].tolist() == [7, 3, 20, 100]  # test before training, numbers in natural order
    assert zoo.labels.tolist() == [7, 4, 5, 6] and zoo.labels.dtype == torch.int64
    assert list(zoo.table) == ["path", "image"]
    for number, image in enumerate(zoo.table["image"]):
        torch.testing.assert_close(outputs(zoo, number), nets[image](PLACES))
        state = zoo[number][0].state_dict()
        assert list(state) == list(nets[image].state_dict())
        assert all(torch.equal(state[name], value) for name, value in nets[image].state_dict().items())


def test_the_frequency_and_the_offset_are_arguments(tmp_path):
    nets = mnist(tmp_path, w0=10.0)
    zoo = pg.zoos.read_inrs(tmp_path, w0=10.0, offset=0.0)
    torch.testing.assert_close(outputs(zoo, 1) + 0.5, nets[3](PLACES))
    assert pg.verify(zoo.stacks[0].graph, zoo.models[0], PLACES.float()).passed


def test_fashion_mnist_networks_have_labels_beside_their_values(tmp_path):
    for image, label in ((1, 9), (2, torch.tensor(3)), (12, 0)):
        (tmp_path / "train").mkdir(exist_ok=True)
        torch.save({**Sines().state_dict(), "label": label}, tmp_path / "train" / f"model_{image}.pth")
    zoo = pg.zoos.read_inrs(tmp_path)
    assert zoo.labels.tolist() == [9, 3, 0] and zoo.table["image"].tolist() == [1, 2, 12]


def test_cifar_networks_follow_the_conventions_of_siren(tmp_path):
    nets = {}
    for image, label in ((10, 8), (9, 2)):
        (tmp_path / f"randinit_smaller_{label}s").mkdir()
        nets[image] = Sines("net", outputs=3)
        torch.save(nets[image].state_dict(), tmp_path / f"randinit_smaller_{label}s" / f"net{image}.pth")
    (tmp_path / "randinit_smaller_aug0_5s").mkdir()
    torch.save(nets[9].state_dict(), tmp_path / "randinit_smaller_aug0_5s" / "net9.pth")
    zoo = pg.zoos.read_inrs(tmp_path, pattern="randinit_smaller_[0-9]s/*.pth")
    assert zoo.labels.tolist() == [2, 8] and zoo.models[0].offset == 0.0
    for number, image in enumerate(zoo.table["image"]):
        torch.testing.assert_close(outputs(zoo, number), nets[image](PLACES))
    assert pg.zoos.read_inrs(tmp_path).labels.tolist() == [2, 8, 5]


def test_networks_of_several_widths_keep_the_order_of_their_files(tmp_path):
    nets = [Sines(width=width) for width in (8, 6, 8, 6, 6)]
    for number, net in enumerate(nets):
        torch.save(net.state_dict(), tmp_path / f"{number}.pth")
    zoo = pg.zoos.read_inrs(tmp_path, label=lambda path: int(path[0]))
    assert [len(stack) for stack in zoo.stacks] == [2, 3] and zoo.labels.tolist() == [0, 1, 2, 3, 4]
    for number, net in enumerate(nets):
        torch.testing.assert_close(outputs(zoo, number), net(PLACES))
    part = zoo.subset(np.array([4, 0, 3]))
    assert part.labels.tolist() == [4, 0, 3] and part.table["image"].tolist() == [4, 0, 3]
    for number, which in enumerate((4, 0, 3)):
        torch.testing.assert_close(outputs(part, number), nets[which](PLACES))


def test_splits_choose_files_and_bring_labels(tmp_path):
    mnist(tmp_path / "mnist-inrs")
    paths = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*.pth"))]
    splits = {"train": {"path": paths[1:3], "label": ["1", "2"]}, "test": {"path": paths[:1], "label": ["0"]}}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    for folder, source in ((tmp_path, "splits.json"), (tmp_path / "mnist-inrs", tmp_path / "splits.json")):
        zoo = pg.zoos.read_inrs(folder, splits=source, split="train")
        assert zoo.labels.tolist() == [1, 2] and set(zoo.table["split"]) == {"train"}
    assert pg.zoos.read_inrs(tmp_path, splits="splits.json").table["split"].tolist() == ["train", "train", "test"]
    with pytest.raises(UnknownNameError, match="among train, test, got 'val'"):
        pg.zoos.read_inrs(tmp_path, splits="splits.json", split="val")
    with pytest.raises(UnknownNameError, match="splits=…"):
        pg.zoos.read_inrs(tmp_path, split="train")
    (tmp_path / "foreign.json").write_text(json.dumps({"train": ["/somewhere/else/" + path for path in paths[1:]]}))
    assert len(pg.zoos.read_inrs(tmp_path, splits="foreign.json")) == 3
    (tmp_path / "partly.json").write_text(json.dumps({"train": ["mnist-inrs/gone.pth", *paths]}))
    with pytest.warns(UserWarning, match="gone.pth: cannot be opened .No such file"):
        assert len(pg.zoos.read_inrs(tmp_path, splits="partly.json", on_error="skip")) == 4
    (tmp_path / "gone.json").write_text(json.dumps({"train": ["nowhere.pth"]}))
    with pytest.raises(FileFormatError, match="names 'nowhere.pth'"):
        pg.zoos.read_inrs(tmp_path, splits="gone.json")


def test_labels_by_a_pattern_and_names_of_classes(tmp_path):
    mnist(tmp_path)
    zoo = pg.zoos.read_inrs(tmp_path, label=r"png_(\w+?)_")
    assert zoo.classes == ("testing", "training") and zoo.labels.tolist() == [0, 1, 1, 1]
    assert pg.zoos.read_inrs(tmp_path, label=re.compile(r"(\d+)/checkpoints")).labels.tolist() == [7, 3, 20, 100]
    assert pg.zoos.read_inrs(tmp_path, label=False).labels.tolist() == [0, 1, 2, 3]
    with pytest.raises(FileFormatError, match="which finds none"):
        pg.zoos.read_inrs(tmp_path, label=r"dog_(\d+)")


def test_rows_and_conditions_choose_before_files_are_read(tmp_path):
    mnist(tmp_path)
    next(tmp_path.glob("*testing*/*/*.pth")).write_bytes(b"nonsense")
    assert pg.zoos.read_inrs(tmp_path, rows=slice(1, 3)).table["image"].tolist() == [3, 20]
    assert pg.zoos.read_inrs(tmp_path, rows=[3, 2]).table["image"].tolist() == [100, 20]
    assert pg.zoos.read_inrs(tmp_path, where=lambda table: table["image"] > 10).labels.tolist() == [5, 6]
    with pytest.raises(UnknownNameError, match="true or false for each of 4"):
        pg.zoos.read_inrs(tmp_path, where=lambda table: table["image"])
    with pytest.raises(UnknownNameError, match="of 4 rows"):
        pg.zoos.read_inrs(tmp_path, rows=[9])
    with pytest.raises(UnknownNameError, match="each row once"):
        pg.zoos.read_inrs(tmp_path, rows=[1, 1])
    with pytest.raises(FileFormatError, match="Loosen"):
        pg.zoos.read_inrs(tmp_path, where=lambda table: table["image"] > 1000)


def broken_files(folder):
    state = Sines().state_dict()
    torch.save(state, folder / "0.pth")
    whole = (folder / "0.pth").read_bytes()
    (folder / "1.pth").write_bytes(whole[: len(whole) // 2])
    (folder / "2.pth").write_bytes(b"")
    (folder / "3.pth").write_bytes(b"\x80\x02nonsense")
    torch.save([1, 2], folder / "4.pth")
    torch.save({**state, "seq.1.weight": torch.zeros(8, 5)}, folder / "5.pth")
    torch.save({name: value for name, value in state.items() if name != "seq.1.bias"}, folder / "6.pth")
    torch.save({**state, "seq.2.bias": torch.tensor([float("nan")]).double()}, folder / "7.pth")
    torch.save({name: value.half() for name, value in state.items()}, folder / "8.pth")
    return {1: "damaged", 2: "damaged", 3: "damaged", 4: "got list", 5: "as wide as", 6: "a bias of each", 7: "finite", 8: "float16"}


def test_damaged_files_name_themselves(tmp_path):
    found = broken_files(tmp_path)
    for number, said in found.items():
        with pytest.raises(FileFormatError, match=rf"{number}\.pth: .*{said}.*on_error='skip'"):
            pg.zoos.read_inrs(tmp_path, label=False, rows=[0, number])
    with pytest.warns(UserWarning, match="8 of 9 files were left out"):
        zoo = pg.zoos.read_inrs(tmp_path, label=False, on_error="skip")
    assert len(zoo) == 1 and len(zoo.skipped) == 8 and zoo.table["path"].tolist() == ["0.pth"]
    with pytest.raises(FileFormatError, match="none of 2 files could be read"):
        pg.zoos.read_inrs(tmp_path, label=False, rows=[1, 2], on_error="skip")
    with pytest.raises(UnknownNameError, match="'raise' or 'skip'"):
        pg.zoos.read_inrs(tmp_path, on_error="ignore")


def test_folders_without_networks_say_so(tmp_path):
    with pytest.raises(FileFormatError, match="Unpack"):
        pg.zoos.read_inrs(tmp_path / "nowhere")
    with pytest.raises(FileFormatError, match="found none"):
        pg.zoos.read_inrs(tmp_path)
    torch.save(Sines().state_dict(), tmp_path / "a.pth")
    with pytest.raises(FileFormatError, match="label=False"):
        pg.zoos.read_inrs(tmp_path)


class Evil:
    def __reduce__(self):
        return print, ("code from a file",)


def test_no_code_of_a_file_runs(tmp_path, capsys):
    torch.save({**Sines().state_dict(), "label": 1, "other": Evil()}, tmp_path / "a.pth")
    zoo = pg.zoos.read_inrs(tmp_path)
    assert zoo.labels.tolist() == [1] and capsys.readouterr().out == ""


def test_a_metanet_runs_over_what_is_read(tmp_path):
    mnist(tmp_path)
    zoo = pg.zoos.read_inrs(tmp_path).map(wrap_phases)
    zoo = zoo.map(lambda stack: stack.to(torch.float32))
    net = GMN(8, 2, backend="torch", out=10)
    networks, labels = next(iter(DataLoader(zoo, batch_size=4, collate_fn=collate)))
    assert net(networks).shape == (4, 10) and labels.tolist() == zoo.labels.tolist()
    assert torch.equal(net(zoo.stacks[0]), net(list(zoo.stacks[0])))
