"""Plots accuracy against latency and file size: a dense model, pruned ones, and other runtimes.

    python scripts/operating_points.py --secateur target/release/secateur -o runs/points \
        dense=resnet56.onnx "80 % zeros=tuned-0.8.onnx" "90 % zeros=tuned-0.9.onnx" \
        --eval "--recipe cifar.toml" --bench "--threads 1"

The first model is the dense one. All are evaluated, packed, and timed in one run of `secateur bench`, interleaved with ONNX
Runtime and OpenVINO; these run the same file, so their accuracy is secateur's. Writes points.json (all numbers) and
points.png, and prints a Markdown table. `--only-draw` redraws points.json.
"""

import argparse
import json
import os
import pathlib
import shlex
import subprocess
import sys

from matplotlib import pyplot

import picture
from picture import BLUE, GREEN, ORANGE, font

COLOURS = {"secateur": BLUE, "ONNX Runtime": ORANGE, "OpenVINO": GREEN}


def run(options, *words):
    command = [str(word) for word in (options.secateur, *words, "--json")]
    environment = {**os.environ, "SECATEUR_PYTHON": sys.executable}
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout)


def measure(options):
    points = []
    for number, word in enumerate(options.models):
        title, path = word.rsplit("=", 1)
        packed = options.output / f"{number}-packed.onnx"
        run(options, "pack", path, "-o", packed, "--force")
        measures = run(options, "eval", path, *shlex.split(options.eval))["measures"]
        top1 = next(found for found in measures if found["name"] == "top1")
        sizes = {"file": pathlib.Path(path).stat().st_size, "packed": packed.stat().st_size}
        point = {"title": title, "path": path, "top1": top1["value"], "error": top1["standard_error"], "bytes": sizes}
        points.append(point)
    against = ["--against", options.against] if options.against else []
    bench = run(options, "bench", *(point["path"] for point in points), *against, *shlex.split(options.bench))
    for point, version in zip(points, range(len(points))):
        timings = [timing for timing in bench["timings"] if timing["version"] == version]
        point["latency"] = {timing["runtime"]: timing["latency"] for timing in timings}
    runtimes = {runtime["name"]: runtime["version"] for runtime in bench["runtimes"]}
    return {"points": points, "cpu": bench["cpu"], "threads": bench["timings"][0]["threads"], "runtimes": runtimes}


def table(found):
    runtimes = list(found["points"][0]["latency"])
    yield f"| model | top-1 | file | packed | {' | '.join(f'{name}, best / median' for name in runtimes)} |"
    yield "|---|" + "---:|" * (3 + len(runtimes))
    for point in found["points"]:
        cells = [f"{point['top1'] * 100:.1f} ± {point['error'] * 100:.1f} %"]
        cells += [f"{point['bytes'][kind] / 1e6:.2f} MB" for kind in ("file", "packed")]
        for name in runtimes:
            times = point["latency"].get(name)
            cells.append(f"{times['best'] * 1e3:.2f} / {times['median'] * 1e3:.2f} ms" if times else "")
        yield f"| {point['title']} | {' | '.join(cells)} |"


def panel(axes, title, unit):
    picture.frame(axes, title, 30, unit)
    axes.set_xlim(0, axes.get_xlim()[1] * 1.12)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")


def line(axes, points, values, colour, name, style):
    accuracies = [point["top1"] * 100 for point in points]
    axes.plot(values, accuracies, style, color=colour, label=name, linewidth=1.6, markersize=6, zorder=3)


def labels(axes, points, values, colour):
    for number, (point, value) in enumerate(zip(points, values)):
        place = {"xytext": (9, -13) if number else (0, 9), "textcoords": "offset points", "ha": "left" if number else "center"}
        axes.annotate(point["title"], (value, point["top1"] * 100), color=colour, fontsize=8.5, **place)


def draw(found, path):
    points = found["points"]
    figure, (time, size) = pyplot.subplots(1, 2, figsize=(11.4, 4.2), sharey=True)
    for name in points[0]["latency"]:
        values = [point["latency"][name]["median"] * 1e3 for point in points]
        version = f" {found['runtimes'][name]}" if name in found["runtimes"] else ""
        line(time, points, values, COLOURS[name], name + version, "o-" if name == "secateur" else "s--")
        if name == "secateur":
            labels(time, points, values, COLOURS[name])
    for kind, colour, style in (("file", ORANGE, "s--"), ("packed", BLUE, "o-")):
        values = [point["bytes"][kind] / 1e6 for point in points]
        line(size, points, values, colour, {"file": "file with zeros", "packed": "packed file"}[kind], style)
        if kind == "packed":
            labels(size, points, values, colour)
    low = min(point["top1"] - 2 * point["error"] for point in points) * 100
    high = max(point["top1"] + 2 * point["error"] for point in points) * 100
    time.set_ylim(low, high + 0.2 * (high - low))
    threads = f"{found['threads']} thread{'s' if found['threads'] > 1 else ''}"
    panel(time, "top-1 accuracy against latency", f"median, ms, batch 1, {threads}")
    panel(size, "top-1 accuracy against file size", "MB")
    for axes in (time, size):
        legend = {"loc": "lower left", "bbox_to_anchor": (-0.02, 0.99), "ncols": 3, "frameon": False}
        axes.legend(labelcolor="linecolor", prop=font("semibold", 8.5), handlelength=1.6, **legend)
    figure.tight_layout(w_pad=2.5)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="TITLE=MODEL")
    parser.add_argument("--secateur", default="secateur", help="the command (default: the one on the path)")
    parser.add_argument("--eval", default="", help="options of `secateur eval`: the data")
    parser.add_argument("--bench", default="", help="options of `secateur bench`, such as '--threads 1'")
    parser.add_argument("--against", default="onnxruntime,openvino")
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="a folder for the results")
    picture.main(parser, "points", measure, table, draw)


if __name__ == "__main__":
    main()
