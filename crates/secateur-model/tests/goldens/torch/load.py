"""Loads checkpoints into the networks of `make.py`, as the script that made them would.

    python load.py PRUNED FINAL TRAINING

PRUNED has a pair of weight and mask, FINAL the weight alone, TRAINING a state dict and its optimiser's.
"""

import sys

import torch
from torch.nn.utils import prune

pruned, final, training = sys.argv[1:]


def network():
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))


masked = network()
prune.identity(masked[0], "weight")
masked.load_state_dict(torch.load(pruned, weights_only=True), strict=True)
masked(torch.ones(1, 4))
prune.remove(masked[0], "weight")

plain = network()
state = torch.load(final, weights_only=True, mmap=True)
assert state._metadata[""] == {"version": 1}, "the attribute of the dictionary is kept"
plain.load_state_dict(state, strict=True)
assert torch.equal(plain[0].weight, masked[0].weight)

net = torch.nn.DataParallel(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)))
optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
content = torch.load(training, weights_only=False)
net.load_state_dict(content["state_dict"], strict=True)
optimiser.load_state_dict(content["optimizer"])
assert content["kinds"][2:7] == (2**80, -(2**40), b"\x00\xff", bytearray(b"ab"), 1j), content["kinds"]
assert content["kinds"][:2] == ({1, 2}, frozenset([3])) and content["args"].sizes == [1, 2]
assert content["history"]["none"] == [] and content["best"] == 91.25 and content["counts"].tolist() == [0, 1, 2]
assert content["dtype"] is torch.float16 and content["device"] == torch.device("cuda:0")
