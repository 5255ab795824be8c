"""Reads checkpoints with PyTorch and writes their tensors as safetensors, under secateur's paths.

    python read.py CHECKPOINT OUT KEY FULL [CHECKPOINT OUT KEY FULL ...]

KEY is that of the state dict, `-` where the checkpoint is one; FULL is `full` where plain data is allowed
that `weights_only=True` refuses, otherwise `weights`.
"""

import sys

import make
import torch

arguments = sys.argv[1:]
while arguments:
    source, out, key, full, *arguments = arguments
    content = torch.load(source, weights_only=full != "full", map_location="cpu")
    make.save_plain(make.expected(content, *([] if key == "-" else [key])), out)
