"""Trains the demo's network on the UCI digits; writes digits.onnx and digits-test.npz.

    python train.py

Needs torch, numpy, scikit-learn (which ships the data), onnx and onnxruntime.
Prints what README.md records: the figures ONNX Runtime measures on the two files.
"""

import pathlib
from collections import OrderedDict

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

HERE = pathlib.Path(__file__).parent
SEED = 0
EPOCHS = 60
BATCH = 32
TEST = 500


def conv_bn(inputs, outputs, kernel=3, stride=1, groups=1):
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs)))


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = conv_bn(channels, channels)
        self.conv2 = conv_bn(channels, channels)

    def forward(self, x):
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


class Digits(nn.Module):
    """[batch, 1, 8, 8] in 0..1 to the logits [batch, 10]."""

    def __init__(self):
        super().__init__()
        self.stem = conv_bn(1, 32)
        self.block1 = Residual(32)
        self.depthwise = conv_bn(32, 32, stride=2, groups=32)
        self.pointwise = conv_bn(32, 64, kernel=1)
        self.block2 = conv_bn(64, 64)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = self.block1(F.relu(self.stem(x)))
        x = F.relu(self.pointwise(F.relu(self.depthwise(x))))
        x = F.relu(x + self.block2(x))
        return self.head(self.pool(x).flatten(1))


def shifted(images):
    """Each image moved by up to one pixel in each direction; the margin is zero."""
    padded = F.pad(images, (1, 1, 1, 1))
    down, right = torch.randint(0, 3, (2, len(images)))
    rows = down[:, None] + torch.arange(8)
    columns = right[:, None] + torch.arange(8)
    index = torch.arange(len(images))[:, None, None]
    return padded[index, 0, rows[:, :, None], columns[:, None, :]][:, None]


def train(x, y):
    torch.manual_seed(SEED)
    model = Digits()
    steps = EPOCHS * (len(x) // BATCH)
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=steps)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(x))
        total = 0.0
        for step in range(len(x) // BATCH):
            pick = order[step * BATCH : (step + 1) * BATCH]
            loss = F.cross_entropy(model(shifted(x[pick])), y[pick])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: training loss {total / (len(x) // BATCH):.4f}")
    return model.eval()


def export(model, path):
    # PRESERVE of a model in eval mode: batch-norm with its running statistics,
    # not fused into the convolution before it.
    torch.onnx.export(
        model,
        (torch.zeros(2, 1, 8, 8),),
        path,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        dynamo=False,
    )
    onnx.checker.check_model(path, full_check=True)


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    digits = load_digits()
    images, labels = digits.images.astype(np.uint8)[:, None], digits.target.astype(np.int64)
    x, x_test, y, y_test = train_test_split(
        images, labels, test_size=TEST, random_state=SEED, stratify=labels
    )
    model = train(torch.from_numpy(x).float() / 16, torch.from_numpy(y))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{len(x)} training images, {len(x_test)} test images, {parameters} parameters")

    export(model, str(HERE / "digits.onnx"))
    np.savez_compressed(HERE / "digits-test.npz", x=x_test, y=y_test)

    test = np.load(HERE / "digits-test.npz")
    session = onnxruntime.InferenceSession(HERE / "digits.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": test["x"].astype(np.float32) / 16})
    logits = torch.from_numpy(logits).double()
    target = torch.from_numpy(test["y"])
    right = int((logits.argmax(1) == target).sum())
    loss = F.cross_entropy(logits, target).item()
    print(f"ONNX Runtime: {right} of {len(target)} right ({right / len(target):.1%}), loss {loss:.5f}")
    for name in ["digits.onnx", "digits-test.npz"]:
        print(f"{name}: {(HERE / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
