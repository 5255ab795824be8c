"""Plots file sizes, memory and loading time against sparsity.

    python scripts/storage_picture.py --secateur target/release/secateur -o runs/storage resnet50.onnx \
        --method l1 --bench "--threads 1"

The model is pruned to each sparsity and packed; sizes, memory and loading time are measured as in storage_table.py. Writes
storage.json (all numbers), storage.png, and the last pruned and packed model, and prints a Markdown table. `--only-draw`
redraws storage.json.
"""

from matplotlib import pyplot

import picture
import storage_table
from picture import AXIS, BLUE, GREEN, ORANGE, TEXT, VIOLET, font

SHARES = "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,0.95"


def measure(options):
    points = []
    for share in options.sparsity.split(","):
        pruned, packed = storage_table.prune_and_pack(options, options.method, share, "last")
        point = {"sparsity": float(share), "bytes": storage_table.sizes(options, pruned)}
        for kind, path in (("zeros", pruned), ("packed", packed)):
            seconds, memory = storage_table.loading(options, path)
            point[kind] = {"file": path.stat().st_size, "load_seconds": seconds, "memory": memory}
        points.append(point)
    return {"model": options.model.name, "method": options.method, "points": points}


def table(found):
    titles = ["file", "gzip", "zstd", "packed", "entropy bound", "memory", "memory, packed", "loading", "loading, packed"]
    yield f"| `{found['method']}` | {' | '.join(titles)} |"
    yield "|---:|" + "---:|" * len(titles)
    for point in found["points"]:
        kinds = (point["zeros"], point["packed"])
        cells = [storage_table.megabytes(point["bytes"][kind]) for kind in storage_table.SIZES]
        cells += [storage_table.megabytes(kind["memory"]) for kind in kinds]
        cells += [f"{kind['load_seconds'] * 1e3:.0f} ms" for kind in kinds]
        yield f"| {point['sparsity'] * 100:g} % | {' | '.join(cells)} |"


def panel(axes, title, unit, lines):
    """One panel: its lines are (name, colour, marker or how it is dashed, shares, values)."""
    picture.frame(axes, title, 32, "zeros, % of the selected weights")
    for name, colour, style, shares, values in lines:
        axes.plot(shares, values, style, color=colour, label=name, linewidth=1.8, markersize=4.5, clip_on=False, zorder=3)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 0.99),
        ncols=5 if len(lines) > 2 else 2,
        frameon=False,
        labelcolor="linecolor",
        prop=font("semibold", 8.5),
        handlelength=1.6,
        handletextpad=0.5,
        columnspacing=1.0,
        borderpad=0.2,
    )
    axes.set_xlim(0, 100)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.03)
    axes.set_xticks([0, 50, 100])
    axes.locator_params(axis="y", nbins=4)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}" if value == 0 else f"{value:g} {unit}")
    axes.tick_params(axis="x", length=3, color=AXIS)
    axes.tick_params(axis="y", pad=7)


def draw(found, path):
    points = found["points"]
    shares = [point["sparsity"] * 100 for point in points]

    def line(name, colour, style, value):
        values = [value(point) for point in points]
        return name, colour, style, shares, [float("nan") if number is None else number for number in values]

    def both(value):
        zeros = line("file with zeros", ORANGE, "s-", lambda point: value(point["zeros"]))
        return [zeros, line("packed file", BLUE, "o-", lambda point: value(point["packed"]))]

    def size(name, colour, style, kind):
        return line(name, colour, style, lambda point: point["bytes"][kind] / 1e6)

    figure, (files, memory, seconds) = pyplot.subplots(1, 3, figsize=(11.4, 3.9), width_ratios=(1.3, 1, 1))
    title = f"What zeros save: {found['model']} pruned by {found['method']}"
    figure.suptitle(title, x=0.012, y=0.985, ha="left", color=TEXT, fontproperties=font("semibold", 13))
    lines = [
        size("with zeros", ORANGE, "s-", "raw"),
        size("gzip", GREEN, "^-", "gzip"),
        size("zstd", VIOLET, "D-", "zstd"),
        size("packed", BLUE, "o-", "packed"),
        size("bound", TEXT, ":", "entropy"),
    ]
    panel(files, "size of the file", "MB", lines)

    def megabytes(kind):
        return None if kind["memory"] is None else kind["memory"] / 1e6

    panel(memory, "memory to load and run", "MB", both(megabytes))
    panel(seconds, "time to load and first run", "ms", both(lambda kind: kind["load_seconds"] * 1e3))
    figure.tight_layout(rect=(0, 0, 1, 0.98), w_pad=2.5)
    figure.savefig(path, dpi=150)


def main():
    parser = storage_table.arguments(__doc__.splitlines()[0])
    parser.add_argument("--method", default="l1")
    parser.add_argument("--sparsity", default=SHARES, metavar="SHARES", help=f"default: {SHARES}")
    picture.main(parser, "storage", measure, table, draw)


if __name__ == "__main__":
    main()
