"""Makes the table of what zeros save: file sizes, loading, memory and latency of a model pruned in several ways.

    python scripts/storage_table.py --secateur target/release/secateur -o runs/storage article.onnx \
        l1=0.4 l1@global=0.8

Each method=share is pruned, packed and timed beside the dense model, all in one run of `secateur bench`; the table
is in Markdown. Memory is how far the process's peak grew while the model was loaded and first run.
"""

import argparse
import json
import pathlib
import subprocess


def run(options, *words):
    command = [options.secateur, *map(str, words), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def megabytes(count):
    return f"{count / 1e6:.1f} MB"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("pruned", nargs="+", metavar="METHOD=SHARE")
    parser.add_argument("--secateur", default="secateur", help="the command (default: the one on the path)")
    parser.add_argument("--prune", default="", help="more options of `secateur prune`, such as '--ops Conv'")
    parser.add_argument("--bench", default="", help="more options of `secateur bench`, such as '--threads 1'")
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="a folder for the files")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)

    files = [("dense", options.model)]
    for number, word in enumerate(options.pruned):
        method, share = word.split("=")
        pruned, packed = (options.output / f"{number}-{kind}.onnx" for kind in ("pruned", "packed"))
        prune = ["prune", options.model, "-o", pruned, "--method", method, "--sparsity", share, "--force"]
        run(options, *prune, *options.prune.split())
        run(options, "pack", pruned, "-o", packed, "--force")
        files += [(f"{method} {float(share):.0%}", pruned), (f"{method} {float(share):.0%}, packed", packed)]
    bench = run(options, "bench", *(path for _, path in files), *options.bench.split())

    print("| model | file | gzip | zstd | packed | entropy bound | loading | memory | latency, best / median |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for (title, path), timing in zip(files, bench["timings"]):
        sizes = run(options, "inspect", path, "--sizes")["bytes"]
        latency = f"{timing['latency']['best'] * 1e3:.1f} / {timing['latency']['median'] * 1e3:.1f} ms"
        size = " | ".join(megabytes(sizes[kind]) for kind in ("raw", "gzip", "zstd", "packed", "entropy"))
        memory = megabytes(timing["memory"]) if timing["memory"] is not None else ""
        print(f"| {title} | {size} | {timing['load_seconds'] * 1e3:.0f} ms | {memory} | {latency} |")


if __name__ == "__main__":
    main()
