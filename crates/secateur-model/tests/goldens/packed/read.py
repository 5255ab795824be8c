"""Checks that compressed-tensors unpacks a file to the tensors of another: read.py PACKED DENSE."""
import sys

import torch
from compressed_tensors import BitmaskConfig
from compressed_tensors.compressors import BitmaskCompressor
from safetensors.torch import load_file

found = dict(BitmaskCompressor(config=BitmaskConfig()).decompress(sys.argv[1]))
expected = load_file(sys.argv[2])
assert found.keys() == expected.keys(), (found.keys(), expected.keys())
for name, tensor in expected.items():
    assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
