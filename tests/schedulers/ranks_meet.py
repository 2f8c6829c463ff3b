"""A job of a few lines: each process adds its number to a sum over gloo and writes what it saw."""

import json
import os
import socket
import sys
from pathlib import Path

import torch
import torch.distributed as dist


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    total = torch.tensor([rank + 1.0])
    dist.all_reduce(total)
    seen = {
        "host": socket.gethostname(),
        "world": dist.get_world_size(),
        "sum": total.item(),
        "master": os.environ["MASTER_ADDR"],
    }
    (folder / f"rank-{rank}.json").write_text(json.dumps(seen))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
