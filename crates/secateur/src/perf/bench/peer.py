"""Runs ONNX models in another runtime and times them on command.

    python peer.py onnxruntime|openvino

Reads a JSON object a line and answers each with one: `load` a model, take a `turn` (runs one after the other,
each timed), `drop` a model. Sessions use the threads asked for, all optimisations, f32, and where
there are several each has a core of its own.
"""

import sys

# Modules are those that are installed, not files that happen to lie in the current folder.
sys.path = [folder for folder in sys.path if folder]

import json
import os
import time

# What libraries print must not come between the answers.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def onnxruntime():
    import onnxruntime as ort

    def load(file, threads, feeds, dims):
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if 1 < threads <= os.cpu_count():
            # One for each thread but the caller's, counted from 1.
            cores = ";".join(str(core + 1) for core in range(1, threads))
            options.add_session_config_entry("session.intra_op_thread_affinities", cores)
        for name, extent in dims.items():
            options.add_free_dimension_override_by_name(name, extent)
        session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, feeds)

    return ort.__version__, load


def openvino():
    # Its telemetry would report over the network, from a process of its own that outlives this one.
    sys.modules["openvino_telemetry"] = None
    import openvino as ov

    core = ov.Core()

    def load(file, threads, feeds, dims):
        model = core.read_model(file)
        model.reshape({name: list(array.shape) for name, array in feeds.items()})
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": threads > 1,
        }
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        return lambda: request.infer(feeds, share_inputs=True, share_outputs=True)

    return ov.__version__.split("-")[0], load


def memory(field):
    """A line of the kernel's account of this process, in bytes; none where there is no such account."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith(field))
    except (OSError, StopIteration):
        return None


def forget_peak():
    try:
        with open("/proc/self/clear_refs", "w") as refs:
            refs.write("5")
    except OSError:
        pass


def main():
    import numpy

    version, load = {"onnxruntime": onnxruntime, "openvino": openvino}[sys.argv[1]]()
    models = {}

    def answer(ask):
        if ask["do"] == "load":
            feeds = {name: numpy.load(file) for name, file in ask["inputs"].items()}
            forget_peak()
            before, start = memory("VmRSS"), time.perf_counter()
            run = load(ask["file"], ask["threads"], feeds, ask["dims"])
            run()
            seconds, peak = time.perf_counter() - start, memory("VmHWM")
            models[ask["key"]] = run
            grown = None if before is None or peak is None else max(peak - before, 0)
            return {"seconds": seconds, "memory": grown}
        if ask["do"] == "turn":
            run, times = models[ask["key"]], []
            if ask["warm_up"]:
                run()
            end = time.perf_counter() + ask["least"]
            while True:
                start = time.perf_counter()
                run()
                stop = time.perf_counter()
                times.append(stop - start)
                if stop >= end or len(times) >= ask["most"]:
                    return {"times": times}
        del models[ask["key"]]
        return {}

    yield {"version": version}
    for line in sys.stdin:
        try:
            yield answer(json.loads(line))
        except Exception as error:
            yield {"error": f"{type(error).__name__}: {error}"}


try:
    for given in main():
        print(json.dumps(given), file=answers, flush=True)
except ImportError as error:
    print(json.dumps({"error": str(error)}), file=answers, flush=True)
