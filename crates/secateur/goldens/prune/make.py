"""Writes prune.npz and cases.json: masks as torch.nn.utils.prune computes them.

    python make.py

Needs numpy and torch. README.md beside this file says what a case means.
"""

import json
import math
import pathlib

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune

HERE = pathlib.Path(__file__).parent
torch.set_num_threads(1)

# Two norms nearer than this (relative) could change places with the order of
# summation: such a case would test rounding, not the rule.
MARGIN = {torch.float32: 1e-5, torch.float16: 2e-3}

# name -> (shape, dtype, groups)
SHAPES = {
    "vector5": ((1, 5), "f32", 1),
    "vector7": ((1, 7), "f32", 1),
    "linear": ((12, 17), "f32", 1),
    "linear5": ((5, 6), "f32", 1),
    "linear7": ((7, 4), "f32", 1),
    "linear_f16": ((6, 9), "f16", 1),
    "conv": ((8, 5, 3, 3), "f32", 1),
    "conv_f16": ((7, 4, 3, 2), "f16", 1),
    "conv1d": ((6, 4, 5), "f32", 1),
    "grouped": ((12, 2, 3, 3), "f32", 4),
    "depthwise": ((10, 1, 3, 3), "f32", 10),
}


def distinct_magnitudes(rng, shape, dtype):
    """Normal weights, no two of one tensor with the same magnitude."""
    size = math.prod(shape)
    seen = {}
    while len(seen) < size:
        value = rng.normal(0.0, 0.3)
        value = dtype(value)
        if abs(value) > 1e-4:
            seen.setdefault(abs(value), value)
    return np.array(list(seen.values()), dtype=dtype).reshape(shape)


def weights():
    rng = np.random.default_rng(20)
    out = {}
    for name, (shape, dtype, groups) in SHAPES.items():
        kind = {"f32": np.float32, "f16": np.float16}[dtype]
        out[name] = (distinct_magnitudes(rng, shape, kind), groups)
    # For the order 0 the channels along `dim` need different counts of nonzeros.
    for base, dim in [("linear", 0), ("conv1d", 1), ("conv", 0), ("conv", 1)]:
        weight = out[base][0].copy()
        channels = weight.shape[dim]
        view = np.moveaxis(weight, dim, 0)
        for rank, channel in enumerate(rng.permutation(channels)):
            flat = view[channel].reshape(-1).copy()
            flat[rng.permutation(flat.size)[:rank]] = 0.0
            view[channel] = flat.reshape(view[channel].shape)
        out[f"{base}_zeros_dim{dim}"] = (weight, out[base][1])
    return out


def module(weight, groups):
    """A layer whose parameter `weight` is the array."""
    shape = weight.shape
    if len(shape) == 2:
        layer = nn.Linear(shape[1], shape[0], bias=False)
    else:
        conv = {3: nn.Conv1d, 4: nn.Conv2d}[len(shape)]
        layer = conv(shape[1] * groups, shape[0], shape[2:], groups=groups, bias=False)
    assert tuple(layer.weight.shape) == shape
    layer.weight = nn.Parameter(torch.from_numpy(weight.copy()))
    return layer


def mask_of(layer):
    if hasattr(layer, "weight_mask"):
        return layer.weight_mask.detach().clone()
    return torch.ones_like(layer.weight)


def check_margin(case, scores, removed, margin):
    """`scores` of what took part, `removed` how many went: the cut must be clear."""
    scores = scores.double().sort().values
    if 0 < removed < len(scores):
        low, high = scores[removed - 1].item(), scores[removed].item()
        assert high - low > margin * high, (case["name"], low, high)


def norm(weight, n, dim):
    axes = [a for a in range(weight.dim()) if a != dim % weight.dim()]
    return torch.linalg.vector_norm(weight.double(), ord=n, dim=axes)


def run_case(case, all_weights):
    layers = [module(*all_weights[name]) for name in case["tensors"]]
    kept = []
    for step in case["steps"]:
        before = [mask_of(layer) for layer in layers]
        masked = [layer.weight.detach().clone() for layer in layers]
        method, amount = step["method"], step["amount"]
        if method == "l1_unstructured":
            prune.l1_unstructured(layers[0], "weight", amount=amount)
        elif method == "ln_structured":
            prune.ln_structured(layers[0], "weight", amount=amount, n=float(step["n"]), dim=step["dim"])
        else:
            prune.global_unstructured(
                [(layer, "weight") for layer in layers],
                pruning_method=prune.L1Unstructured,
                amount=amount,
            )
        after = [mask_of(layer) for layer in layers]
        if method == "ln_structured":
            dim = step["dim"]
            axes = [a for a in range(masked[0].dim()) if a != dim % masked[0].dim()]
            alive, left = before[0].sum(axes) > 0, after[0].sum(axes) > 0
            scores = norm(masked[0], float(step["n"]), dim)[alive]
            check_margin(case, scores, int(alive.sum() - left.sum()), MARGIN[masked[0].dtype])
        else:
            flat = torch.cat([w.float().reshape(-1) for w in masked])
            alive = torch.cat([m.reshape(-1) for m in before]) > 0
            left = torch.cat([m.reshape(-1) for m in after]) > 0
            check_margin(case, flat.abs()[alive], int(alive.sum() - left.sum()), 0.0)
        kept.append([int(m.sum()) for m in after])
    case["kept"] = kept
    return [mask_of(layer).to(torch.uint8).numpy() for layer in layers]


def l1(amount):
    return {"method": "l1_unstructured", "amount": amount}


def ln(amount, n, dim):
    return {"method": "ln_structured", "amount": amount, "n": n, "dim": dim}


def glob(amount):
    return {"method": "global_unstructured", "amount": amount}


def cases():
    out = []

    def add(name, tensors, *steps):
        tensors = [tensors] if isinstance(tensors, str) else list(tensors)
        out.append({"name": name, "tensors": tensors, "steps": list(steps)})

    # One tensor, single weights. Sizes 5 and 7 show that halves round to even.
    for tensor in ["vector5", "vector7"]:
        for amount in [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 0, 1, 3]:
            add(f"l1/{tensor}/{amount}", tensor, l1(amount))
    for tensor in ["linear", "linear_f16", "conv", "conv_f16", "conv1d", "grouped", "depthwise"]:
        for amount in [0.25, 0.5, 0.8, 7]:
            add(f"l1/{tensor}/{amount}", tensor, l1(amount))
        add(f"l1/{tensor}/three-rounds", tensor, l1(0.5), l1(0.5), l1(0.5))
        add(f"l1/{tensor}/three-rounds-count", tensor, l1(5), l1(11), l1(6))
    add("l1/vector5/three-rounds", "vector5", l1(0.3), l1(0.5), l1(0.5))
    add("l1/vector7/three-rounds", "vector7", l1(0.5), l1(0.5), l1(0.5))
    add("l1/linear/mixed-rounds", "linear", l1(0.3), l1(9), l1(0.125))

    # Channels along each dimension, counted from either end.
    for tensor in ["linear5", "linear7", "linear", "conv", "conv1d", "grouped"]:
        rank = len(SHAPES[tensor][0])
        for dim in range(-rank, rank):
            for n in ["1", "2", "inf", "-inf", "3"]:
                if SHAPES[tensor][0][dim] > 1:
                    add(f"ln/{tensor}/n{n}/dim{dim}/0.4", tensor, ln(0.4, n, dim))
    for tensor in ["linear_f16", "conv_f16"]:
        for dim in [0, 1, -1]:
            for n in ["1", "2", "inf"]:
                add(f"ln/{tensor}/n{n}/dim{dim}/0.3", tensor, ln(0.3, n, dim))
    for tensor in ["linear5", "linear7"]:
        for amount in [0.0, 0.1, 0.3, 0.5, 0.7, 1.0, 0, 2]:
            add(f"ln/{tensor}/n1/dim0/{amount}", tensor, ln(amount, "1", 0))
    add("ln/depthwise/n2/dim0/0.5", "depthwise", ln(0.5, "2", 0))
    add("ln/depthwise/n2/dim0/3", "depthwise", ln(3, "2", 0))
    for base, dim in [("linear", 0), ("conv1d", 1), ("conv", 0), ("conv", 1)]:
        for amount in [0.3, 0.5, 1]:
            tensor = f"{base}_zeros_dim{dim}"
            add(f"ln/{tensor}/n0/{amount}", tensor, ln(amount, "0", dim))
    # Channels per group: 10 % of 2 rounds to none.
    add("ln/grouped/n1/dim1/0.1", "grouped", ln(0.1, "1", 1))
    for n in ["1", "2", "inf", "-inf", "3"]:
        for tensor, dim in [("linear", 0), ("linear", 1), ("conv", 0), ("conv", 1), ("conv1d", -1), ("grouped", 0)]:
            add(f"ln/{tensor}/n{n}/dim{dim}/three-rounds", tensor, *[ln(0.3, n, dim)] * 3)
    add("ln/conv/n2/dim0/three-rounds-count", "conv", ln(1, "2", 0), ln(3, "2", 0), ln(2, "2", 0))
    add("ln/conv_zeros_dim0/n0/three-rounds", "conv_zeros_dim0", *[ln(0.3, "0", 0)] * 3)
    add("ln/conv/n1/dim0-then-dim1", "conv", ln(0.25, "1", 0), ln(0.4, "1", 1))
    add("ln/conv/n2/dim1-then-dim0", "conv", ln(0.4, "2", 1), ln(0.25, "2", 0))

    # Several rules one after the other (torch's PruningContainer).
    for tensor in ["linear", "conv", "conv1d", "grouped"]:
        for dim in [0, 1]:
            add(f"mixed/{tensor}/ln-dim{dim}-then-l1", tensor, ln(0.4, "1", dim), l1(0.5))
            add(f"mixed/{tensor}/l1-then-ln-dim{dim}", tensor, l1(0.3), ln(0.4, "2", dim))
    add("mixed/linear/ln-l1-ln", "linear", ln(0.25, "2", 0), l1(0.4), ln(0.3, "1", 0))
    add("mixed/conv/l1-ln-l1", "conv", l1(0.5), ln(2, "1", 0), l1(20))

    # Three tensors ranked together.
    three = ["linear", "conv", "grouped"]
    for amount in [0.0, 0.2, 0.5, 0.9, 1.0, 1, 100]:
        add(f"global/{amount}", three, glob(amount))
    add("global/three-rounds", three, glob(0.5), glob(0.5), glob(0.5))
    add("global/three-rounds-count", three, glob(50), glob(200), glob(111))
    add("global/f16", ["linear_f16", "conv_f16"], glob(0.6))
    add("global/f16-and-f32", ["linear_f16", "conv1d", "linear7"], glob(0.5))
    return out


def main():
    all_weights = weights()
    arrays = {f"weight/{name}": weight for name, (weight, _) in all_weights.items()}
    table = cases()
    assert len({case["name"] for case in table}) == len(table)
    for index, case in enumerate(table):
        for tensor, mask in enumerate(run_case(case, all_weights)):
            arrays[f"mask/{index}/{tensor}"] = mask
    np.savez_compressed(HERE / "prune.npz", **arrays)
    lines = ",\n".join("  " + json.dumps(case) for case in table)
    text = f'{{"torch": "{torch.__version__.split("+")[0]}", "cases": [\n{lines}\n]}}\n'
    (HERE / "cases.json").write_text(text)
    print(len(table), "cases", len(arrays), "arrays")


if __name__ == "__main__":
    main()
