"""PyTorch's global_unstructured for benches/global.rs: prunes once for each line on standard input and
prints the seconds that took.

Usage: global_torch.py WEIGHTS LAYERS SPARSITY THREADS
"""

import sys
import time

import torch
from torch.nn.utils import prune

weights, layers, sparsity, threads = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(threads)
torch.manual_seed(0)
modules = [torch.nn.Linear(weights // layers // 1000, 1000, bias=False) for _ in range(layers)]
for module in modules:
    torch.nn.init.normal_(module.weight)
print(f"torch {torch.__version__}, {torch.get_num_threads()} threads", flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    prune.global_unstructured(
        [(module, "weight") for module in modules], pruning_method=prune.L1Unstructured, amount=sparsity
    )
    print(time.perf_counter() - start, flush=True)
    for module in modules:
        original = module.weight_orig.data
        prune.remove(module, "weight")
        module.weight.data = original
