"""Tabulates file sizes, loading time, memory and latency of a model pruned in several ways.

    python scripts/storage_table.py --secateur target/release/secateur -o runs/storage tiles.onnx \
        l1=0.4 l1@global=0.8
    python scripts/storage_table.py … -o runs/lite0 efficientnet-lite0.onnx l1=0.3 l1@global=0.3 --prune "--ops Conv" \
        --eval "--data photographs/ --resize 256 --filter bicubic --crop 224 --mean 0.5 --std 0.5"

For each method=sparsity, the model is pruned, packed, and timed together with the dense model in one run of `secateur
bench`; the table is in Markdown. Loading and memory are measured in separate processes, several per file: the fastest
loading, and the median growth of the process's peak while the model was loaded and first run. `--eval` adds columns for
loss and accuracy, `--values` adds rows for models packed as f16 or int8.
"""

import argparse
import json
import pathlib
import shlex
import statistics
import subprocess

SIZES = ("raw", "gzip", "zstd", "packed", "entropy")
MEASURES = {"cross-entropy": "loss", "top1": "top-1", "top5": "top-5"}


def arguments(description):
    """A parser with the options that the table and the picture share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--secateur", default="secateur", help="the command (default: the one on the path)")
    parser.add_argument("--prune", default="", help="more options of `secateur prune`, such as '--ops Conv'")
    parser.add_argument("--bench", default="", help="more options of `secateur bench`, such as '--threads 1'")
    parser.add_argument("--loads", type=int, default=3, help="processes that load each model (default: 3)")
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="a folder for the files")
    return parser


def run(options, *words):
    command = [options.secateur, *map(str, words), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def prune_and_pack(options, method, share, stem):
    """The model pruned, and that packed, as files in the output's folder."""
    pruned, packed = (options.output / f"{stem}-{kind}.onnx" for kind in ("pruned", "packed"))
    prune = ["prune", options.model, "-o", pruned, "--method", method, "--sparsity", share, "--force"]
    run(options, *prune, *shlex.split(options.prune))
    run(options, "pack", pruned, "-o", packed, "--force")
    return pruned, packed


def sizes(options, path):
    return run(options, "inspect", path, "--sizes")["bytes"]


def loading(options, path):
    """Seconds to load a model and run it once, and by how many bytes that raised the process's peak."""
    rounds = [] if "--rounds" in options.bench else ["--rounds", 1]
    bench = ["bench", path, *rounds, *shlex.split(options.bench)]
    timings = [run(options, *bench)["timings"][0] for _ in range(options.loads)]
    grown = [timing["memory"] for timing in timings if timing["memory"] is not None]
    return min(timing["load_seconds"] for timing in timings), statistics.median(grown) if grown else None


def megabytes(count):
    return "" if count is None else f"{count / 1e6:.1f} MB"


def milliseconds(seconds):
    return f"{seconds * 1e3:.1f}" if seconds >= 1e-3 else f"{seconds * 1e3:.3f}"


def evaluated(options, path):
    """The measures of a model on data, as cells by their titles."""
    cells = {}
    for measure in run(options, "eval", path, *shlex.split(options.eval))["measures"]:
        mean, error = float(measure["value"]), float(measure["standard_error"])
        share = measure["name"] in ("top1", "top5")
        title = MEASURES.get(measure["name"], measure["name"])
        cells[title] = f"{mean * 100:.1f} ± {error * 100:.1f} %" if share else f"{mean:.3f} ± {error:.3f}"
    return cells


def main():
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("pruned", nargs="+", metavar="METHOD=SHARE")
    parser.add_argument("--eval", default="", help="options of `secateur eval`: adds columns of loss and accuracy")
    parser.add_argument("--values", default="", help="pack with these values, too: f16,int8")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)

    files = [("dense", options.model)]
    for number, word in enumerate(options.pruned):
        method, share = word.rsplit("=", 1)
        pruned, packed = prune_and_pack(options, method, share, number)
        title = f"`{method}` {float(share) * 100:g} %"
        files += [(title, pruned), (f"{title}, packed", packed)]
        for values in filter(None, options.values.split(",")):
            rounded = options.output / f"{number}-{values}.onnx"
            run(options, "pack", pruned, "-o", rounded, "--values", values, "--force")
            files.append((f"{title}, packed as {values}", rounded))
    bench = run(options, "bench", *(path for _, path in files), *shlex.split(options.bench))

    columns = ["file", "gzip", "zstd", "packed", "entropy bound", "loading", "memory", "latency, best / median"]
    rows = []
    for (title, path), timing in zip(files, bench["timings"]):
        size = sizes(options, path)
        seconds, memory = loading(options, path)
        latency = timing["latency"]
        cells = [megabytes(size[kind]) for kind in SIZES]
        cells += [f"{seconds * 1e3:.0f} ms", megabytes(memory)]
        cells += [f"{milliseconds(latency['best'])} / {milliseconds(latency['median'])} ms"]
        measures = evaluated(options, path) if options.eval else {}
        rows.append((title, measures, cells))
    measures = list(dict.fromkeys(measure for _, found, _ in rows for measure in found))
    print(f"| model | {' | '.join(measures + columns)} |")
    print("|---|" + "---:|" * len(measures + columns))
    for title, found, cells in rows:
        print(f"| {title} | {' | '.join([found.get(measure, '') for measure in measures] + cells)} |")


if __name__ == "__main__":
    main()
