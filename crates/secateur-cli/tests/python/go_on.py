"""A PyTorch script that goes on from a checkpoint with pairs of weight_orig and weight_mask.

Usage: go_on.py make MODEL.pth            writes a network's state_dict
       go_on.py prune MASKED.pth OUT.pth  loads the pairs, prunes half of what remains, saves
       go_on.py final FINAL.pth MASKED.pth  checks that the finalised weights are what the masked network computes with
"""

import sys

import torch
from torch import nn
from torch.nn.utils import prune


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))


def masked(path):
    """The network with its masks, as prune leaves it."""
    net = network()
    state = torch.load(path, weights_only=True)
    for name, module in net.named_modules():
        for parameter in ("weight", "bias"):
            if f"{name}.{parameter}_mask" in state:
                prune.identity(module, parameter)
    net.load_state_dict(state)
    for module in net.modules():  # the weight is computed when the network runs
        for hook in module._forward_pre_hooks.values():
            hook(module, None)
    return net


if sys.argv[1] == "make":
    torch.save(network().state_dict(), sys.argv[2])
elif sys.argv[1] == "prune":
    net = masked(sys.argv[2])
    for module in (net[0], net[4]):
        before = module.weight_mask.clone()
        left = int(before.sum())
        prune.l1_unstructured(module, "weight", 0.5)
        assert int(module.weight_mask.sum()) == left - round(0.5 * left)
        assert torch.all(module.weight_mask[before == 0] == 0)
    torch.save(net.state_dict(), sys.argv[3])
elif sys.argv[1] == "final":
    net = network()
    net.load_state_dict(torch.load(sys.argv[2], weights_only=True))
    other = masked(sys.argv[3])
    for a, b in zip((net[0], net[4]), (other[0], other[4])):
        assert torch.equal(a.weight, b.weight)
print("ok")
