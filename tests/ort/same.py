"""Checks that models compute the same, bit for bit, as others do.

    python same.py DENSE PACKED [DENSE PACKED]...

Both run on the same random inputs. The packed one must be valid, and what expands its weights must be folded
while it is loaded. Prints one line a pair; exit code 0 only if all are equal.
"""

import os
import sys
import tempfile

import common
import numpy as np
import onnx
import onnxruntime

DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


def inputs(run):
    """Random numbers for each input without a default; named axes are 2, booleans true."""
    numbers = np.random.default_rng(0)
    feeds = {}
    for wanted in run.get_inputs():
        shape = [d if isinstance(d, int) else 2 for d in wanted.shape]
        if wanted.type == "tensor(bool)":
            feeds[wanted.name] = np.ones(shape, bool)
        else:
            feeds[wanted.name] = numbers.standard_normal(shape).astype(DTYPES[wanted.type])
    return feeds


def folded_session(path):
    """A session, and the operators that are left in it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = os.path.join(folder, "optimized.onnx")
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    return common.session(path, 1), {node.op_type for node in graph.node}


def main():
    bad = 0
    for dense, packed in zip(sys.argv[1::2], sys.argv[2::2]):
        valid = common.check(packed)
        reference, (run, operators) = common.session(dense, 1), folded_session(packed)
        feeds = inputs(reference)
        outputs = list(zip(reference.run(None, feeds), run.run(None, feeds)))
        # Bytes: NaN of any bits, and the sign of zeros.
        equal = all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in outputs)
        folded = not operators & {"CumSum", "ScatterElements"}
        good = valid["valid"] and equal and folded
        bad += not good
        print(f"{packed}: {'same' if good else f'DIFFERENT: equal {equal}, folded {folded}, {valid}'}")
    sys.exit(1 if bad or len(sys.argv) < 3 else 0)


if __name__ == "__main__":
    main()
