#!/usr/bin/env python3
"""Times training steps beside PyTorch's on the same network, batch and threads.

    python3 scripts/bench_training.py secateur resnet20.onnx data_batch_1.bin.gz --net resnet-20
    python3 scripts/bench_training.py secateur vit_cifar10.onnx data_batch_1.bin.gz --net vit
    python3 scripts/bench_training.py secateur lenet.onnx train-images-idx3-ubyte.gz --net lenet-300-100

`resnet-20` is the CIFAR network with option-A shortcuts (batch 64, SGD with momentum), `vit` six layers of 128 channels, eight
heads and 65 tokens (batch 64, SGD with momentum), `lenet-300-100` two hidden layers on MNIST (batch 60, Adam). The network is
trained dense and with shares of the weights of each layer zero (`l1`), in turn with PyTorch's dense step, which has no other. A
step is the difference of two runs of different length over their difference in steps, in CPU time: so reading the data and
starting up do not count, and other processes count little. In PyTorch the data are one batch that is there already. Prints medians and the best and worst round.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile

CIFAR = "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --batch 64 --optimizer sgd --lr 0.001"
# What each network is trained with, and the lengths of a short and a long run.
NETS = {
    "resnet-20": (CIFAR, 5, 35),
    "vit": (CIFAR, 5, 25),
    "lenet-300-100": ("--scale 1/255 --batch 60 --optimizer adam --lr 0.0012", 1000, 5000),
}

PYTORCH = """
import sys, torch, torch.nn as nn, torch.nn.functional as F
net, threads, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)

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

class Vit(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 128, 4, 4), nn.Parameter(torch.randn(1, 1, 128))
        self.places = nn.Parameter(torch.randn(1, 65, 128))
        layer = nn.TransformerEncoderLayer(128, 8, 256, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(128), nn.Linear(128, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        return self.head(self.norm(self.layers(x)[:, 0]))

def lenet():
    layers = [nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)]
    return nn.Sequential(*layers)

x, y = torch.randn(64, 3, 32, 32), torch.randint(0, 10, (64,))
if net == "lenet-300-100":
    model, x, y = lenet(), torch.randn(60, 1, 28, 28), y[:60]
    optimizer = torch.optim.Adam(model.parameters(), 0.0012)
else:
    model = ResNet20() if net == "resnet-20" else Vit()
    optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9)
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("secateur")
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--net", choices=NETS, default="resnet-20")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    options, short, long = NETS[args.net]

    def step(command):
        """Milliseconds of CPU time of a step; `command` makes a command line from a number of steps."""
        return (cpu_seconds(command(long)) - cpu_seconds(command(short))) / (long - short) * 1e3

    with tempfile.TemporaryDirectory() as folder:
        versions = {"dense": args.model}
        for share in (50, 80, 90):
            pruned = os.path.join(folder, f"{share}.onnx")
            prune = [args.secateur, "prune", args.model, "-o", pruned, "--method", "l1", "--sparsity", f"{share}%"]
            subprocess.run(prune, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            versions[f"{share} % zeros"] = pruned
        out = os.path.join(folder, "tuned.onnx")

        def secateur(model):
            tail = ["-o", out, "--data", args.data, "--threads", str(args.threads), "--force", *options.split()]
            return lambda steps: [args.secateur, "finetune", model, *tail, "--epochs", f"{steps}it"]

        commands = {name: secateur(model) for name, model in versions.items()}
        if subprocess.run([sys.executable, "-c", "import torch"], stderr=subprocess.DEVNULL).returncode == 0:
            python = [sys.executable, "-c", PYTORCH, args.net, str(args.threads)]
            commands["PyTorch, dense"] = lambda n: [*python, str(n)]
        else:
            print("PyTorch: not timed (this Python has no torch)")
        times = {name: [] for name in commands}
        for _ in range(args.rounds):
            for name, command in commands.items():
                times[name].append(step(command))
    print(f"ms of CPU time a step, {args.threads} thread(s), median (best–worst) of {args.rounds} rounds in turn")
    for name, all_times in times.items():
        median, best, worst = statistics.median(all_times), min(all_times), max(all_times)
        print(f"{name:16} {median:8.3g} ({best:.3g}–{worst:.3g})")


main()
