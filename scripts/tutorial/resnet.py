"""ResNets for CIFAR-10 (He et al. 2015, arXiv:1512.03385, section 4.2), with the parameter names of public checkpoints."""

import torch
import torch.nn.utils.prune
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut without weights: every second pixel, new channels are zeros (option A)."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.new = stride, (after - before) // 2

    def forward(self, x):
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new, self.new)) if self.new else x
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)


class ResNet(nn.Module):
    """Depth 6·blocks + 2; takes [batch, 3, 32, 32], gives 10 logits."""

    def __init__(self, blocks):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)

        def stage(before, after, stride):
            shapes = [(before, after, stride)] + [(after, after, 1)] * (blocks - 1)
            return nn.Sequential(*(Block(*shape) for shape in shapes))

        self.layer1, self.layer2, self.layer3 = stage(16, 16, 1), stage(16, 32, 2), stage(32, 64, 2)
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def load(path):
    """The network whose weights a checkpoint holds, and the checkpoint's plain names of them.

    A checkpoint that `secateur prune --masks pairs` wrote has `weight_orig` and `weight_mask` in place of `weight`:
    the layer gets torch.nn.utils.prune's mask, which holds while it trains.
    """
    found = torch.load(path, map_location="cpu", weights_only=True)
    found = {name.removeprefix("module."): value for name, value in found.get("state_dict", found).items()}
    blocks = 1 + max(int(name.split(".")[1]) for name in found if name.startswith("layer1."))
    model = ResNet(blocks)
    for name in found:
        if name.endswith(".weight_mask"):
            torch.nn.utils.prune.identity(model.get_submodule(name.removesuffix(".weight_mask")), "weight")
    model.load_state_dict(found)
    return model


def export(model, path):
    """Writes ONNX with a dynamic batch. Batch-norms stay nodes, so that weights keep their names and zeros."""
    example = torch.zeros(1, 3, 32, 32)
    names = dict(input_names=["image"], output_names=["logits"], dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}})
    kept = dict(training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False)
    torch.onnx.export(model.eval(), (example,), path, opset_version=17, dynamo=False, **names, **kept)
