"""Makes the models of this folder: operators of ONNX Runtime's own, with inputs and what it computes from them.

    python make.py

Needs numpy, onnx and onnxruntime. Each file holds, besides the model, unused initializers: `given:NAME` for
each input and `expected:NAME` for each output, which is named after what it tests.
"""

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

MICROSOFT = "com.microsoft"


class Case:
    def __init__(self, name, seed):
        self.name, self.rng = name, np.random.default_rng(seed)
        self.inputs, self.constants, self.nodes, self.outputs = {}, {}, [], []

    def given(self, array):
        name = f"x{len(self.inputs)}"
        self.inputs[name] = np.asarray(array)
        return name

    def constant(self, array):
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def node(self, output, op, inputs, domain=MICROSOFT, **attrs):
        inputs = ["" if i is None else i for i in inputs]
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, domain=domain, **attrs))
        self.outputs.append(output)

    def floats(self, *shape):
        return self.rng.normal(size=shape).astype(np.float32)

    def write(self):
        value = lambda name, a: helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
        )
        tensors = lambda prefix, arrays: [
            numpy_helper.from_array(a, prefix + name) for name, a in arrays.items()
        ]
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [value(n, a) for n, a in self.inputs.items()],
            [onnx.ValueInfoProto(name=name) for name in self.outputs],
            tensors("", self.constants),
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(model.SerializeToString(), options)
        results = dict(zip(self.outputs, session.run(self.outputs, self.inputs)))
        del model.graph.output[:]
        model.graph.output.extend(value(n, a) for n, a in results.items())
        model.graph.initializer.extend(tensors("given:", self.inputs) + tensors("expected:", results))
        onnx.save(model, self.name + ".onnx")


def qlinear(name, dtype):
    case = Case(name, 1)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max

    def codes(*shape):
        return case.rng.integers(low, high + 1, shape).astype(dtype)

    def scale():
        return np.float32(case.rng.uniform(0.005, 0.05))

    def quant():
        return [case.constant(scale()), case.constant(codes())]

    def coded(*shape):
        return [case.given(codes(*shape)), *quant()]

    for op in ["QLinearAdd", "QLinearMul"]:
        case.node(f"{op} same shape", op, coded(3, 37) + coded(3, 37) + quant())
        case.node(f"{op} a row", op, coded(3, 37) + coded(37) + quant())
        case.node(f"{op} a number", op, coded(1) + coded(3, 37) + quant())
        case.node(f"{op} a channel", op, coded(2, 3, 5, 7) + coded(3, 1, 1) + quant())
        # Halves, which have to be rounded the same way.
        half, one, zero = (case.constant(v) for v in (np.float32(0.5), np.float32(1), np.array(1, dtype)))
        a, b = case.given(codes(64)), case.given(codes(64))
        case.node(f"{op} halves", op, [a, half, zero, b, one, zero, one, zero])
    map_ = coded(2, 3, 6, 7)
    for op, attrs in [("QLinearSigmoid", {}), ("QLinearLeakyRelu", {"alpha": 0.2})]:
        case.node(op, op, map_ + quant(), **attrs)
    pools = {
        "plain": {},
        "padded": {"pads": [1, 0, 1, 1], "strides": [2, 1]},
        "padding counts": {"pads": [1, 1, 1, 1], "strides": [2, 2], "count_include_pad": 1},
        "ceiling": {"strides": [2, 2], "ceil_mode": 1},
    }
    for label, attrs in pools.items():
        op = "QLinearAveragePool"
        case.node(f"{op} {label}", op, map_ + quant(), kernel_shape=[3, 2], **attrs)
    op = "QLinearGlobalAveragePool"
    case.node(op, op, map_ + quant())
    case.node(f"{op} channels last", op, map_ + quant(), channels_last=1)
    for axis in [-1, 1]:
        for opset in [12, 13]:
            op, q = "QLinearSoftmax", [case.constant(np.float32(0.0041)), case.constant(np.array(low + 3, dtype))]
            case.node(f"{op} of opset {opset} axis {axis}", op, map_ + q, axis=axis, opset=opset)
    case.node("QLinearConcat", "QLinearConcat", quant() + coded(2, 3, 4) + coded(2, 2, 4) + coded(2, 1, 4), axis=1)
    condition = case.given(case.rng.integers(0, 2, (3, 1)).astype(bool))
    case.node("QLinearWhere", "QLinearWhere", [condition, *coded(3, 5), *coded(5), *quant()])
    weights = lambda *shape: case.constant(case.rng.integers(-128, 128, shape).astype(np.int8))
    bias = case.constant(case.rng.integers(-3000, 3000, 5).astype(np.int32))
    one_zero = case.constant(np.array(3, np.int8))
    five = lambda: case.constant(case.rng.uniform(0.005, 0.05, 5).astype(np.float32))
    five_zeros = case.constant(case.rng.integers(-9, 9, 5).astype(np.int8))
    a, turned = coded(4, 11), coded(11, 4)
    case.node("QGemm", "QGemm", a + [weights(11, 5), case.constant(scale()), one_zero, bias] + quant())
    case.node("QGemm no bias", "QGemm", a + [weights(11, 5), case.constant(scale()), one_zero, None] + quant())
    case.node("QGemm a scale a column", "QGemm", a + [weights(11, 5), five(), five_zeros, bias] + quant(), alpha=0.5)
    case.node(
        "QGemm turned", "QGemm", turned + [weights(5, 11), five(), five_zeros, bias] + quant(), transA=1, transB=1
    )
    case.node("QGemm to floats", "QGemm", a + [weights(11, 5), five(), five_zeros, bias], alpha=0.5)
    op = "MatMulIntegerToFloat"
    floats = case.constant(case.floats(5))
    case.node(op, op, [a[0], weights(11, 5), a[1], five(), a[2], five_zeros, floats])
    case.node(f"{op} plain", op, [a[0], weights(11, 5), a[1], case.constant(scale())])
    if dtype == np.uint8:
        op, x = "DynamicQuantizeMatMul", case.given(case.floats(2, 4, 11))
        case.node(op, op, [x, weights(11, 5), five(), five_zeros, floats])
        case.node(f"{op} plain", op, [x, weights(11, 5), case.constant(scale())])
    case.write()


def fused():
    case = Case("fused", 2)
    x, w, b = case.given(case.floats(1, 4, 5, 6)), case.constant(case.floats(8, 2, 3, 3)), case.constant(case.floats(8))
    z = case.given(case.floats(1, 8, 5, 6))
    activations = {
        "Relu": [],
        "Tanh": [],
        "Sigmoid": [],
        "LeakyRelu": [0.2],
        "Clip": [-0.5, 1.5],
        "HardSigmoid": [0.1, 0.4],
    }
    for name, params in activations.items():
        params = {"activation_params": params} if params else {}
        case.node(f"FusedConv {name}", "FusedConv", [x, w, b], group=2, pads=[1] * 4, activation=name, **params)
    case.node("FusedConv no bias", "FusedConv", [x, w], group=2, strides=[2, 1], activation="Relu")
    case.node("FusedConv residual", "FusedConv", [x, w, b, z], group=2, pads=[1] * 4, activation="Relu")
    case.node("FusedConv residual alone", "FusedConv", [x, w, None, z], group=2, pads=[1] * 4)
    a, w, b = case.given(case.floats(5, 8)), case.constant(case.floats(9, 8)), case.constant(case.floats(9))
    activations = {
        "Relu": {},
        "Elu": {"activation_alpha": 0.7},
        "HardSigmoid": {"activation_alpha": 0.1, "activation_beta": 0.4},
        "LeakyRelu": {"activation_alpha": 0.3},
        "Sigmoid": {},
        "Softplus": {},
        "Softsign": {},
        "Tanh": {},
        "ThresholdedRelu": {"activation_alpha": 0.5},
    }
    for name, params in activations.items():
        case.node(f"FusedGemm {name}", "FusedGemm", [a, w, b], transB=1, alpha=0.5, activation=name, **params)
    case.node("FusedGemm no bias", "FusedGemm", [a, w], transB=1, activation="Relu")
    for rank in [2, 3, 4]:
        stack = [2, 3][: rank - 2]
        for trans_a in [0, 1]:
            for trans_b in [0, 1]:
                a = case.given(case.floats(*stack, *((6, 4) if trans_a else (4, 6))))
                b = case.given(case.floats(*stack, *((5, 6) if trans_b else (6, 5))))
                label = f"FusedMatMul of rank {rank} turned {trans_a}{trans_b}"
                case.node(label, "FusedMatMul", [a, b], transA=trans_a, transB=trans_b, alpha=0.25)
    for trans in [0, 1]:
        # The first axis is the matrix's: [rows, stack, columns].
        a, b = case.given(case.floats(4, 2, 3, 6)), case.given(case.floats(6, 2, 3, 5))
        if trans:
            a, b = case.given(case.floats(6, 2, 3, 4)), case.given(case.floats(5, 2, 3, 6))
        label = f"FusedMatMul of stacks turned {trans}"
        case.node(label, "FusedMatMul", [a, b], transA=trans, transB=trans, transBatchA=1, transBatchB=1)
    # Operands whose rank the file does not declare.
    for label, attrs in {"turned": {"transA": 1}, "of stacks": {"transBatchA": 1}, "both": {"transA": 1, "transBatchA": 1}}.items():
        shape = {"turned": [2, 6, 4], "of stacks": [4, 2, 6], "both": [6, 2, 4]}[label]
        a, b = case.given(case.floats(48)), case.given(case.floats(2, 6, 5))
        case.node(f"reshaped {label}", "Reshape", [a, case.constant(np.array(shape))], domain="")
        case.node(f"FusedMatMul of open rank {label}", "FusedMatMul", [f"reshaped {label}", b], alpha=2.0, **attrs)
    w = case.constant(case.floats(5, 6))
    x = case.given(case.floats(2, 4, 6))
    case.node("FusedMatMul of a weight", "FusedMatMul", [x, w], transB=1, alpha=3.0)
    case.write()


if __name__ == "__main__":
    qlinear("qlinear_u8", np.uint8)
    qlinear("qlinear_i8", np.int8)
    fused()
