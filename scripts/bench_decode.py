"""Times one row times cold dense weights in ONNX Runtime, before and after our own benchmark of the same.

    python bench_decode.py [--threads 1] [--rounds 15] [-- part of a line's name]

Prints ONNX Runtime's f32 MatMul (fastest and median of each half of the rounds, ms) before and after
`cargo bench -p secateur-kernels --bench decode` with the same shapes and threads.
"""

import argparse
import os
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

# Outputs and inputs, as in the benchmark.
SIZES = [(11008, 4096), (4096, 4096)]

# Values that caches don't hold.
COLD = 128 << 20


def session(outputs, inputs, threads):
    rng = np.random.default_rng(1)
    weights = rng.random((inputs, outputs), dtype=np.float32) - 0.5
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "row",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, outputs])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def measure(sessions, cold, rounds):
    times = [[] for _ in sessions]
    for _ in range(rounds):
        for (run, (_, inputs)), into in zip(sessions, times):
            x = np.random.default_rng(2).random((1, inputs), dtype=np.float32)
            cold.sum()
            start = time.perf_counter()
            run.run(None, {"x": x})
            into.append((time.perf_counter() - start) * 1e3)
    for (_, size), times in zip(sessions, times):
        print(f"onnxruntime {onnxruntime.__version__} f32 {size[0]} x {size[1]}: ", end="")
        print(f"{min(times):.2f} / {statistics.median(times):.2f} ms", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15, help="of each half")
    parser.add_argument("lines", nargs="*", help="part of the name of the lines that our benchmark prints")
    args = parser.parse_args()
    cold = np.ones(COLD, dtype=np.float32)
    sessions = [(session(*size, args.threads), size) for size in SIZES]
    measure(sessions, cold, args.rounds)
    command = ["cargo", "bench", "-q", "-p", "secateur-kernels", "--bench", "decode", "--", *args.lines]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(args.threads)}
    subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parent)
    measure(sessions, cold, args.rounds)


if __name__ == "__main__":
    main()
