"""Writes checkpoints whose weights are parametrised, in every form of PyTorch, with the graphs of the same
network without parametrisation, and what PyTorch computes (`expected.safetensors`: input, and outputs by the
checkpoint's name).

    python make.py        # torch 2.15, onnx

`first.onnx` holds the weights before training, `names.onnx` the same under their names; the checkpoints were
trained for a few steps, so that only what they say gives their outputs.
LoRA as peft 0.17 names it, with `adapter_config.json` beside it; its output is that of the merged network.
"""

import json
import warnings

import onnx
import torch
from torch import nn
from torch.ao.pruning.sparsifier.utils import FakeSparsity
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

warnings.filterwarnings("ignore")


def save_file(tensors, name):
    """safetensors, of f32 tensors."""
    header, data = {}, b""
    for key, tensor in tensors.items():
        content = tensor.contiguous().numpy().tobytes()
        header[key] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(name, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + data)


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 4, 2, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 8 * 8, 6),
        nn.ReLU(),
        nn.Linear(6, 6),
    )


LAYERS = (0, 2, 5, 7)
x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
expected = {"x": x}


def train(model):
    torch.manual_seed(2)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    model.train()
    for _ in range(3):
        optimiser.zero_grad()
        model(torch.randn(8, 3, 4, 4)).square().sum().backward()
        optimiser.step()
    return model.eval()


def keep(name, model):
    expected[name] = model(x).detach()
    torch.save(model.state_dict(), f"{name}.pth")


def export(name, model, names):
    options = dict(do_constant_folding=not names, keep_initializers_as_inputs=False)
    torch.onnx.export(model, (x,), name, dynamo=False, opset_version=17, **options)
    model = onnx.load(name)
    for node in model.graph.node:
        node.doc_string = ""
    if not names:
        # Older exporters number what they compute, so that no name tells it.
        for index, initializer in enumerate(model.graph.initializer):
            if initializer.name.endswith(".weight"):
                for node in model.graph.node:
                    node.input[:] = [f"onnx::W_{index}" if i == initializer.name else i for i in node.input]
                initializer.name = f"onnx::W_{index}"
    onnx.save(model, name)


export("first.onnx", net().eval(), False)
export("names.onnx", net().eval(), True)

model = net()
for layer, dim in zip(LAYERS, (0, 1, None, 0)):
    old_weight_norm(model[layer], dim=dim)
keep("weight_norm_old", train(model))
export("weight_norm_own.onnx", model, True)

model = net()
for layer, dim in zip(LAYERS, (0, 1, None, 1)):
    parametrizations.weight_norm(model[layer], dim=dim)
keep("weight_norm_new", train(model))

model = net()
for layer in LAYERS:
    old_spectral_norm(model[layer])
keep("spectral_norm_old", train(model))

model = net()
for layer in LAYERS:
    parametrizations.spectral_norm(model[layer])
keep("spectral_norm_new", train(model))

model = net()
parametrizations.orthogonal(model[7])
keep("orthogonal", train(model))

model = net()
train(model)
for layer in LAYERS:
    mask = (torch.rand(model[layer].weight.shape) > 0.5).float()
    parametrize.register_parametrization(model[layer], "weight", FakeSparsity(mask))
keep("fake_sparsity", model.eval())

# The other half of the weight is nowhere in the graph.
model = train(net())
model[0].register_parameter("offset", nn.Parameter(torch.randn(4, 3, 3, 3)))
torch.save(model.state_dict(), "sibling.pth")

rank, alpha = 2, 6
model = train(net())
state = {}
merged = net().eval()
merged.load_state_dict(model.state_dict())
for index in LAYERS:
    layer, way = model[index], f"base_model.model.{index}"
    if index == 2:
        state |= {f"{way}.{name}": value for name, value in layer.state_dict().items()}
        continue
    weight = layer.weight.detach()
    a = torch.randn(rank, *weight.shape[1:]) / 4
    b = torch.randn(weight.shape[0], rank, *[1] * (weight.dim() - 2)) / 4
    state[f"{way}.base_layer.weight"] = weight
    state[f"{way}.base_layer.bias"] = layer.bias.detach()
    state[f"{way}.lora_A.default.weight"] = a
    state[f"{way}.lora_B.default.weight"] = b
    change = (b.flatten(1) @ a.flatten(1)).reshape(weight.shape)
    merged[index].weight.data += alpha / rank * change
expected["lora"] = merged(x).detach()
save_file(state, "lora.safetensors")
with open("adapter_config.json", "w") as file:
    json.dump({"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "use_rslora": False}, file)

save_file(expected, "expected.safetensors")
