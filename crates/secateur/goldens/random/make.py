"""Writes random.json: which weights the criterion `random` prunes, by another implementation.

    python make.py

The draw at position i of a tensor is SplitMix64's output for the state
stream + (i + 1) * STEP; the stream is the mixed seed xor FNV-1a of the tensor's
path. The lowest draws go, of equal ones the lower position.
"""

import json
import pathlib

MASK = (1 << 64) - 1
STEP = 0x9E3779B97F4A7C15


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def fnv1a(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return h


def draws(seed, path, size):
    stream = mix((seed + STEP) & MASK) ^ fnv1a(path.encode())
    return [mix((stream + (i + 1) * STEP) & MASK) for i in range(size)]


def main():
    cases = []
    for seed, path, size, count in [
        (0, "w", 24, 12),
        (0, "layer1.0.conv1.weight", 60, 7),
        (1, "layer1.0.conv1.weight", 60, 7),
        (2**64 - 1, "ünïcode::weight", 40, 33),
    ]:
        scores = draws(seed, path, size)
        order = sorted(range(size), key=lambda i: (scores[i], i))
        cases.append({"seed": seed, "path": path, "size": size, "pruned": sorted(order[:count])})
    lines = ",\n".join("  " + json.dumps(case, ensure_ascii=False) for case in cases)
    (pathlib.Path(__file__).parent / "random.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
