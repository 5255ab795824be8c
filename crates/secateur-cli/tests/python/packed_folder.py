"""Checks that transformers loads a packed folder as it does the dense one.

    python packed_folder.py DENSE PACKED

Written for transformers 4.51.3 and compressed-tensors 0.9.4, and accelerate beside them (1.x). The exit code says
whether the logits are equal.
"""

import sys

import torch
from transformers import AutoModelForCausalLM


def logits(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    with torch.no_grad():
        return model(torch.arange(16)[None]).logits


if __name__ == "__main__":
    dense, packed = (logits(folder) for folder in sys.argv[1:])
    sys.exit(0 if torch.equal(dense, packed) else f"differ by {(dense - packed).abs().max()}")
