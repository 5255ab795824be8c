"""Compares outputs with ONNX Runtime's on the same inputs.

    python compare.py MODEL INPUTS OURS [--tolerance 1e-4] [--threads N]

INPUTS and OURS are folders with one .npy per tensor, named by the percent-encoded
tensor name or by its index in graph order. Prints JSON: what onnx's checker says of the
model, and per output the shapes, max|a-b|, max|b| (b is ONNX Runtime's), their ratio
and whether it is within tolerance * max|b|; outputs that are not of a floating type have
to be equal. Exit code 0 only if the model is valid and every output is within.
"""

import argparse
import json
import sys

import numpy as np

import common


def compare(ours, theirs, tolerance):
    row = {"shape": list(ours.shape), "dtype": str(ours.dtype)}
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return row | {"expected_shape": list(theirs.shape), "expected_dtype": str(theirs.dtype), "within": False}
    if not np.issubdtype(theirs.dtype, np.floating):
        different = int((ours != theirs).sum())
        return row | {"different": different, "within": different == 0}
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    finite = np.isfinite(b)
    # What is not finite has to be the same value, NaN where NaN is.
    odd = int((~np.isclose(a[~finite], b[~finite], equal_nan=True)).sum()) + int((~np.isfinite(a[finite])).sum())
    if odd:
        return row | {"different_non_finite": odd, "within": False}
    difference = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    largest = float(np.abs(b[finite]).max(initial=0.0))
    return row | {
        "max_difference": difference,
        "max_expected": largest,
        "ratio": difference / largest if largest else (0.0 if difference == 0 else None),
        "within": difference <= tolerance * largest,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("inputs")
    parser.add_argument("ours")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()

    report = {"model": options.model, "checker": common.check(options.model), "outputs": []}
    run = common.session(options.model, options.threads)
    names = [output.name for output in run.get_outputs()]
    for index, (name, theirs) in enumerate(zip(names, run.run(names, common.read_inputs(run, options.inputs)))):
        path = common.tensor_file(options.ours, index, name)
        if path is None:
            row = {"error": f"no file for it in {options.ours}", "within": False}
        else:
            row = compare(np.load(path), theirs, options.tolerance)
        report["outputs"].append({"name": name} | row)
    report["ok"] = report["checker"]["valid"] and all(row["within"] for row in report["outputs"])
    print(json.dumps(report, indent=2))
    sys.exit(0 if report["ok"] else 1)


if __name__ == "__main__":
    main()
