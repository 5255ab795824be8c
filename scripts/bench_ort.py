"""Measures ONNX Runtime's latency on random inputs.

    python bench_ort.py resnet50.onnx --threads 1 --rounds 20 --batch 1

Prints JSON, times in milliseconds. One round is one run of the session; warm-up rounds
are not counted. Dynamic axes get --batch if they are an input's first, else --length.
"""

import argparse
import json
import os
import statistics
import time

import numpy as np
import onnxruntime

KINDS = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}


def random_input(rng, wanted, batch, length):
    shape = [
        dim if isinstance(dim, int) else (batch if axis == 0 else length) for axis, dim in enumerate(wanted.shape)
    ]
    kind = KINDS[wanted.type]
    if np.issubdtype(kind, np.floating):
        return rng.standard_normal(shape).astype(kind)
    # Integers are token ids, masks or token types here: 0 and 1 are valid for each.
    return rng.integers(0, 2, shape).astype(kind)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=128, help="for dynamic axes other than the first")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(options.model, settings, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(options.seed)
    feeds = {i.name: random_input(rng, i, options.batch, options.length) for i in session.get_inputs()}

    times = []
    for round in range(options.warmup + options.rounds):
        start = time.perf_counter()
        session.run(None, feeds)
        if round >= options.warmup:
            times.append((time.perf_counter() - start) * 1e3)
    times.sort()
    quarters = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    report = {
        "model": os.path.basename(options.model),
        "onnxruntime": onnxruntime.__version__,
        "threads": options.threads,
        "rounds": options.rounds,
        "inputs": {name: list(array.shape) for name, array in feeds.items()},
        "median_ms": statistics.median(times),
        "best_ms": times[0],
        "worst_ms": times[-1],
        "quartiles_ms": [quarters[0], quarters[2]],
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
