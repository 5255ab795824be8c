"""Helpers of the plotting scripts: the style of secateur's own figures, and measuring or reading results."""

import json
import pathlib

import matplotlib
from matplotlib import font_manager

TEXT, MUTED, AXIS, GRID = "#1b1f24", "#5b6470", "#8d96a1", "#e7eaee"
BLUE, ORANGE, GREEN, VIOLET = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
FONTS = pathlib.Path(__file__).resolve().parent.parent / "crates/secateur-report/src/draw/font"


def font(weight, size):
    return font_manager.FontProperties(fname=FONTS / f"inter-{weight}.otf", size=size)


def frame(axes, title, pad, unit):
    """The title above, with room for a legend below it, the unit at the right, and lines across."""
    axes.set_title(title, loc="left", color=TEXT, fontsize=11, pad=pad)
    axes.set_xlabel(unit, loc="right", color=MUTED, fontsize=9)
    axes.grid(axis="y", color=GRID, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=9, length=0)
    for side in ("left", "top", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(AXIS)


def main(parser, name, measure, table, draw):
    """Measures into NAME.json unless told only to draw; prints the table of what it says and draws NAME.png."""
    parser.add_argument("--only-draw", action="store_true", help="measure nothing")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    results = options.output / f"{name}.json"
    if not options.only_draw:
        results.write_text(json.dumps(measure(options), indent=1) + "\n")
    found = json.loads(results.read_text())
    print("\n".join(table(found)))
    font_manager.fontManager.addfont(FONTS / "inter-regular.otf")
    matplotlib.rcParams["font.family"] = ["Inter", "DejaVu Sans"]
    draw(found, options.output / f"{name}.png")
