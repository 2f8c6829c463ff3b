"""Laws of ``remap``: one hash, equal to the bit in C, in plain PyTorch and in seo_rec."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_laws import EDGES

from seo_kernels import hash_rows, native, remap
from seo_kernels.remap import mix

STARTS = {
    "equal": [0, 7, 14, 21],
    "ragged": [0, 5, 5, 21],
    "offset": [2, 4, 9, 20],
    "empty": [0, 0, 0, 0],
    "one": [0, 1, 2, 3],
}
FEATURES = [0, 0, 1, 2, 2, 0]
SEEDS = torch.tensor([0, 1, 2**31, 2**62, 2**63 - 1, 5])
ROWS = torch.tensor([1, 2, 3, 2**31 - 1, 2**31, 100_000])
IDS = torch.tensor([*EDGES, *range(2**62 - 7, 2**62 + 7)])
ids = st.integers(0, 2**63 - 1) | st.sampled_from(EDGES)


def one_at_a_time(starts, shifts=None) -> torch.Tensor:
    parts = []
    for k, f in enumerate(FEATURES):
        rows = hash_rows(IDS[starts[f] : starts[f + 1]], int(SEEDS[k]), int(ROWS[k]))
        parts.append(rows if shifts is None else rows + shifts[k])
    return torch.cat(parts)


@pytest.mark.parametrize("starts", STARTS)
def test_all_lookups_in_one_pass_are_each_lookup(path, starts):
    found = remap(IDS, STARTS[starts], FEATURES, SEEDS, ROWS)
    assert torch.equal(found, one_at_a_time(STARTS[starts]))
    shifts = torch.arange(6) * 2**40
    found = remap(IDS, STARTS[starts], FEATURES, SEEDS, ROWS, shifts)
    assert torch.equal(found, one_at_a_time(STARTS[starts], shifts))


@given(st.lists(ids, min_size=1, max_size=20), ids, st.integers(1, 2**31))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_hash_is_seo_recs_to_the_bit(values, seed, rows):
    from seo_rec.embed import remap as seo_rec_remap

    ids_V = torch.tensor(values)
    wanted = seo_rec_remap.hash_rows(ids_V, seed, rows)
    one = [0, len(values)], [0], torch.tensor([seed]), torch.tensor([rows])
    assert torch.equal(hash_rows(ids_V, seed, rows), wanted)
    assert torch.equal(remap(ids_V, *one), wanted)
    assert torch.equal(mix(ids_V), seo_rec_remap.mix_(ids_V.clone()))
    assert ((wanted >= 0) & (wanted < rows)).all()


def test_threads_change_nothing(path, monkeypatch):
    monkeypatch.setattr(native, "REMAP_GRAIN", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    found = remap(IDS, STARTS["ragged"], FEATURES, SEEDS, ROWS)
    assert torch.equal(found, one_at_a_time(STARTS["ragged"]))


def test_opcheck(path):
    op = torch.ops.seo_kernels.remap.default
    for starts, shifts in (("equal", None), ("ragged", torch.arange(6)), ("empty", None)):
        torch.library.opcheck(op, (IDS, STARTS[starts], FEATURES, SEEDS, ROWS, shifts))


def test_ids_may_be_strided(path):
    wide = torch.stack([IDS, IDS], 1)[:, 0]
    found = remap(wide, STARTS["equal"], FEATURES, SEEDS, ROWS)
    assert torch.equal(found, one_at_a_time(STARTS["equal"]))


def test_no_lookups(path):
    none = torch.empty(0, dtype=torch.int64)
    assert remap(IDS, [0, 3], [], none, none).shape == (0,)


@pytest.mark.parametrize(
    "starts, features, seeds, match",
    [
        ([0, 7, 22], [0], [1], "starts .* at most 21 ids"),
        ([0, 7, 5], [0], [1], "must rise"),
        ([-1, 7], [0], [1], "must rise"),
        ([0, 7], [1], [1], r"features \[1\] must be in \[0, 1\)"),
        ([0, 7], [-1], [1], "features"),
        ([0, 7], [0, 0], [1], r"seeds_K is torch.int64 of shape \(1,\); .* shape \(2,\)"),
        ([0, 7], [0], [1.0], "seeds_K is torch.float32"),
    ],
)
def test_refusals(path, starts, features, seeds, match):
    with pytest.raises(ValueError, match=match):
        remap(IDS, starts, features, torch.tensor(seeds), torch.ones(1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"ids_V is torch\.int32"):
        remap(IDS.int(), [0, 7], [0], torch.ones(1).long(), torch.ones(1).long())
