"""Writes `quantised-sparse.pt`: tensors of kinds that a checkpoint may hold beside plain ones.

    python quantised-sparse.py      # torch 2.15
"""

import torch

torch.manual_seed(0)
weight = torch.randn(4, 6)
torch.save(
    {
        "fc.weight": weight,
        "fc.bias": torch.randn(4),
        "quantised.weight": torch.quantize_per_tensor(weight, 0.05, 3, torch.quint8),
        "channels.weight": torch.quantize_per_channel(
            weight, torch.full((4,), 0.05), torch.zeros(4, dtype=torch.long), 0, torch.qint8
        ),
        "sparse.weight": (weight * (weight > 1)).to_sparse(),
        "csr.weight": (weight * (weight > 1)).to_sparse_csr(),
    },
    "quantised-sparse.pt",
)
