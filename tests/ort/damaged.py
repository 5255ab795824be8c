"""Compares the outputs of damaged models with ONNX Runtime's.

    python damaged.py FOLDER [--tolerance 1e-3]

FOLDER is what `secateur-structure outputs` writes: NAME.m.onnx, its inputs NAME.x.npz and our outputs NAME.y.npz.
Only files that both accept are compared. ONNX Runtime runs in a child process, so that one it does not survive is
left out. Prints a line for each that differs, and counts; exit code 0 only if none does.
"""

import argparse
import collections
import multiprocessing
import pathlib
import sys

import common
import compare
import numpy as np


def load(path):
    return dict(np.load(path)) if path.exists() else {}


def one(stem, tolerance):
    """None where ONNX Runtime refuses the model, else the outputs that differ."""
    try:
        run = common.session(f"{stem}.m.onnx", 1)
        given = load(pathlib.Path(f"{stem}.x.npz"))
        wanted = {info.name for info in run.get_inputs()}
        names = [output.name for output in run.get_outputs()]
        theirs = run.run(names, {name: array for name, array in given.items() if name in wanted})
    except Exception:
        return None
    ours = load(pathlib.Path(f"{stem}.y.npz"))
    rows = []
    for name, expected in zip(names, theirs):
        # Outputs of types that numpy does not have are not written.
        if name in ours and isinstance(expected, np.ndarray):
            row = compare.compare(ours[name], expected, tolerance)
            if not row["within"]:
                rows.append({"output": name} | row)
    return rows


def work(stems, tolerance, pipe):
    for stem in stems:
        pipe.send((stem, "starts"))
        pipe.send((stem, one(stem, tolerance)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    stems = sorted(str(path)[: -len(".y.npz")] for path in options.folder.glob("*.y.npz"))
    counts = collections.Counter()
    while stems:
        ours, theirs = multiprocessing.Pipe()
        child = multiprocessing.Process(target=work, args=(stems, options.tolerance, theirs), daemon=True)
        child.start()
        theirs.close()
        at = None
        try:
            while ours.poll(options.seconds):
                stem, result = ours.recv()
                if result == "starts":
                    at = stem
                    continue
                stems.remove(stem)
                at = None
                counts["refused" if result is None else "differ" if result else "equal"] += 1
                for row in result or []:
                    print(f"{stem}: {row}", flush=True)
                if not stems:
                    break
        except EOFError:
            pass
        child.kill()
        child.join()
        if at is not None:
            stems.remove(at)
            counts["not survived"] += 1
    print(dict(counts))
    sys.exit(1 if counts["differ"] else 0)


if __name__ == "__main__":
    main()
