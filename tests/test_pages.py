"""Large pages of memory: values stay, and rows of shards and their states ask for them."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import pytest
import torch

from seo_kernels.pages import PAGE, ask_for_large_pages
from seo_rec.methods import separate
from seo_rec.model import ModelSettings, build_model
from seo_rec.plan import Placement, Shard
from seo_rec.schema import Column, Schema
from seo_rec.train import distribute, make_optimizers, ranks
from seo_rec.train.optimizers import inner_model
from spawn import run_ranks

MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
GIVEN = MODE.exists() and "[never]" not in MODE.read_text()
if_given = pytest.mark.skipif(not GIVEN, reason="this system gives no large pages")


def large_bytes(tensor: torch.Tensor) -> int:
    """Bytes of large pages in the mapping of memory that holds the middle of a tensor."""
    middle, inside = tensor.data_ptr() + tensor.nbytes // 2, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= middle < int(found[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            return int(line.split()[1]) * 1024
    return 0


def is_advised(tensor: torch.Tensor) -> bool:
    """Whether large pages are asked for at the middle of a tensor; Linux gives those it finds."""
    middle, inside = tensor.data_ptr() + tensor.nbytes // 2, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= middle < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    return False


@pytest.mark.parametrize("filled", [False, True])
def test_values_stay_and_what_is_small_or_elsewhere_is_left_alone(filled: bool) -> None:
    values = torch.arange(5 * PAGE // 4, dtype=torch.float32)
    ask_for_large_pages(values, filled)
    assert torch.equal(values, torch.arange(5 * PAGE // 4, dtype=torch.float32))
    assert not ask_for_large_pages(torch.zeros(100), filled)
    assert not ask_for_large_pages(torch.zeros(PAGE, device="meta"), filled)


@if_given
@pytest.mark.parametrize("filled", [False, True])
def test_memory_lies_in_large_pages_once_it_is_written(filled: bool) -> None:
    private = mmap.mmap(-1, 16 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    values = torch.frombuffer(private, dtype=torch.uint8)
    if filled:
        values.fill_(1)
        assert large_bytes(values) == 0 or "[always]" in MODE.read_text()
    if not ask_for_large_pages(values, filled) and filled:
        pytest.skip("this Linux does not move memory to large pages")
    values.fill_(2)
    assert is_advised(values)
    assert not filled or large_bytes(values) >= PAGE


@if_given
def test_large_pages_are_asked_for_rows_of_shards_and_their_states() -> None:
    rows = 4 * PAGE // 64
    schema = Schema("s", (Column("c", "categorical", rows),), "label", {"train": 0}, {"train": 0.5})

    def found() -> list[bool]:
        policy = separate(schema, 16 * rows, 16)
        model = build_model(policy, 0, ModelSettings(hidden=(4,)), 0)
        (table,) = policy.tables
        placed = (Placement(table.name, "table_wise", (Shard(0, 0, 0, rows, 16),)),)
        sharded = distribute(model, placed, ranks(), row_optimizer="adagrad", row_lr=0.1)
        updates = make_optimizers(sharded, "adagrad", 0.1, 0.1)["rows"]
        (weight,) = inner_model(sharded).embedding.sparse_shards[0].weights
        (state,) = updates.state.values()
        state["sum"].fill_(1)
        return [is_advised(weight), is_advised(state["sum"])]

    assert not is_advised(torch.zeros(4 * PAGE))
    (advised,) = run_ranks(found, 1)
    assert advised == [True, True]
