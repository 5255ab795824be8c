"""Draws what zeros save against their share: file sizes, memory to load and run, loading time.

    python scripts/storage_picture.py --secateur target/release/secateur -o runs/storage resnet50.onnx \
        --method l1 --bench "--threads 1"

The model is pruned to each share and packed; sizes, memory and loading are measured as storage_table.py does. The
folder gets storage.json with all figures, storage.png, and the last pruned and packed model; the table is printed in
Markdown. `--only-draw` draws storage.json again.
"""

import json
import pathlib

import matplotlib
from matplotlib import font_manager, pyplot

import storage_table

# The colours and the typeface of secateur's own pictures.
TEXT, MUTED, AXIS, GRID = "#1b1f24", "#5b6470", "#8d96a1", "#e7eaee"
BLUE, ORANGE, GREEN, VIOLET, AMBER = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"
FONTS = pathlib.Path(__file__).resolve().parent.parent / "crates/secateur/src/report/draw/font"
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


def font(weight, size):
    return font_manager.FontProperties(fname=FONTS / f"inter-{weight}.otf", size=size)


def panel(axes, title, unit, lines):
    """One panel: its lines are (name, colour, marker or how it is dashed, shares, values)."""
    axes.set_title(title, loc="left", color=TEXT, fontsize=11, pad=32)
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
    axes.set_xlabel("zeros, % of the selected weights", loc="right", color=MUTED, fontsize=9)
    axes.grid(axis="y", color=GRID, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=9, length=0)
    axes.tick_params(axis="x", length=3, color=AXIS)
    axes.tick_params(axis="y", pad=7)
    for side in ("left", "top", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(AXIS)


def draw(found, path):
    font_manager.fontManager.addfont(FONTS / "inter-regular.otf")
    matplotlib.rcParams["font.family"] = ["Inter", "DejaVu Sans"]
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
    parser.add_argument("--only-draw", action="store_true", help="measure nothing")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    results = options.output / "storage.json"
    if not options.only_draw:
        results.write_text(json.dumps(measure(options), indent=1) + "\n")
    found = json.loads(results.read_text())
    print("\n".join(table(found)))
    draw(found, options.output / "storage.png")


if __name__ == "__main__":
    main()
