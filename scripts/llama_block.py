"""Exports one Llama block for decoding with random weights, by default of Llama-7B's size.

    python llama_block.py block.onnx                       # one token after 128 others, 4096 wide
    python llama_block.py prompt.onnx --tokens 128 --past 0
    python llama_block.py small.onnx --width 256 --heads 8

RMSNorm, attention with rotary positions and a key/value cache, RMSNorm, a gated layer (SwiGLU), two residuals.
The numbers of tokens and of cached tokens are fixed. The cache is an input, `past_key` and `past_value` ([batch, heads,
past, width / heads]); the longer cache is an output, `key` and `value`.
"""

import torch
import torch.nn.functional as F
from torch import nn

import exporting

EPSILON = 1e-5
BASE = 10000.0


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width).uniform_(0.5, 1.5))

    def forward(self, x):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + EPSILON) * self.weight


class Block(nn.Module):
    """States [batch, tokens, width] to states, and the keys and values of all tokens so far."""

    def __init__(self, width, hidden, heads, tokens, past):
        super().__init__()
        self.heads = heads
        self.attention_norm = RMSNorm(width)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.mlp_norm = RMSNorm(width)
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.02)
        # Positions are known, so their angles are constants; a token sees itself and those before.
        size = width // heads
        places = torch.arange(past, past + tokens, dtype=torch.float32)
        angles = torch.outer(places, BASE ** (-torch.arange(0, size, 2) / size)).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        seen = torch.arange(past + tokens)[None, :] <= torch.arange(past, past + tokens)[:, None]
        self.register_buffer("mask", torch.zeros(seen.shape).masked_fill(~seen, -1e9) if tokens > 1 else None)

    def split(self, x):
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def turned(self, x):
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat((-second, first), dim=-1) * self.sin

    def forward(self, hidden, past_key=None, past_value=None):
        x = self.attention_norm(hidden)
        query, key, value = (self.split(f(x)) for f in (self.q_proj, self.k_proj, self.v_proj))
        query, key = self.turned(query), self.turned(key)
        if past_key is not None:
            key = torch.cat((past_key, key), dim=2)
            value = torch.cat((past_value, value), dim=2)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask)
        hidden = hidden + self.o_proj(mixed.transpose(1, 2).reshape(hidden.shape))
        x = self.mlp_norm(hidden)
        return hidden + self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x)), key, value


def main():
    parser = exporting.arguments(__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--tokens", type=int, default=1, help="tokens at a time (default: 1, decoding)")
    parser.add_argument("--past", type=int, default=128, help="tokens in the cache (default: 128); 0: no cache")
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--hidden", type=int, help="width of the gated layer (default: 43/16 of the width, 11008)")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    hidden = options.hidden or options.width * 43 // 16
    block = Block(options.width, hidden, options.heads, options.tokens, options.past).eval()

    batch = options.batch or 2
    names, outputs = ["hidden"], ["hidden_out", "key", "value"]
    inputs = [torch.randn(batch, options.tokens, options.width)]
    if options.past:
        names += ["past_key", "past_value"]
        cache = (batch, options.heads, options.past, options.width // options.heads)
        inputs += [torch.randn(cache), torch.randn(cache)]
    dynamic = {} if options.batch else {name: {0: "batch"} for name in [*names, *outputs]}
    exporting.export(block, tuple(inputs), options.out, options, names, outputs, dynamic)


if __name__ == "__main__":
    main()
