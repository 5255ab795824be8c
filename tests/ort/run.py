"""Runs a model in ONNX Runtime and writes its outputs.

    python run.py MODEL INPUTS OUT [--threads N]

INPUTS holds one .npy per input, named by the percent-encoded tensor name or by its index
in graph order; OUT gets one per output, named by the percent-encoded tensor name.
"""

import argparse
import pathlib
import urllib.parse

import numpy as np

import common


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("inputs")
    parser.add_argument("out")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    run = common.session(options.model, options.threads)
    names = [output.name for output in run.get_outputs()]
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    for name, array in zip(names, run.run(names, common.read_inputs(run, options.inputs))):
        np.save(out / f"{urllib.parse.quote(name, safe='')}.npy", array)
        print(name, array.dtype, list(array.shape))


if __name__ == "__main__":
    main()
