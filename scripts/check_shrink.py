#!/usr/bin/env python3
"""Checks smaller networks in another runtime: each file is shrunk, passes onnx's checker and runs in ONNX Runtime, and its
outputs are those of the original with everything zero that was removed, as `OUTPUT.kept.json` says.

    python3 scripts/check_shrink.py target/release/secateur *.onnx -- --method random/channel --sparsity 0.3

Prints a table: groups that can be cut and that cannot, parameters and multiply–accumulates left, and the largest difference of
outputs as a share of the largest output, for a batch of one sample and of three where the batch is open.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import onnx
import onnxruntime
from onnx import numpy_helper


onnxruntime.set_default_logger_severity(3)


def run(model, batch):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    generator, inputs = numpy.random.default_rng(0), {}
    for given in session.get_inputs():
        shape = [n if isinstance(n, int) else batch for n in given.shape]
        inputs[given.name] = generator.standard_normal(shape).astype(numpy.float32)
    return session.run(None, inputs)


def masked(model, kept):
    """The original with zeros at each index that was removed."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    tensors[node.output[0]] = attribute.t
    for name, axes in kept.items():
        values = numpy_helper.to_array(tensors[name]).copy()
        if not numpy.issubdtype(values.dtype, numpy.floating):
            continue
        for axis, indices in axes.items():
            gone = numpy.setdiff1d(numpy.arange(values.shape[int(axis)]), indices)
            values[(slice(None),) * int(axis) + (gone,)] = 0
        stored = tensors[name].name
        tensors[name].CopyFrom(numpy_helper.from_array(values, stored))
    return model


def main():
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    (secateur, *models), options = words[:cut], words[cut + 1 :]
    print("| network | free | frozen | parameters | MACs | difference |\n|---|---:|---:|---:|---:|---:|")
    failed = 0
    for path in models:
        name = pathlib.Path(path).stem
        with tempfile.TemporaryDirectory() as folder:
            small = f"{folder}/small.onnx"
            command = [secateur, "shrink", path, "-o", small, "--json", *options]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                failed += 1
                print(f"| {name} | {done.stderr.strip()} |")
                continue
            found = json.loads(done.stdout)
            try:
                onnx.checker.check_model(small, full_check=True)
                original = masked(onnx.load(path), json.load(open(f"{small}.kept.json")))
                is_open = any(not dim.HasField("dim_value") for i in original.graph.input for dim in i.type.tensor_type.shape.dim)
                worst = 0.0
                for batch in (1, 3) if is_open else (1,):
                    for want, got in zip(run(original.SerializeToString(), batch), run(small, batch)):
                        by = float(numpy.abs(want - got).max() / max(numpy.abs(want).max(), 1e-30))
                        worst = by if numpy.isnan(by) else max(worst, by)
            except Exception as error:  # what the checker or the runtime refuses
                failed += 1
                print(f"| {name} | {type(error).__name__}: {str(error)[:300]} |")
                continue
        free = sum("frozen" not in group for group in found["groups"])
        before, after = found["before"], found["after"]
        left = [f"{after[key] / before[key]:.3f}" for key in ("parameters", "macs")]
        failed += not worst <= 1e-4
        print(f"| {name} | {free} | {len(found['groups']) - free} | {left[0]} | {left[1]} | {worst:.0e} |", flush=True)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
