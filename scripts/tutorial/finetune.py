"""Fine-tunes a pruned checkpoint in PyTorch with fixed masks, and exports the result.

    python finetune.py masked.pth 'data_batch_*.bin' --epochs 4 -o tuned

The files may be gzipped (.bin.gz). Writes tuned.pth (weights with zeros, no masks) and tuned.onnx. SGD with momentum and a
learning rate that decays to 0 along a cosine; images are padded, cropped and mirrored, as in He et al. 2015.
"""

import argparse
import glob
import gzip
import pathlib

import numpy
import torch
from torch.nn import functional as F
from torch.nn.utils import prune

import resnet

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def files(pattern):
    """The files of a name or pattern, as they are or gzipped."""
    found = sorted(glob.glob(pattern)) or sorted(glob.glob(f"{pattern}.gz"))
    if not found:
        raise SystemExit(f"{pattern}: no such file, nor one with the ending .gz")
    return [pathlib.Path(name) for name in found]


def read(path):
    """A file of CIFAR-10's binary version: a label and 3 × 32 × 32 pixels for each image."""
    data = path.read_bytes()
    rows = numpy.frombuffer(gzip.decompress(data) if path.suffix == ".gz" else data, numpy.uint8).reshape(-1, 3073)
    images = torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32).copy()).float() / 255
    return (images - MEAN) / STD, torch.from_numpy(rows[:, 0].astype(numpy.int64))


def augmented(images):
    """Each image moved by up to 4 pixels, and mirrored half of the time."""
    padded = F.pad(images, (4, 4, 4, 4))
    moved = torch.empty_like(images)
    for n, (y, x) in enumerate(torch.randint(0, 9, (len(images), 2)).tolist()):
        moved[n] = padded[n, :, y : y + 32, x : x + 32]
    mirrored = torch.rand(len(images)) < 0.5
    moved[mirrored] = moved[mirrored].flip(3)
    return moved


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("-o", "--output", default="tuned")
    options = parser.parse_args()
    torch.manual_seed(0)
    batches = [read(path) for pattern in options.data for path in files(pattern)]
    images, labels = (torch.cat(parts) for parts in zip(*batches))
    model = resnet.load(options.checkpoint).train()
    optimizer = torch.optim.SGD(model.parameters(), options.rate, momentum=0.9, nesterov=True, weight_decay=1e-4)
    steps = options.epochs * (len(images) // options.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(options.epochs):
        total = 0.0
        order = torch.randperm(len(images))
        for start in range(0, len(images) - options.batch + 1, options.batch):
            chosen = order[start : start + options.batch]
            loss = F.cross_entropy(model(augmented(images[chosen])), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / (len(images) // options.batch):.4f}", flush=True)
    for module in list(model.modules()):
        if prune.is_pruned(module) and hasattr(module, "weight_mask"):
            prune.remove(module, "weight")
    torch.save(model.state_dict(), f"{options.output}.pth")
    resnet.export(model, f"{options.output}.onnx")


if __name__ == "__main__":
    main()
