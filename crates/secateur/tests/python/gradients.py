"""Gradients of an ONNX classifier by PyTorch: in double precision, and their error in single precision.

    python gradients.py model.onnx batch.npz out.npz

`batch.npz` holds the inputs by name and `labels`. The model runs node by node as the graph says, batch-norms with the
statistics of the batch; the loss is the cross-entropy of the first output, or of what goes into a softmax that computes
it. `out.npz` holds for each float initializer of more than one element the gradient in double precision (`g/NAME`) and
the L2 error of PyTorch's gradient in single precision relative to its norm (`e/NAME`), and the loss (`loss`).
"""

import sys

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper


def attributes(node):
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def pads_of(a, rank):
    pads = a.get("pads", [0] * 2 * rank)
    # PyTorch pads from the last axis to the first, before and behind.
    return [p for d in reversed(range(rank)) for p in (pads[d], pads[rank + d])]


def conv(x, w, b, a):
    rank = w.dim() - 2
    x = F.pad(x, pads_of(a, rank))
    f = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[rank]
    return f(x, w, b, stride=a.get("strides", 1), dilation=a.get("dilations", 1), groups=a.get("group", 1))


def gemm(x, w, c, a):
    x = x.T if a.get("transA", 0) else x
    w = w.T if a.get("transB", 0) else w
    y = a.get("alpha", 1.0) * (x @ w)
    return y if c is None else y + a.get("beta", 1.0) * c


def slice_(x, starts, ends, axes=None, steps=None):
    axes = list(range(len(starts))) if axes is None else axes.tolist()
    steps = [1] * len(axes) if steps is None else steps.tolist()
    for axis, start, end, step in zip(axes, starts.tolist(), ends.tolist(), steps):
        index = torch.tensor(list(range(x.shape[axis]))[slice(start, None if step < 0 and end < -(2**60) else end, step)])
        x = x.index_select(axis, index.long())
    return x


def pad(x, pads, value=None):
    rank = x.dim()
    pads = pads.tolist()
    flat = [p for d in reversed(range(rank)) for p in (pads[d], pads[rank + d])]
    return F.pad(x, flat, value=0.0 if value is None else float(value))


def reshape(x, shape):
    return x.reshape([x.shape[i] if s == 0 else s for i, s in enumerate(shape.tolist())])


def reduce_axes(node, a, inputs):
    axes = a.get("axes") or (inputs[1].tolist() if len(inputs) > 1 and inputs[1] is not None else None)
    return axes or list(range(inputs[0].dim()))


def run_node(node, i, real):
    a, op = attributes(node), node.op_type
    if op == "Conv":
        return conv(i[0], i[1], i[2] if len(i) > 2 else None, a)
    if op == "BatchNormalization":
        return F.batch_norm(i[0], None, None, i[1], i[2], training=True, eps=a.get("epsilon", 1e-5))
    if op == "Gemm":
        return gemm(i[0], i[1], i[2] if len(i) > 2 else None, a)
    if op == "LayerNormalization":
        shape = i[0].shape[a.get("axis", -1) :]
        return F.layer_norm(i[0], shape, i[1], i[2] if len(i) > 2 else None, a.get("epsilon", 1e-5))
    if op == "Clip":
        low, high = (float(v) if v is not None else None for v in (list(i[1:]) + [None, None])[:2])
        return i[0].clamp(low, high)
    if op == "Cast":
        kind = {1: real, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: real, 11: real}[a["to"]]
        return i[0].to(kind)
    if op in ("ReduceMean", "ReduceSum"):
        f = torch.mean if op == "ReduceMean" else torch.sum
        return f(i[0], reduce_axes(node, a, i), keepdim=bool(a.get("keepdims", 1)))
    if op == "Slice":
        return slice_(*i)
    if op == "Pad":
        return pad(*i[:3])
    if op == "Reshape":
        return reshape(i[0], i[1])
    if op == "Transpose":
        return i[0].permute(a.get("perm", list(reversed(range(i[0].dim())))))
    if op in ("Squeeze", "Unsqueeze"):
        axes = a.get("axes") or i[1].tolist()
        rank = i[0].dim() + (len(axes) if op == "Unsqueeze" else 0)
        for axis in sorted((x % rank for x in axes), reverse=op == "Squeeze"):
            i[0] = i[0].unsqueeze(axis) if op == "Unsqueeze" else i[0].squeeze(axis)
        return i[0]
    if op == "Gather":
        axis, index = a.get("axis", 0), i[1].long()
        found = i[0].index_select(axis, index.flatten() % i[0].shape[axis])
        return found.reshape(list(i[0].shape[:axis]) + list(index.shape) + list(i[0].shape[axis + 1 :]))
    if op == "Constant":
        t = torch.from_numpy(np.array(numpy_helper.to_array(a["value"])))
        return t.to(real) if t.is_floating_point() else t
    if op == "ConstantOfShape":
        value = numpy_helper.to_array(a["value"])[0] if "value" in a else np.float32(0)
        t = torch.full(i[0].tolist(), value.item())
        return t.to(real if isinstance(value, np.floating) else torch.int64)
    if op == "Div" and not i[0].is_floating_point():
        return torch.div(i[0], i[1], rounding_mode="trunc")
    if op == "MaxPool":
        x = F.pad(i[0], pads_of(a, i[0].dim() - 2), value=-torch.inf)
        return F.max_pool2d(x, a["kernel_shape"], a.get("strides", 1))
    simple = {
        "Relu": F.relu, "LeakyRelu": lambda x: F.leaky_relu(x, a.get("alpha", 0.01)), "Sigmoid": torch.sigmoid,
        "Tanh": torch.tanh, "Sqrt": torch.sqrt, "Erf": torch.erf, "Identity": lambda x: x,
        "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div, "MatMul": torch.matmul,
        "Mod": torch.remainder, "Equal": torch.eq, "Pow": torch.pow,
        "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.dim())), keepdim=True),
        "Flatten": lambda x: x.reshape(int(np.prod(x.shape[: a.get("axis", 1)])), -1),
        "Concat": lambda *xs: torch.cat(xs, a["axis"]), "Shape": lambda x: torch.tensor(x.shape),
        "Where": torch.where, "Expand": lambda x, s: x.expand(torch.broadcast_shapes(x.shape, tuple(s.tolist()))),
        "Softmax": lambda x: torch.softmax(x, a.get("axis", -1)),
    }
    return simple[op](*i)


def gradients(model, batch, real):
    graph = model.graph
    values = {}
    for init in graph.initializer:
        t = torch.from_numpy(np.array(numpy_helper.to_array(init)))
        values[init.name] = t.to(real).requires_grad_() if t.is_floating_point() else t
    for given in graph.input:
        if given.name in batch:
            t = torch.from_numpy(batch[given.name])
            values[given.name] = t.to(real) if t.is_floating_point() else t
    softmax = {}
    for node in graph.node:
        inputs = [values[name] if name else None for name in node.input]
        found = run_node(node, inputs, real)
        values[node.output[0]] = found
        if node.op_type == "Softmax":
            softmax[node.output[0]] = inputs[0]
    output = graph.output[0].name
    logits = softmax.get(output, values[output])
    loss = F.cross_entropy(logits, torch.from_numpy(batch["labels"]))
    loss.backward()
    named = ((init.name, values[init.name]) for init in graph.initializer)
    found = {n: t.grad.double().numpy() for n, t in named if t.requires_grad and t.grad is not None and t.numel() > 1}
    return loss.item(), found


def main():
    model, batch, out = onnx.load(sys.argv[1]), dict(np.load(sys.argv[2])), sys.argv[3]
    torch.manual_seed(0)
    loss, exact = gradients(model, batch, torch.float64)
    _, single = gradients(model, batch, torch.float32)
    found = {"loss": np.array([loss])}
    for name, gradient in exact.items():
        norm = np.linalg.norm(gradient) or 1.0
        found["g/" + name] = gradient
        found["e/" + name] = np.array([np.linalg.norm(single[name] - gradient) / norm])
    np.savez(out, **found)


main()
