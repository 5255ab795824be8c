"""Makes the speed tables: dense and pruned networks compared with ONNX Runtime and OpenVINO.

    python scripts/bench_table.py --secateur target/release/secateur -o runs/speed
    python scripts/bench_table.py --secateur … --only resnet50 --batch 1 --rounds 3 -o runs/speed
    python scripts/bench_table.py --secateur … --predictions --sparsity 0.5,0.8,0.9 --batch 1 --threads 1 \\
        --against "" --only resnet50 --also efficientnet-lite0.onnx -o runs/predictions

Exports missing networks with the scripts in this folder (random weights: speed does not depend on their values), runs
`secateur bench` on each, and prints a Markdown table of the speed-up over the fastest other runtime on the dense network.
Existing results of a network are reused. The Python that runs this script also runs the other runtimes. `--predictions`
prints the accuracy of `secateur predict` instead: best time measured, and the forecast in brackets. `--efficiency` adds to
each speed-up (best runs) the share of multiply-adds that remains and the speed-up times that share: 1 = proportional.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
TOKENS = ["--dim", "sequence=128"]

# By name: the title, how the network is exported, how it is pruned, what `secateur bench` needs to know besides.
NETWORKS = {
    "resnet50": ("ResNet-50", ["torchvision_model.py", "resnet50"], "l1+uniform+", []),
    "resnext50": ("ResNeXt-50 32×4d", ["torchvision_model.py", "resnext50_32x4d"], "l1+uniform+", []),
    "bert": ("BERT-base size, 128 tokens", ["bert_encoder.py"], "l1", TOKENS),
    "minilm": ("MiniLM size, 128 tokens", ["bert_encoder.py", "--layers=6", "--width=384"], "l1", TOKENS),
}


def export(name, folder):
    if name not in NETWORKS:
        return pathlib.Path(name)
    path = folder / f"{name}.onnx"
    if not path.exists():
        script, *words = NETWORKS[name][1]
        subprocess.run([sys.executable, HERE / script, *words, path], check=True, stdout=sys.stderr)
    return path


def title(name):
    return NETWORKS[name][0] if name in NETWORKS else pathlib.Path(name).stem


def measure(name, model, options):
    folder = options.output / model.stem
    results = folder / "bench.json"
    if not results.exists():
        command = [options.secateur, "bench", model, "--sparsity", options.sparsity]
        command += ["--against", options.against] if options.against else []
        command += ["--batch", options.batch, "--threads", options.threads, "--rounds", options.rounds, "-o", folder]
        method, more = NETWORKS[name][2:] if name in NETWORKS else ("l1", [])
        command += ["--method", options.method or method, *more, *options.bench.split()]
        command = [str(word) for word in command]
        environment = {**os.environ, "SECATEUR_PYTHON": sys.executable}
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    return json.loads(results.read_text())


def environment(bench):
    runtimes = ", ".join(f"{runtime['name']} {runtime['version']}" for runtime in bench["runtimes"])
    return f"{runtimes}; {bench['precision']}, {bench['instruction_set']}; {bench['cpu']}, {bench['cores']} cores"


def cell(timing, version, options):
    if options.efficiency:
        speedup, left = timing["speedup_best"], version["macs"]
        return f"{speedup:.2f}×" + (f" ({left * 100:.0f} %: {speedup * left:.2f})" if version["method"] else "")
    if not options.predictions:
        return f"{timing['speedup_best']:.2f}× / {timing['speedup_median']:.2f}×"
    best = f"{timing['latency']['best'] * 1e3:.1f} ms"
    guess = timing.get("predicted")
    return f"{best} ({guess['seconds'] * 1e3:.1f}, {guess['off'] * 100:+.0f} %)" if guess else best


def rows(title, bench, options):
    native = [timing for timing in bench["timings"] if timing["runtime"] == "secateur"]
    for batch, threads in dict.fromkeys((timing["batch"], timing["threads"]) for timing in native):
        timings = [timing for timing in native if (timing["batch"], timing["threads"]) == (batch, threads)]
        cells = [cell(timing, bench["versions"][timing["version"]], options) for timing in timings]
        yield f"| {title} | {batch} | {threads} | {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--secateur", default="secateur", help="the command (default: the one on the path)")
    parser.add_argument("--exports", type=pathlib.Path, help="where the networks are or will be (default: OUTPUT)")
    parser.add_argument("--only", choices=NETWORKS, action="append", help="these networks; all by default")
    parser.add_argument("--also", action="append", default=[], help="other networks: ONNX files, pruned by l1")
    parser.add_argument("--predictions", action="store_true", help="how close predictions came, not speed-ups")
    parser.add_argument("--efficiency", action="store_true", help="speed-ups against multiply-adds left")
    parser.add_argument("--method", help="how all networks are pruned, such as l1@global")
    parser.add_argument("--bench", default="", help="more options of `secateur bench`, such as '--dim N=1'")
    parser.add_argument("--against", default="onnxruntime,openvino")
    parser.add_argument("--sparsity", default="0.5,0.8,0.9,0.95")
    parser.add_argument("--batch", default="1,16")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="a folder for the results")
    options = parser.parse_args()
    exports = options.exports or options.output
    for folder in (exports, options.output):
        folder.mkdir(parents=True, exist_ok=True)

    lines, notes = [], []
    for name in [*(options.only or NETWORKS), *options.also]:
        bench = measure(name, export(name, exports), options)
        lines += rows(title(name), bench, options)
        notes += [environment(bench), *bench["notes"]]
    levels = [f"{float(share) * 100:g} %" for share in options.sparsity.split(",")]
    if options.predictions:
        print("Best run, and what was predicted of it from the network as it is.\n")
    elif options.efficiency:
        print("Speed-up over the fastest other runtime on the dense network; in brackets the multiply-adds left, and")
        print("the speed-up times them.\n")
    else:
        print("Speed-up over the fastest other runtime on the dense network: of the best runs / of the medians.\n")
    print(f"| network | batch | threads | dense | {' | '.join(levels)} |")
    print("|---|" + "---:|" * (len(levels) + 3))
    print("\n".join(lines))
    print()
    print("\n".join(dict.fromkeys(notes)))


if __name__ == "__main__":
    main()
