"""Goldens of calibration: evidence of criteria, and a repaired network, by PyTorch in double precision.

    python calibration.py out/

Writes `dense.onnx` and `pruned.onnx` (a convolution, batch-norm, ReLU, a convolution with bias, ReLU, a linear layer),
`data.npz` (inputs `x` and labels `y`) and `out.npz`:

- of the dense network in eval mode, with g the gradient of the cross-entropy of one sample and E the mean over the samples:
  `sum/W` Σg, `square/W` E[g²], `saliency/W` E[(g·w)²], `channel/W` E[(Σ g·w)²] over each output channel: behind the
  batch-norm where there is one, with the bias where there is one; `input/W` over each input channel;
  `magnitude/W` and `zeros/W` of the activation behind each output channel.
- `flow/W`: of the dense network made linear (magnitudes of weights, addends and means 0, no ReLU) on inputs of ones
  |w·∂R/∂w|, R the sum of the outputs, and `flow-mask/W` what is left at 80 % after 100 rounds, scored anew in each.
- of the pruned network: `mean`, `var` and `beta` of the batch-norm and `bias/W` of the layers, re-estimated and corrected in
  graph order over all samples, the variance unbiased.
"""

import sys

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper

out = sys.argv[1]
torch.manual_seed(5)
torch.set_default_dtype(torch.float64)


def draw(*shape, scale=1.0):
    return (torch.randn(*shape) * scale).float().double()


dense = {
    "conv1.weight": draw(4, 2, 3, 3, scale=0.4),
    "bn.weight": (torch.rand(4) + 0.5).float().double(),
    "bn.bias": draw(4, scale=0.3),
    "bn.mean": draw(4, scale=0.2),
    "bn.var": (torch.rand(4) + 0.5).float().double(),
    "conv2.weight": draw(3, 4, 3, 3, scale=0.3),
    "conv2.bias": draw(3, scale=0.3),
    "fc.weight": draw(5, 12, scale=0.4),
    "fc.bias": draw(5, scale=0.2),
}
n = 13
x = draw(n, 2, 6, 6)
y = torch.randint(0, 5, (n,))


def forward(p, x, seen=None):
    seen = {} if seen is None else seen
    c = seen["conv1"] = F.conv2d(x, p["conv1.weight"])
    b = seen["bn"] = F.batch_norm(c, p["bn.mean"], p["bn.var"], p["bn.weight"], p["bn.bias"], training=False, eps=1e-5)
    r = seen["relu1"] = F.relu(b)
    d = seen["conv2"] = F.conv2d(r, p["conv2.weight"], p["conv2.bias"])
    s = seen["relu2"] = F.relu(d)
    z = seen["fc"] = F.linear(s.flatten(1), p["fc.weight"], p["fc.bias"])
    return z


def save(p, name):
    tensors = [numpy_helper.from_array(v.float().numpy(), k) for k, v in p.items()]
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "conv1.weight"], ["c"], name="conv1"),
        node("BatchNormalization", ["c", "bn.weight", "bn.bias", "bn.mean", "bn.var"], ["b"], name="bn"),
        node("Relu", ["b"], ["r"], name="relu1"),
        node("Conv", ["r", "conv2.weight", "conv2.bias"], ["d"], name="conv2"),
        node("Relu", ["d"], ["s"], name="relu2"),
        node("Flatten", ["s"], ["f"], name="flatten"),
        node("Gemm", ["f", "fc.weight", "fc.bias"], ["z"], name="fc", transB=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", 1, ["n", 2, 6, 6])], [value("z", 1, ["n", 5])], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, f"{out}/{name}.onnx")


weights = ["conv1.weight", "conv2.weight", "fc.weight"]
found = {}


def add(key, value):
    found[key] = found.get(key, 0) + value.detach()


for i in range(n):
    p = {k: v.clone().requires_grad_(k not in ("bn.mean", "bn.var")) for k, v in dense.items()}
    F.cross_entropy(forward(p, x[i : i + 1]), y[i : i + 1]).backward()
    for w in weights:
        g, v = p[w].grad, p[w].detach()
        product = g * v
        add(f"sum/{w}", g)
        add(f"square/{w}", g * g / n)
        add(f"saliency/{w}", product**2 / n)
        by_output = product.flatten(1).sum(1)
        if w == "conv1.weight":
            by_output = p["bn.weight"].grad * dense["bn.weight"] + p["bn.bias"].grad * dense["bn.bias"]
        else:
            bias = w.replace("weight", "bias")
            by_output = by_output + p[bias].grad * dense[bias]
        add(f"channel/{w}", by_output**2 / n)
        add(f"input/{w}", product.transpose(0, 1).flatten(1).sum(1) ** 2 / n)

seen = {}
with torch.no_grad():
    forward(dense, x, seen)
for w, value in [("conv1.weight", "relu1"), ("conv2.weight", "relu2")]:
    channels = seen[value].transpose(0, 1).flatten(1)
    found[f"magnitude/{w}"] = channels.abs().mean(1)
    found[f"zeros/{w}"] = (channels == 0).double().mean(1)

def flow(masks):
    p = {w: (dense[w].abs() * masks[w]).requires_grad_() for w in weights}
    scale = dense["bn.weight"].abs() / (dense["bn.var"] + 1e-5).sqrt()
    c = F.conv2d(torch.ones(1, 2, 6, 6), p["conv1.weight"]) * scale[:, None, None]
    z = F.linear(F.conv2d(c, p["conv2.weight"]).flatten(1), p["fc.weight"])
    z.sum().backward()
    return {w: (p[w].detach() * p[w].grad).abs() for w in weights}


masks = {w: torch.ones_like(dense[w]) for w in weights}
for w, score in flow(masks).items():
    found[f"flow/{w}"] = score
for k in range(1, 101):
    score = flow(masks)
    everything = torch.cat([torch.where(masks[w] == 0, -1.0, score[w]).flatten() for w in weights])
    # Python rounds half to even.
    zeros = round((1 - 0.2 ** (k / 100)) * everything.numel())
    keep = torch.ones_like(everything)
    keep[everything.argsort(stable=True)[:zeros]] = 0
    at = 0
    for w in weights:
        masks[w] = keep[at : at + masks[w].numel()].view_as(masks[w])
        at += masks[w].numel()
for w in weights:
    found[f"flow-mask/{w}"] = masks[w]

pruned = {k: v.clone() for k, v in dense.items()}
for w in weights:
    v = pruned[w]
    v[v.abs() < v.abs().flatten().kthvalue(int(0.6 * v.numel())).values] = 0.0


def over(v):
    return v.transpose(0, 1).flatten(1)


repaired = {k: v.clone() for k, v in pruned.items()}
with torch.no_grad():
    def now():
        seen = {}
        forward(repaired, x, seen)
        return seen

    c = over(now()["conv1"])
    repaired["bn.mean"], repaired["bn.var"] = c.mean(1), c.var(1, unbiased=True)
    repaired["bn.bias"] += over(seen["bn"]).mean(1) - over(now()["bn"]).mean(1)
    repaired["conv2.bias"] += over(seen["conv2"]).mean(1) - over(now()["conv2"]).mean(1)
    repaired["fc.bias"] += seen["fc"].mean(0) - now()["fc"].mean(0)
for k in ["bn.mean", "bn.var", "bn.bias", "conv2.bias", "fc.bias"]:
    found[f"repaired/{k}"] = repaired[k]

save(dense, "dense")
save(pruned, "pruned")
np.savez(f"{out}/data.npz", x=x.float().numpy(), y=y.numpy())
np.savez(f"{out}/out.npz", **{k: v.double().numpy() for k, v in found.items()})
