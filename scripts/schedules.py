#!/usr/bin/env python3
"""Compares pruning schedules at equal length: a network is pruned and trained by each, over several seeds.

    python3 scripts/schedules.py resnet20.onnx --secateur target/release/secateur -o runs/schedules \
        --train "--data data_batch_1.bin.gz data_batch_2.bin.gz --epochs 10ep --flip --pad 4" --test test_batch.bin.gz \
        --data "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225" --sparsity 0.8,0.9 --jobs 2

Each training is one `secateur finetune`, kept in the output folder: a stopped comparison goes on where it was. The test images are
run through ONNX Runtime, not through secateur. Prints top-1 accuracy after the last epoch, the mean over the seeds with their least
and greatest, and the difference from the first schedule with its standard error over the test images, paired: for each image, the
share of seeds that are right under one schedule less that under the other.
"""

import argparse
import concurrent.futures
import gzip
import pathlib
import shlex
import subprocess

import numpy
import onnxruntime


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--secateur", default="secateur", help="the command (default: the one on the path)")
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="a folder for the trained networks")
    parser.add_argument("--train", required=True, help="options of `secateur finetune`: data and training")
    parser.add_argument("--data", default="", help="options of preprocessing, with --mean and --std")
    parser.add_argument("--test", type=pathlib.Path, required=True, help="test images in CIFAR-10's binary layout, gzipped or not")
    parser.add_argument("--method", default="l1@global")
    parser.add_argument("--sparsity", default="0.8,0.9")
    parser.add_argument("--schedules", default="one-shot,iterative,cubic")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="how many trainings run at a time, of one thread each")
    return parser.parse_args()


def images(path, words):
    """Test images, standardised as secateur does it, and their labels."""
    raw = path.read_bytes()
    records = numpy.frombuffer(gzip.decompress(raw) if path.suffix == ".gz" else raw, numpy.uint8).reshape(-1, 3073)
    values = {word: [float(v) for v in words[i + 1].split(",")] for i, word in enumerate(words) if word in ("--mean", "--std")}
    mean, std = (numpy.array(values[word], numpy.float32).reshape(1, 3, 1, 1) for word in ("--mean", "--std"))
    pixels = records[:, 1:].reshape(-1, 3, 32, 32).astype(numpy.float32) / 255
    return (pixels - mean) / std, records[:, 0]


def right(path, pixels, labels):
    """Which images a network classifies correctly."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    outputs = [session.run(None, {name: pixels[i : i + 100]})[0] for i in range(0, len(pixels), 100)]
    return numpy.concatenate(outputs).argmax(1) == labels


def train(found, schedule, sparsity, seed):
    output = found.output / f"{schedule}-{sparsity}-{seed}.onnx"
    if not output.exists():
        command = [found.secateur, "finetune", found.model, "-o", output, "--threads", 1, "--seed", seed, "--quiet"]
        command += ["--schedule", schedule, "--method", found.method, "--sparsity", sparsity]
        command += shlex.split(found.train) + shlex.split(found.data)
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    return output


def main():
    found = options()
    found.output.mkdir(parents=True, exist_ok=True)
    schedules, sparsities = found.schedules.split(","), found.sparsity.split(",")
    runs = [(schedule, sparsity, seed) for sparsity in sparsities for seed in range(found.seeds) for schedule in schedules]
    with concurrent.futures.ThreadPoolExecutor(found.jobs) as pool:
        paths = dict(zip(runs, pool.map(lambda run: train(found, *run), runs)))
    pixels, labels = images(found.test, shlex.split(found.data))
    correct = {run: right(path, pixels, labels) for run, path in paths.items()}
    print(f"unpruned: {100 * right(found.model, pixels, labels).mean():.1f} %\n")
    print(f"| zeros | schedule | top-1, mean of {found.seeds} seeds | least–greatest | against {schedules[0]} |")
    print("|---|---|---:|---:|---:|")
    for sparsity in sparsities:
        first = None
        for schedule in schedules:
            seeds = numpy.array([correct[schedule, sparsity, seed] for seed in range(found.seeds)])
            each, mean = 100 * seeds.mean(1), seeds.mean(0)
            first = mean if first is None else first
            paired = 100 * (mean - first)
            error = paired.std(ddof=1) / len(paired) ** 0.5
            difference = f"{paired.mean():+.1f} ± {error:.1f}" if schedule != schedules[0] else ""
            print(f"| {float(sparsity):.0%} | `{schedule}` | {each.mean():.1f} % | {each.min():.1f}–{each.max():.1f} % | {difference} |")


if __name__ == "__main__":
    main()
