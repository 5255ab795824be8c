"""Files of tensors, one .npy each, and ONNX Runtime sessions over them."""

import pathlib
import urllib.parse

import numpy as np
import onnx
import onnxruntime


def session(model, threads=None):
    """ONNX Runtime on the CPU with its graph optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def tensor_file(folder, index, name):
    """The file of the tensor `name`, at `index` in graph order; None where there is none.

    Either the percent-encoded name (`a/b` is `a%2Fb.npy`) or the index (`0.npy`).
    """
    folder = pathlib.Path(folder)
    for stem in (urllib.parse.quote(name, safe=""), name, str(index)):
        path = folder / f"{stem}.npy"
        if "/" not in stem and path.is_file():
            return path
    return None


def read_inputs(run, folder):
    """The arrays of a session's inputs, without those that have a default."""
    feeds = {}
    for index, wanted in enumerate(run.get_inputs()):
        path = tensor_file(folder, index, wanted.name)
        if path is None:
            raise SystemExit(f"{folder}: no file for the input {wanted.name!r} ({index}.npy)")
        feeds[wanted.name] = np.load(path)
    return feeds


def check(path):
    """onnx's checker, by path so that external data is found. None, or what is wrong.

    The full check infers shapes too and can fail on operators onnx has no rule for; a
    model passes that is valid and where only this inference says no.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
        return {"valid": True, "full": True}
    except onnx.shape_inference.InferenceError as error:
        full = str(error)
    except onnx.checker.ValidationError as error:
        return {"valid": False, "full": False, "error": str(error)}
    except Exception as error:
        return {"valid": False, "full": False, "error": f"{type(error).__name__}: {error}"}
    try:
        onnx.checker.check_model(str(path))
        return {"valid": True, "full": False, "error": full}
    except Exception as error:
        return {"valid": False, "full": False, "error": str(error)}
