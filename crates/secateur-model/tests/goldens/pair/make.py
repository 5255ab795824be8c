"""Writes the exports and checkpoints that tests/pair.rs brings together: one small network with what
exporters change, exported by both of PyTorch's exporters, folded and as it stands, with its checkpoint
(`net.safetensors`) and that of the same network trained on (`trained.safetensors`), and what PyTorch
computes with both (`expected.safetensors`).

    python make.py        # torch 2.15, onnx, onnxscript, safetensors
"""

import warnings

import onnx
import torch
from safetensors.torch import save_file
from torch import nn

warnings.filterwarnings("ignore")
torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.pre = nn.BatchNorm2d(2)
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.bn2 = nn.BatchNorm2d(4, eps=1e-3)
        self.up = nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2)
        self.bn3 = nn.BatchNorm2d(6)
        self.act = nn.PReLU(6)
        self.fc1 = nn.Linear(6, 4, bias=False)
        self.norm = nn.LayerNorm(4)
        self.attn = nn.MultiheadAttention(4, 2, batch_first=True)
        self.fc2 = nn.Linear(4, 4)
        self.head = nn.Linear(4, 5)
        self.bn4 = nn.BatchNorm1d(5)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(self.pre(x))))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = self.act(self.bn3(self.up(x)))
        x = self.norm(self.fc1(x.flatten(2).transpose(1, 2)))
        a, _ = self.attn(x, x, x, need_weights=False)
        return self.bn4(self.head(self.fc2(x + a).mean(1)))


def shuffle(net):
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_()
            module.running_mean.normal_()
            module.running_var.uniform_(0.3, 2)


def export(net, x, name, **options):
    torch.onnx.export(net, (x,), name, input_names=["x"], output_names=["y"], **options)
    model = onnx.load(name)
    for node in model.graph.node:
        kept = [e for e in node.metadata_props if e.key == "pkg.torch.onnx.name_scopes"]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
        node.doc_string = ""
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    onnx.save(model, name)


net = Net().eval()
shuffle(net)
x = torch.randn(1, 2, 4, 4)
expected = {"x": x, "net": net(x)}
save_file(net.state_dict(), "net.safetensors")
training = torch.onnx.TrainingMode.PRESERVE
export(net, x, "script-folded.onnx", dynamo=False, opset_version=17)
export(net, x, "script.onnx", dynamo=False, opset_version=17, training=training, do_constant_folding=False)
export(net, x, "dynamo-folded.onnx", dynamo=True, external_data=False)
export(net, x, "dynamo.onnx", dynamo=True, optimize=False, external_data=False)
for parameter in net.parameters():
    parameter.data += 0.3 * torch.randn_like(parameter)
shuffle(net)
expected["trained"] = net(x)
save_file(net.state_dict(), "trained.safetensors")
save_file({name: value.detach() for name, value in expected.items()}, "expected.safetensors")
