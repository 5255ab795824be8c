"""Writes the goldens: tensors dense, and as compressed-tensors packs them.

    python make.py 0.8.1    # with compressed-tensors 0.8.1 installed: writes 0.8.1.safetensors
    python make.py 0.9.4    # with 0.9.4: writes 0.9.4.safetensors and dense.safetensors
"""
import sys
from pathlib import Path

import compressed_tensors
import torch
from compressed_tensors import BitmaskConfig
from compressed_tensors.compressors import BitmaskCompressor
from safetensors.torch import save_file

version = sys.argv[1]
assert compressed_tensors.__version__ == version, compressed_tensors.__version__
here = Path(__file__).parent
torch.manual_seed(0)


def sparse(*shape, dtype=torch.float32, density=0.4):
    values = torch.randn(shape) * (torch.rand(shape) < density)
    return (values + 0.0).to(dtype)  # no negative zeros: they would be dropped


tensors = {
    "a.weight": sparse(5, 19),
    "b.weight": sparse(3, 8, dtype=torch.float16),
    "c.weight": sparse(4, 33, dtype=torch.bfloat16),
    "d.weight": sparse(2, 3, 5),
    "norm.weight": sparse(9, density=1.0),
}
if version != "0.8.1":
    save_file(tensors, here / "dense.safetensors")
save_file(BitmaskCompressor(config=BitmaskConfig()).compress(tensors), here / f"{version}.safetensors")
