"""Writes an image network with a share of every layer's channels, to check forecasts of channel pruning.

    python fewer_channels.py resnet50.onnx 0.5 resnet50-half.onnx
    secateur bench resnet50-half.onnx --threads 1

The network consists of Conv, BatchNormalization and Gemm nodes in sequence (ResNet, MobileNet: no groups other than
depthwise ones). Input channels and classes are kept. The first channels are kept, because the choice does not affect
the time.
"""

import argparse

import numpy as np
import onnx
from onnx import numpy_helper


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("kept", type=float, help="the share of channels that is kept")
    parser.add_argument("out")
    options = parser.parse_args()
    model = onnx.load(options.model)
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    image = graph.input[0].type.tensor_type.shape.dim[1].dim_value

    def kept(channels):
        return channels if channels == image else channels - round(channels * (1 - options.kept))

    def cut(name, *lengths):
        values = numpy_helper.to_array(tensors[name])[tuple(slice(length) for length in lengths)]
        tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))

    for node in graph.node:
        if node.op_type == "Conv":
            outputs, inputs = tensors[node.input[1]].dims[:2]
            group = next((attribute for attribute in node.attribute if attribute.name == "group"), None)
            if group is not None and group.i > 1:
                if group.i != outputs:
                    raise SystemExit(f"{node.name}: {group.i} groups of several channels")
                group.i, fewer = kept(outputs), inputs
            else:
                fewer = kept(inputs)
            cut(node.input[1], kept(outputs), fewer)
            for bias in node.input[2:]:
                cut(bias, kept(outputs))
        elif node.op_type == "BatchNormalization":
            for name in node.input[1:]:
                cut(name, kept(tensors[name].dims[0]))
        elif node.op_type == "Gemm":
            classes, inputs = tensors[node.input[1]].dims
            cut(node.input[1], classes, kept(inputs))
    del graph.value_info[:]
    onnx.save(model, options.out)


if __name__ == "__main__":
    main()
