"""TorchRec's DLRM on synthetic clicks, one embedding table per feature.

Run it: ``torchrun --standalone --nproc-per-node 2 docs/examples/dlrm_plain.py``
"""

import clicks
import torch
import torch.distributed as dist
from torch.distributed.optim import _apply_optimizer_in_backward as optimize_in_backward
from torchrec import EmbeddingBagCollection
from torchrec.distributed import DistributedModelParallel, TrainPipelineSparseDist
from torchrec.models.dlrm import DLRM, DLRMTrain
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

META, CPU = torch.device("meta"), torch.device("cpu")
STEPS, BATCH = 300, 256

dist.init_process_group("gloo")
torch.manual_seed(0)

# The model.
embedding = EmbeddingBagCollection(tables=clicks.TABLES, device=META)
model = DLRMTrain(DLRM(embedding, len(clicks.NUMBERS), [32, clicks.DIM], [32, 1], CPU))

# Shards are trained in the backward pass; small tables, whole on every rank, like dense layers.
optimize_in_backward(torch.optim.Adagrad, embedding.parameters(), {"lr": 0.1, "eps": 1e-8})
model = DistributedModelParallel(model, device=CPU)
others = dict(in_backward_optimizer_filter(model.named_parameters()))
dense = KeyedOptimizerWrapper(others, lambda p: torch.optim.Adagrad(p, lr=0.05))
optimizer = CombinedOptimizer([model.fused_optimizer, dense])

# Training.
pipeline = TrainPipelineSparseDist(model, optimizer, CPU)
data = clicks.batches(STEPS, BATCH, dist.get_rank())
losses = torch.stack([pipeline.progress(data)[0] for _ in range(STEPS)])
dist.all_reduce(losses)
losses /= dist.get_world_size()
if dist.get_rank() == 0:
    first, last = losses[:30].mean(), losses[-30:].mean()
    print(f"loss {first:.4f} in the first 30 steps, {last:.4f} in the last")
dist.destroy_process_group()
