"""Writes the checkpoints beside this file with PyTorch (2.15), and what they hold as safetensors.

    python make.py

Each `NAME.pt` has a `NAME.safetensors` with the same tensors under the paths that secateur gives them:
those of the state dict by their keys, all others by the way to them, joined by dots.
"""

import argparse
import collections
import datetime
import pathlib
import pickle

import numpy
import safetensors.torch
import torch
from torch.nn.utils import prune

HERE = pathlib.Path(__file__).parent


def kinds():
    """Every element type that both formats have, every way to stand in a storage."""
    base = torch.arange(48, dtype=torch.float32).reshape(4, 3, 2, 2) / 7
    tensors = collections.OrderedDict()
    tensors["conv.weight"] = base.clone()
    tensors["conv.bias"] = torch.tensor([1.5, -0.0, float("inf"), 1e-40])
    tensors["last.weight"] = base.clone().contiguous(memory_format=torch.channels_last)
    tensors["transposed"] = torch.arange(6, dtype=torch.float32).reshape(2, 3).t()
    tensors["transposed.tied"] = tensors["transposed"]
    tensors["tied.weight"] = tensors["conv.weight"]
    tensors["row"] = tensors["conv.weight"][2]
    tensors["stepped"] = torch.arange(10, dtype=torch.float16)[1::3]
    tensors["expanded"] = torch.tensor([[1.0], [2.0]]).expand(2, 3)
    tensors["half"] = torch.tensor([0.5, -2.0], dtype=torch.float16)
    tensors["brain"] = torch.tensor([[0.5], [-2.0]], dtype=torch.bfloat16)
    tensors["double"] = torch.tensor([1.0, 1e300], dtype=torch.float64)
    tensors["bytes"] = torch.tensor([0, 255], dtype=torch.uint8)
    tensors["signed"] = torch.tensor([-128, 127], dtype=torch.int8)
    tensors["short"] = torch.tensor([-3], dtype=torch.int16)
    tensors["int"] = torch.tensor([1, -1], dtype=torch.int32)
    tensors["num_batches_tracked"] = torch.tensor(12345678901)
    tensors["flags"] = torch.tensor([True, False, True])
    tensors["complex"] = torch.tensor([1 + 2j, -3j], dtype=torch.complex64)
    tensors["empty"] = torch.zeros(0, 3)
    tensors["parameter"] = torch.nn.Parameter(torch.ones(2))
    tensors._metadata = collections.OrderedDict([("", {"version": 1}), ("conv", {"version": 2})])
    return tensors


def training():
    """A checkpoint of a training run: nested, `module.` before names, an optimiser, plain data of all kinds."""
    torch.manual_seed(0)
    net = torch.nn.DataParallel(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(4, 3)).sum().backward()
    optimiser.step()
    return {
        "epoch": 3,
        "arch": "linear",
        "best": numpy.float64(91.25),
        "args": argparse.Namespace(lr=0.1, sizes=[1, 2], path=pathlib.PurePosixPath("a/b")),
        "history": collections.defaultdict(list, {"loss": [0.5, 0.25], "when": [datetime.date(2020, 1, 2)]}),
        "counts": numpy.arange(3),
        "kinds": ({1, 2}, frozenset([3]), 2**80, -(2**40), b"\x00\xff", bytearray(b"ab"), 1j, None, True),
        "dtype": torch.float16,
        "device": torch.device("cuda:0"),
        "size": torch.Size([1, 2]),
        "state_dict": net.state_dict(),
        "optimizer": optimiser.state_dict(),
        "rng": torch.tensor([1, 2, 3], dtype=torch.uint8),
    }


def pruned():
    """A module with `weight_orig` and `weight_mask`, as PyTorch's own pruning leaves it."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    prune.l1_unstructured(net[0], "weight", amount=0.5)
    return net.state_dict()


class OfPython2(collections.OrderedDict):
    """Pickled as Python 2 does it: with a list of its items as the constructor's argument."""

    def __reduce_ex__(self, protocol):
        return collections.OrderedDict, ([[key, value] for key, value in self.items()],)


def save_old(path):
    """Writes a file as PyTorch before 0.4 did, where a storage could be a part of another one."""

    class View:
        def __init__(self, first, count, shape, strides):
            self.at, self.shape, self.strides = (first, count), shape, strides

        def __reduce_ex__(self, protocol):
            return torch._utils._rebuild_tensor, (Part(*self.at), 0, self.shape, self.strides)

    class Part:
        def __init__(self, first, count):
            self.first, self.count = first, count

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if isinstance(value, Part):
                view = None if value.count == 12 else (f"v{value.first}", value.first, value.count)
                return "storage", torch.FloatStorage, "root", "cpu", 12, view

    content = OfPython2(
        [("whole", View(0, 12, (3, 4), (4, 1))), ("part", View(4, 6, (2, 3), (3, 1))), ("end", View(10, 2, (2,), (1,)))]
    )
    with open(path, "wb") as out:
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
        for part in (0x1950A86A20F9469CFC6C, 1001, system):
            pickle.dump(part, out, protocol=2)
        Pickler(out, protocol=2).dump(content)
        pickle.dump(["root"], out, protocol=2)
        out.write((12).to_bytes(8, "little") + numpy.arange(12, dtype="<f4").tobytes())


def averaged():
    """A training run that keeps a moving average of the weights beside them."""
    torch.manual_seed(2)
    own = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).state_dict()
    return {"model": own, "model_ema": {name: 0.9 * tensor for name, tensor in own.items()}, "epoch": 3}


def walk(value, way):
    """Tensors by the way to them."""
    if isinstance(value, torch.Tensor):
        yield ".".join(way), value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from walk(inner, [*way, str(key)])
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from walk(inner, [*way, str(index)])


def expected(content, key=None):
    if key is None:
        return dict(walk(content, []))
    inside = dict(walk(content[key], []))
    return inside | {way: t for way, t in walk(content, []) if not way.startswith(key + ".")}


def save(name, content, key=None, **options):
    torch.save(content, HERE / f"{name}.pt", **options)
    save_plain(expected(content, key), HERE / f"{name}.safetensors")


def save_plain(tensors, path):
    plain = {way: t.detach().clone(memory_format=torch.contiguous_format) for way, t in tensors.items()}
    safetensors.torch.save_file(plain, path)


if __name__ == "__main__":
    save("kinds", kinds() | {"wide": torch.tensor([65535], dtype=torch.uint16)})
    save("kinds-legacy", kinds(), _use_new_zipfile_serialization=False)
    save("kinds-protocol4", kinds(), pickle_protocol=4)
    save("training", training(), "state_dict")
    save("training-legacy", training(), "state_dict", _use_new_zipfile_serialization=False)
    save("pruned", pruned())
    torch.save(averaged(), HERE / "averaged.pt")
    save_old(HERE / "old.pt")
    save_plain(expected(torch.load(HERE / "old.pt", weights_only=True)), HERE / "old.safetensors")
