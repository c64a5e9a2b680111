"""The Small CNN Zoo's files, written from torch networks in TensorFlow's order of axes: what is read computes what was written."""

import csv
import gzip
import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.errors import FileFormatError, UnknownNameError
from paramgraph.metanets import GMN, run

IMAGES = torch.rand(3, 1, 28, 28)
STEPS = (0, 40, 86)


def cnn(activation):
    """The oracle, by layers of torch."""
    act = {"relu": nn.ReLU, "tanh": nn.Tanh}[activation]
    convs = [layer for inputs in (1, 16, 16) for layer in (nn.Conv2d(inputs, 16, 3, stride=2), act())]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def tensors(net):
    """Names and arrays as TensorFlow has them, biases first as in the published layout."""
    names = ["conv2d", "conv2d_1", "conv2d_2", "dense"]
    for name, layer in zip(names, [net[0], net[2], net[4], net[8]], strict=True):
        weight = layer.weight.detach().numpy()
        yield f"sequential/{name}/bias:0", layer.bias.detach().numpy()
        yield f"sequential/{name}/kernel:0", weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T


def write(folder, runs=4):
    """As many runs, each with a checkpoint per step; every third run with tanh. Gives the networks by row."""
    folder.mkdir(exist_ok=True)
    nets, rows, metrics = [], [], []
    for number in range(runs):
        activation = "tanh" if number % 3 == 1 else "relu"
        for step in STEPS:
            torch.manual_seed(len(nets))
            nets.append(cnn(activation))
            rows.append(np.concatenate([array.reshape(-1) for _, array in tensors(nets[-1])]))
            accuracy = 0.1 + step / 1000 + number / 100
            metrics.append({"": len(metrics), "config.activation": activation, "config.learning_rate": 10.0**-number, "modeldir": f"/a/{number}"})
            metrics[-1].update({"step": step, "test_accuracy": accuracy, "train_loss": "" if step == 0 else 0.5})
    np.save(folder / "weights.npy", np.stack(rows))
    with gzip.open(folder / "metrics.csv.gz", "wt", newline="") as file:
        writer = csv.DictWriter(file, list(metrics[0]))
        writer.writeheader()
        writer.writerows(metrics)
    start = 0
    with (folder / "layout.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["varname", "start_idx", "end_idx", "shape"])
        for name, array in tensors(nets[0]):
            writer.writerow([name, start, start + array.size, array.shape])
            start += array.size
    assert start == 4970
    return nets


def outputs(zoo, number):
    stack, row = zoo._places[number]
    return run(zoo.models[stack], zoo.stacks[stack].take([row]), IMAGES)[0]


def same(zoo, nets):
    for number, row in enumerate(zoo.table["row"]):
        torch.testing.assert_close(outputs(zoo, number), nets[row](IMAGES), atol=1e-6, rtol=1e-5)


def test_final_networks_of_both_activations_compute_what_was_written(tmp_path):
    nets = write(tmp_path)
    zoo = pg.zoos.read_small_cnns(tmp_path)
    assert zoo.table["row"].tolist() == [2, 5, 8, 11] and len(zoo.stacks) == 2
    assert [model.activation for model in zoo.models] == ["relu", "tanh"] and [len(stack) for stack in zoo.stacks] == [3, 1]
    torch.testing.assert_close(zoo.labels, torch.tensor([0.186, 0.196, 0.206, 0.216]))
    assert zoo.table["config.activation"].tolist() == ["relu", "tanh", "relu", "relu"]
    assert zoo.table["step"].dtype == np.int64 and zoo.table["config.learning_rate"].dtype == np.float64
    same(zoo, nets)
    assert zoo.stacks[0].graph.num_parameters == 4970
    assert pg.verify(zoo.stacks[0].graph, zoo.models[0], IMAGES).passed


def test_rows_by_step_activation_condition_and_slice(tmp_path):
    nets = write(tmp_path)
    every = pg.zoos.read_small_cnns(tmp_path, step=None, label=None)
    assert len(every) == 12 and every.labels.tolist() == list(range(12))
    assert np.isnan(every.table["train_loss"]).sum() == 4
    same(every, nets)
    assert pg.zoos.read_small_cnns(tmp_path, activation="tanh").table["row"].tolist() == [5]
    assert pg.zoos.read_small_cnns(tmp_path, step=40, rows=slice(None, None, 2)).table["row"].tolist() == [1, 7]
    mixed = pg.zoos.read_small_cnns(tmp_path, rows=[3, 1, 0])
    assert mixed.table["row"].tolist() == [11, 5, 2]
    same(mixed, nets)
    good = pg.zoos.read_small_cnns(tmp_path, step=None, where=lambda table: table["test_accuracy"] > 0.155, label="train_loss")
    assert good.table["row"].tolist() == [2, 5, 7, 8, 10, 11]
    with pytest.raises(FileFormatError, match=r"steps \[0, 40, 86\]"):
        pg.zoos.read_small_cnns(tmp_path, step=20)
    with pytest.raises(UnknownNameError, match="'accuracy' in metrics"):
        pg.zoos.read_small_cnns(tmp_path, label="accuracy")


def test_only_chosen_rows_are_read(tmp_path):
    write(tmp_path)
    big = 40_000  # rows of 20 kB, 0.8 GB as numbers, a hole on disk
    few = np.load(tmp_path / "weights.npy")
    weights = np.lib.format.open_memmap(tmp_path / "weights.npy", "w+", np.float32, (big, 4970))
    weights[-12:] = few
    del weights
    with gzip.open(tmp_path / "metrics.csv.gz", "wt", compresslevel=1) as file:
        file.write("config.activation,step,test_accuracy\n")
        file.writelines(f"relu,{86 if row >= big - 12 else 0},0.5\n" for row in range(big))
    tracemalloc.start()
    zoo = pg.zoos.read_small_cnns(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert zoo.table["row"].tolist() == list(range(big - 12, big))
    torch.testing.assert_close(zoo.stacks[0].values["dense.bias"], torch.from_numpy(few[:, 4800:4810]))
    assert peak < 80e6


def test_weights_that_are_not_finite_are_left_out_on_demand(tmp_path):
    nets = write(tmp_path)
    weights = np.load(tmp_path / "weights.npy")
    weights[[2, 5], 7] = np.nan, np.inf
    np.save(tmp_path / "weights.npy", weights)
    with pytest.raises(FileFormatError, match=r"weights.npy, row 2: expected finite.*on_error='skip'"):
        pg.zoos.read_small_cnns(tmp_path)
    with pytest.warns(UserWarning, match="2 of 4 rows were left out"):
        zoo = pg.zoos.read_small_cnns(tmp_path, on_error="skip")
    assert zoo.table["row"].tolist() == [8, 11] and len(zoo.stacks) == 1 and len(zoo.skipped) == 2
    same(zoo, nets)
    with pytest.raises(FileFormatError, match="none of 1 rows"):
        pg.zoos.read_small_cnns(tmp_path, activation="tanh", on_error="skip")


def test_a_layout_in_another_order_is_followed(tmp_path):
    nets = write(tmp_path)
    lines = (tmp_path / "layout.csv").read_text().splitlines()
    weights = np.load(tmp_path / "weights.npy")
    # Kernels before biases, and other sizes of the table's columns.
    order, start, moved = [1, 0, 3, 2, 5, 4, 7, 6], 0, []
    table = [lines[0]]
    for number in order:
        name, begin, end, shape = next(csv.reader([lines[1 + number]]))
        moved.append(weights[:, int(begin) : int(end)])
        table.append(f'{name},{start},{start + moved[-1].shape[1]},"{shape}"')
        start += moved[-1].shape[1]
    np.save(tmp_path / "weights.npy", np.concatenate(moved, axis=1))
    (tmp_path / "layout.csv").write_text("\n".join(table))
    same(pg.zoos.read_small_cnns(tmp_path), nets)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("weights.npy", lambda old: old[: len(old) // 2], "weights.npy: expected a matrix"),
        ("weights.npy", lambda old: b"nonsense", "weights.npy: expected a matrix"),
        ("metrics.csv.gz", lambda old: old[: len(old) // 2], "metrics.csv.gz: expected a CSV"),
        ("metrics.csv.gz", lambda old: gzip.compress(b"step,config.activation\n86,relu\n"), "with the 1 rows"),
        ("metrics.csv.gz", lambda old: gzip.compress(b"step,config.activation\n86\n"), "got 1 in line 2"),
        ("metrics.csv.gz", lambda old: gzip.compress(gzip.decompress(old).replace(b"tanh", b"gelu")), "got .'gelu'"),
        ("layout.csv", lambda old: old.replace(b"16)", b"15)"), "as large as its columns"),
        ("layout.csv", lambda old: b"\n".join(old.split(b"\n")[:-2]), "without gaps"),
        ("layout.csv", lambda old: old.replace(b"bias", b"gamma"), "kernel or bias"),
        ("layout.csv", lambda old: b"", "the file is empty"),
        ("layout.csv", lambda old: old.replace(b",16,", b",sixteen,"), "expected numbers of columns"),
        ("layout.csv", lambda old: b'varname,start_idx,end_idx,shape\na/kernel:0,0,4970,"(3, 3)"\n', "as large as"),
        ("layout.csv", lambda old: b'varname,start_idx,end_idx,shape\na/kernel:0,0,4970,"(70, 71)"\n', "kernels of convolutions"),
    ],
)
def test_damaged_files_say_what_is_wrong(tmp_path, name, change, said):
    write(tmp_path)
    file = tmp_path / name
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(FileFormatError, match=said):
        pg.zoos.read_small_cnns(tmp_path)
    file.unlink()
    with pytest.raises(FileFormatError, match=name):
        pg.zoos.read_small_cnns(tmp_path)


def test_a_metanet_predicts_over_two_architectures(tmp_path):
    write(tmp_path)
    zoo = pg.zoos.read_small_cnns(tmp_path)
    assert GMN(8, 2, backend="torch", out=1)(zoo.stacks).shape == (4, 1)
