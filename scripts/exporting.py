"""Helpers of the export scripts: realistic random weights, and the export itself."""

import argparse
import pathlib
import warnings

import onnx
import torch
from onnxscript import optimizer
from torch import nn
from torchvision.models import resnet

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def arguments(description, opset=17):
    """A parser with the options that every export script has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--batch", type=int, help="a fixed batch size (default: dynamic, named `batch`)")
    parser.add_argument("--dynamo", action="store_true", help="PyTorch's newer exporter (default: the older)")
    parser.add_argument("--opset", type=int, default=None, help=f"default: {opset}, with --dynamo 20")
    parser.add_argument("--fold", action="store_true", help="fold batch-norm and constants as the exporter does by itself (default: keep the nodes and names)")
    parser.add_argument("--external", action="store_true", help="keep the weights in a second file, OUT.data")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(old_opset=opset)
    return parser


def settle(model, inputs):
    """Gives the batch-norms random affine parameters and the statistics of `inputs`.

    Freshly made batch-norms have mean 0 and variance 1 whatever reaches them, so that a
    deep network's output overflows or vanishes and a comparison of outputs shows little.
    """
    norms = [m for m in model.modules() if isinstance(m, NORMS)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0.0, 0.1)
        norm.momentum = 1.0
        norm.train()
    for block in model.modules():
        # Trained residual blocks add little to what they get; fresh ones as much again, and
        # then rounding errors grow from block to block faster than in any real network.
        if isinstance(block, (resnet.BasicBlock, resnet.Bottleneck)):
            nn.init.uniform_((block.bn3 if hasattr(block, "bn3") else block.bn2).weight, 0.1, 0.3)
    with torch.no_grad():
        model(*inputs)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    return model.eval()


def export(model, inputs, path, options, input_names, output_names, dynamic):
    """Writes `model` to `path`.

    `dynamic` names the dynamic axes of each input, {input: {axis: name}}; outputs follow.
    """
    path = str(path)
    opset = options.opset or (20 if options.dynamo else options.old_opset)
    common = dict(input_names=input_names, output_names=output_names, opset_version=opset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if options.dynamo:
            dims = {name: torch.export.Dim(name) for axes in dynamic.values() for name in axes.values()}
            shapes = tuple({a: dims[n] for a, n in dynamic.get(name, {}).items()} for name in input_names)
            program = torch.onnx.export(
                model,
                inputs,
                dynamic_shapes=shapes,
                optimize=options.fold,
                dynamo=True,
                verbose=False,
                **common,
            )
            if not options.fold:
                # The exporter wraps each batch-norm's parameters in Expand and CastLike, and
                # its own optimiser, which removes them, fuses batch-norm and renames weights.
                optimizer.fold_constants(
                    program.model, should_fold=lambda node: False if node.op_type == "Transpose" else None
                )
                optimizer.remove_unused_nodes(program.model)
            pathlib.Path(path + ".data").unlink(missing_ok=True)
            program.save(path, external_data=options.external)
        else:
            # A model in eval mode under PRESERVE keeps batch-norm as nodes; EVAL fuses it.
            mode = torch.onnx.TrainingMode
            torch.onnx.export(
                model,
                inputs,
                path,
                dynamic_axes=dynamic,
                training=mode.EVAL if options.fold else mode.PRESERVE,
                do_constant_folding=options.fold,
                dynamo=False,
                **common,
            )
            if options.external:
                loaded = onnx.load(path)
                data = pathlib.Path(path).name + ".data"
                pathlib.Path(path + ".data").unlink(missing_ok=True)
                onnx.save(loaded, path, save_as_external_data=True, location=data, size_threshold=1024)
    onnx.checker.check_model(path, full_check=True)
    print(f"{path}: opset {opset}, {sum(p.numel() for p in model.parameters())} parameters")
