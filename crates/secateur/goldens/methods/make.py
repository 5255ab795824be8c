"""Writes methods.npz and cases.json: masks and densities as others compute them.

    python make.py RIGL LAMP

RIGL and LAMP are checkouts of google-research/rigl and jaeho-lee/layer-adaptive-sparsity. Needs
numpy, torch and torch-pruning. README.md beside this file says what a case means.
"""

import importlib.util
import json
import math
import pathlib
import sys
import types

import numpy as np
import torch
import torch_pruning as tp
from torch import nn
from torch.ao.pruning import WeightNormSparsifier
from torch.nn.utils import prune

HERE = pathlib.Path(__file__).parent
torch.set_num_threads(1)
torch.manual_seed(4)
rng = np.random.default_rng(4)

SHAPES = {
    "linear": (20, 30),
    "odd": (9, 14),
    "head": (10, 24),
    "conv": (8, 16, 3, 3),
    "stem": (6, 3, 3, 3),
    "conv1x1": (12, 8, 1, 1),
}

arrays = {}
cases = []


def weight(name):
    """Weights of a layer: normal, with a spread of its own, no two of the same magnitude."""
    shape = SHAPES[name]
    spread = {"linear": 0.3, "odd": 0.1, "head": 0.2, "conv": 0.05, "stem": 0.6, "conv1x1": 0.15}[name]
    values = rng.normal(0.0, spread, shape).astype(np.float32)
    assert len(np.unique(np.abs(values))) == values.size
    return values


WEIGHTS = {name: weight(name) for name in SHAPES}
arrays |= {f"weight/{name}": value for name, value in WEIGHTS.items()}


def add(method, tensors, masks, sparsity=None):
    index = len(cases)
    case = {"method": method, "tensors": tensors}
    if sparsity is not None:
        case["sparsity"] = round(sparsity, 9)
    cases.append(case)
    for tensor, mask in zip(tensors, masks, strict=True):
        mask = np.asarray(mask)
        assert mask.shape == SHAPES[tensor], (method, tensor)
        arrays[f"mask/{index}/{tensor}"] = mask.astype(np.uint8)


def layer(name, dtype=torch.float32):
    shape = SHAPES[name]
    if len(shape) == 2:
        module = nn.Linear(shape[1], shape[0], bias=False)
    else:
        module = nn.Conv2d(shape[1], shape[0], shape[2:], bias=False)
    module.weight = nn.Parameter(torch.from_numpy(WEIGHTS[name]).to(dtype))
    return module


def load(path, name, stubs):
    """A module of a checkout with what it imports replaced."""
    sys.modules.update(stubs)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- RigL: densities of ERK -------------------------------------------------------------------


class Shape(list):
    def as_list(self):
        return list(self)


def rigl(checkout):
    log = types.SimpleNamespace(info=lambda *_: None)
    tf1 = types.ModuleType("tensorflow.compat.v1")
    tf1.logging = log
    names = ["rigl", "tensorflow", "tensorflow.compat", "google_research", "google_research.micronet_challenge"]
    stubs = {name: types.ModuleType(name) for name in names}
    stubs["rigl"].str_sparsities = None
    stubs["tensorflow.compat"].v1 = tf1
    stubs["tensorflow.compat.v1"] = tf1
    stubs["google_research.micronet_challenge"].counting = None
    module = load(pathlib.Path(checkout) / "rigl" / "sparse_utils.py", "sparse_utils", stubs)
    networks = {
        "lenet-300-100": [(784, 300), (300, 100), (100, 10)],
        "convolutions": [(3, 3, 3, 20), (3, 3, 20, 40), (3, 3, 40, 80), (1, 1, 20, 40), (80, 10)],
        "two-dense": [(5, 4), (4, 10), (200, 300), (300, 100)],
        "two-equal": [(80, 4), (20, 20)],
    }
    found = []
    for name, shapes in networks.items():
        for sparsity in [0.2, 0.5, 0.8, 0.9, 0.95]:
            masks = [types.SimpleNamespace(name=f"l{i}/mask:0", shape=Shape(s)) for i, s in enumerate(shapes)]
            kept = module.get_sparsities(masks, "erdos_renyi_kernel", sparsity, {})
            found.append({
                "network": name,
                "shapes": [list(s) for s in shapes],
                "sparsity": sparsity,
                "sparsities": [float(kept[m.name]) for m in masks],
            })
    return found


# --- LAMP's authors: LAMP and Uniform+ --------------------------------------------------------


def lamp(checkout):
    modules = lambda model: [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    utils = types.ModuleType("tools.utils")
    utils.get_modules = modules
    utils.get_weights = lambda model: [m.weight for m in modules(model)]
    stubs = {"tools": types.ModuleType("tools"), "tools.utils": utils}
    pruners = load(pathlib.Path(checkout) / "tools" / "pruners.py", "pruners", stubs)
    # Their sums in double precision, so that no cut is decided by rounding.
    torch.set_default_dtype(torch.float64)
    networks = [["stem", "conv", "linear", "head"], ["linear", "odd", "head"]]
    for name, method in [("lamp", "lamp@global"), ("unifplus", "l1+uniform+")]:
        for tensors in networks:
            for rounds in [[0.3], [0.6], [0.75], [0.5, 0.5]]:
                model = nn.Sequential(*[layer(t, torch.float64) for t in tensors])
                pruners.prune_weights_reparam(model)
                for amount in rounds:
                    pruners.weight_pruner_loader(name)(model, amount)
                masks = [m.weight_mask.numpy() for m in model]
                # Several rounds of what remains are one of the product.
                left = math.prod(1 - amount for amount in rounds)
                if len(rounds) == 1 or name == "unifplus":
                    add(method, tensors, masks, sparsity=1 - left)
    torch.set_default_dtype(torch.float32)


# --- PyTorch: N:M, blocks, given scores -------------------------------------------------------


def sparsifier(matrix, norm, **settings):
    """The mask of a matrix by PyTorch's sparsifier."""
    module = nn.Sequential(nn.Linear(matrix.shape[1], matrix.shape[0], bias=False))
    module[0].weight = nn.Parameter(torch.from_numpy(np.ascontiguousarray(matrix)))
    made = WeightNormSparsifier(norm=norm, **settings)
    made.prepare(module, [{"tensor_fqn": "0.weight"}])
    made.step()
    return module[0].parametrizations.weight[0].mask.numpy().astype(bool)


def as_matrix(name):
    """A weight with its input channels last: `[out, positions · in]`."""
    value = WEIGHTS[name]
    if value.ndim == 2:
        return value
    return value.transpose(0, 2, 3, 1).reshape(value.shape[0], -1)


def from_matrix(name, matrix):
    shape = SHAPES[name]
    if len(shape) == 2:
        return matrix
    out, channels, kh, kw = shape
    return matrix.reshape(out, kh, kw, channels).transpose(0, 3, 1, 2)


def n_of_m():
    for name, n, m in [
        ("linear", 1, 2), ("linear", 2, 3), ("linear", 2, 5), ("linear", 4, 6), ("linear", 7, 10),
        ("conv", 2, 4), ("conv", 1, 4), ("conv", 4, 8), ("conv", 3, 16), ("conv1x1", 2, 4),
        ("head", 2, 4), ("stem", 1, 3), ("odd", 1, 7),
    ]:
        matrix = as_matrix(name)
        settings = {"sparsity_level": 1.0, "sparse_block_shape": (1, m), "zeros_per_block": m - n}
        for norm, criterion in [(1, "l1"), (2, "l2"), (2, "lamp")]:
            mask = sparsifier(matrix, norm, **settings)
            add(f"{criterion}/{n}:{m}", [name], [from_matrix(name, mask)])


def blocks():
    for name, rows, columns in [
        ("linear", 4, 4), ("linear", 1, 4), ("linear", 16, 1), ("odd", 4, 4), ("odd", 2, 3),
        ("conv", 4, 4), ("conv", 3, 8), ("conv", 1, 2), ("conv1x1", 4, 4), ("head", 16, 1),
    ]:
        matrix = as_matrix(name)
        for sparsity in [0.25, 0.5, 0.8]:
            settings = {
                "sparsity_level": sparsity,
                "sparse_block_shape": (rows, columns),
                "zeros_per_block": rows * columns,
            }
            for norm, criterion in [(1, "l1"), (2, "l2"), (2, "lamp")]:
                mask = sparsifier(matrix, norm, **settings)
                add(f"{criterion}/{rows}x{columns}", [name], [from_matrix(name, mask)], sparsity=sparsity)


def given():
    tensors = ["linear", "conv", "odd"]
    for name in tensors:
        # PyTorch takes magnitudes of what it is given: here they are all positive.
        arrays[f"scores/{name}"] = rng.uniform(0.1, 2.0, SHAPES[name]).astype(np.float32)
    scores = {name: torch.from_numpy(arrays[f"scores/{name}"]) for name in tensors}
    for name in tensors:
        for sparsity in [0.3, 0.7]:
            module = layer(name)
            prune.l1_unstructured(module, "weight", sparsity, importance_scores=scores[name])
            add("file", [name], [module.weight_mask.numpy()], sparsity=sparsity)
            for dim in [0, 1]:
                module = layer(name)
                prune.ln_structured(module, "weight", sparsity, n=1, dim=dim, importance_scores=scores[name])
                mask = module.weight_mask.numpy()
                add(f"file/channel:{dim}", [name], [mask], sparsity=sparsity)
    for sparsity in [0.4, 0.9]:
        modules = [layer(name) for name in tensors]
        prune.global_unstructured(
            [(m, "weight") for m in modules],
            prune.L1Unstructured,
            importance_scores={(m, "weight"): scores[n] for m, n in zip(modules, tensors)},
            amount=sparsity,
        )
        add("file@global", tensors, [m.weight_mask.numpy() for m in modules], sparsity=sparsity)


# --- Torch-Pruning: channels of all layers together -------------------------------------------


def channels():
    tensors = ["stem", "conv", "conv1x1"]
    for p in [1, 2, 3]:
        importance = tp.importance.MagnitudeImportance(p=p, group_reduction="mean", normalizer="mean")
        found = []
        for name in tensors:
            module = layer(name)
            inputs = torch.zeros(1, SHAPES[name][1], 8, 8)
            graph = tp.DependencyGraph().build_dependency(nn.Sequential(module), inputs)
            group = graph.get_pruning_group(module, tp.prune_conv_out_channels, list(range(SHAPES[name][0])))
            found.append(importance(group).numpy())
        flat = np.sort(np.concatenate(found))
        for sparsity in [0.25, 0.5, 0.75]:
            k = round(sparsity * len(flat))
            assert flat[k] - flat[k - 1] > 1e-4 * flat[k], (p, sparsity)
            masks = []
            for name, scores in zip(tensors, found):
                keep = (scores > flat[k - 1]).reshape(-1, 1, 1, 1)
                masks.append(np.broadcast_to(keep, SHAPES[name]))
            add(f"ln:{p}/channel@global", tensors, masks, sparsity=sparsity)


def main():
    erk = rigl(sys.argv[1])
    lamp(sys.argv[2])
    n_of_m()
    blocks()
    given()
    channels()
    np.savez_compressed(HERE / "methods.npz", **arrays)
    lines = lambda rows: ",\n".join("  " + json.dumps(row) for row in rows)
    text = f'{{"cases": [\n{lines(cases)}\n], "erk": [\n{lines(erk)}\n]}}\n'
    (HERE / "cases.json").write_text(text)
    print(len(cases), "cases", len(erk), "densities")


if __name__ == "__main__":
    main()
