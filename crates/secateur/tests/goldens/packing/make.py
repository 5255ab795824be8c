"""Writes small models whose weights stand in different ways in an ONNX file: 80 % zeros, so that packing pays where the
file can hold packed weights.

    python make.py        # onnx, numpy
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)


def sparse(side):
    weight = rng.standard_normal((side, side)).astype(np.float32)
    weight[rng.random((side, side)) < 0.8] = 0
    return weight


def save(name, side=48, opset=13, ir=8, constant=False, listed=False):
    nodes, initializers, inputs = [], [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, side])]
    before = "x"
    for layer in ("first", "second"):
        weight = numpy_helper.from_array(sparse(side), layer)
        if constant:
            nodes.append(helper.make_node("Constant", [], [layer], value=weight))
        else:
            initializers.append(weight)
        if listed:
            inputs.append(helper.make_tensor_value_info(layer, TensorProto.FLOAT, [side, side]))
        nodes.append(helper.make_node("MatMul", [before, layer], [f"{layer}.out"]))
        before = f"{layer}.out"
    output = helper.make_tensor_value_info(before, TensorProto.FLOAT, [1, side])
    graph = helper.make_graph(nodes, "g", inputs, [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    onnx.checker.check_model(model)
    onnx.save(model, name)


save("constants.onnx", constant=True)
save("listed-ir3.onnx", opset=11, ir=3, listed=True)
save("listed.onnx", listed=True)
save("opset9.onnx", opset=9)
save("tiny.onnx", side=10)
