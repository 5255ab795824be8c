"""Exports a BERT encoder with random weights, by default of BERT-base's size.

    python bert_encoder.py bert.onnx
    python bert_encoder.py small.onnx --layers 2 --width 128 --heads 2 --dynamo --opset 23
"""

import torch
import torch.nn.functional as F
from torch import nn

import exporting


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.attention_out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def split(self, x):
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x, mask):
        query, key, value = (self.split(f(x)) for f in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        mixed = mixed.transpose(1, 2).reshape(x.shape)
        x = self.attention_norm(x + self.attention_out(mixed))
        return self.norm(x + self.down(F.gelu(self.up(x))))


class Encoder(nn.Module):
    """Token ids, attention mask and token types, i64 [batch, sequence], to [batch, sequence, width]."""

    def __init__(self, layers, width, heads, vocabulary, positions):
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)
        self.types = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))

    def forward(self, input_ids, attention_mask, token_type_ids):
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.words(input_ids) + self.positions(place) + self.types(token_type_ids)
        x = self.norm(x)
        # One row a query, though all are alike: ONNX Runtime's Attention does not broadcast them.
        mask = (attention_mask > 0)[:, None, None, :].expand(-1, -1, input_ids.shape[1], -1)
        for layer in self.layers:
            x = layer(x, mask)
        return x


def main():
    parser = exporting.arguments(__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=30522)
    parser.add_argument("--positions", type=int, default=512)
    parser.add_argument("--sequence", type=int, help="a fixed length (default: dynamic, named `sequence`)")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    model = Encoder(options.layers, options.width, options.heads, options.vocabulary, options.positions)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, 0.0, 0.02)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.bias, 0.0, 0.02)
    model.eval()

    shape = (options.batch or 2, options.sequence or 16)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    ids = torch.randint(0, options.vocabulary, shape)
    mask = torch.ones(shape, dtype=torch.int64)
    mask[-1, shape[1] // 2 :] = 0
    axes = {}
    if not options.batch:
        axes[0] = "batch"
    if not options.sequence:
        axes[1] = "sequence"
    dynamic = {name: dict(axes) for name in [*names, "last_hidden_state"]} if axes else {}
    inputs = (ids, mask, torch.zeros(shape, dtype=torch.int64))
    exporting.export(model, inputs, options.out, options, names, ["last_hidden_state"], dynamic)


if __name__ == "__main__":
    main()
