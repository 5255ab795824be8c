"""Loads pruned Hugging Face folders with transformers and checks where the zeros are.

Usage: transformers_load.py FOLDER_2_4 FOLDER_HALF_PER_ROW
"""

import sys

import torch
from transformers import AutoModelForCausalLM


def projections(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model(torch.tensor([[1, 5, 7, 9]])).logits.isfinite().all()
    return {k: v for k, v in model.state_dict().items() if k.endswith("proj.weight")}


for name, weight in projections(sys.argv[1]).items():
    kept = (weight != 0).reshape(weight.shape[0], -1, 4).sum(-1)
    assert (kept <= 2).all(), name
for name, weight in projections(sys.argv[2]).items():
    zeros = (weight == 0).sum(1)
    assert (zeros == round(weight.shape[1] * 0.5)).all(), name
print("ok")
