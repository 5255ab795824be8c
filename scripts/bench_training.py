#!/usr/bin/env python3
"""Times a training step of ResNet-20 (CIFAR-10 images, batch 64, SGD with momentum) beside PyTorch's on the same network.

    python3 scripts/bench_training.py secateur resnet20.onnx data_batch_1.bin.gz [--threads 1] [--rounds 5]

`resnet20.onnx` is a CIFAR ResNet-20 with option-A shortcuts. It is trained dense and with 50, 80 and 90 % of the weights of
each layer zero (`l1`), in turn with PyTorch's dense step, which has no other. A step is the difference of two runs of different
length over their difference in steps, in CPU time: so reading the data and starting up do not count, and other processes count
little. Prints medians and the best and worst round.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile

SHORT, LONG = 5, 35

PYTORCH = """
import sys, time, torch, torch.nn as nn, torch.nn.functional as F
torch.set_num_threads(int(sys.argv[1]))

class Block(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.c2, self.b2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.stride, self.pad = stride, o // 4

    def forward(self, x):
        y = self.b2(self.c2(F.relu(self.b1(self.c1(x)))))
        if self.stride == 2:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(x + y)

class ResNet20(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.b = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
        pairs = zip(widths, widths[1:])
        self.blocks = nn.Sequential(*[Block(i, o, 1 if i == o else 2) for i, o in pairs])
        self.f = nn.Linear(64, 10)

    def forward(self, x):
        return self.f(self.blocks(F.relu(self.b(self.c(x)))).mean((2, 3)))

model, steps = ResNet20(), int(sys.argv[2])
optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9)
x, y = torch.randn(64, 3, 32, 32), torch.randint(0, 10, (64,))
for _ in range(steps):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
"""


def cpu_seconds(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def step(command):
    """Milliseconds of CPU time of a step; `command` makes a command line from a number of steps."""
    return (cpu_seconds(command(LONG)) - cpu_seconds(command(SHORT))) / (LONG - SHORT) * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("secateur")
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        versions = {"dense": args.model}
        for share in (50, 80, 90):
            pruned = os.path.join(folder, f"{share}.onnx")
            prune = [args.secateur, "prune", args.model, "-o", pruned, "--method", "l1", "--sparsity", f"{share}%"]
            subprocess.run(prune, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            versions[f"{share} % zeros"] = pruned
        out = os.path.join(folder, "tuned.onnx")

        def secateur(model):
            options = "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --batch 64 --lr 0.001 --force".split()
            tail = ["-o", out, "--data", args.data, "--threads", str(args.threads), *options]
            return lambda steps: [args.secateur, "finetune", model, *tail, "--epochs", f"{steps}it"]

        commands = {name: secateur(model) for name, model in versions.items()}
        if subprocess.run([sys.executable, "-c", "import torch"], stderr=subprocess.DEVNULL).returncode == 0:
            commands["PyTorch, dense"] = lambda n: [sys.executable, "-c", PYTORCH, str(args.threads), str(n)]
        else:
            print("PyTorch: not timed (this Python has no torch)")
        times = {name: [] for name in commands}
        for _ in range(args.rounds):
            for name, command in commands.items():
                times[name].append(step(command))
    print(f"ms of CPU time a step, {args.threads} thread(s), median (best–worst) of {args.rounds} rounds in turn")
    for name, all_times in times.items():
        print(f"{name:16} {statistics.median(all_times):6.0f} ({min(all_times):.0f}–{max(all_times):.0f})")


main()
