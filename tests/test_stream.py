"""The laws of the Stream: exact content, order, partition among ranks, cache."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from seo_rec.batch import Batch
from seo_rec.data import stream as stream_module
from seo_rec.data.dataset import open_data
from seo_rec.data.stream import Stream
from seo_rec.schema import Column
from stream_data import (
    MIXED,
    PLAIN,
    epoch_of,
    mixed_data,
    numbers,
    plain_data,
    reference,
    rows_of,
    same,
    write,
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_data(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mixed_data(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(params=["plain", "mixed"])
def data(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


# ---- content -------------------------------------------------------------------------------


@pytest.mark.parametrize("name, columns", [("plain", PLAIN), ("mixed", MIXED)])
@pytest.mark.parametrize("batch_size", [1, 7, 16, 1000])
def test_file_order_is_exactly_the_files(
    request: pytest.FixtureRequest, name: str, columns: Sequence[Column], batch_size: int
) -> None:
    folder: Path = request.getfixturevalue(name)
    want = reference(folder, columns)
    stream = Stream(open_data(folder), batch_size=batch_size, window=2)
    batches = list(stream)
    assert rows_of(batches) == want
    assert stream.num_rows == len(want)
    assert len(batches) == len(stream) == -(-len(want) // batch_size)
    assert [b.num_rows for b in batches[:-1]] == [batch_size] * (len(batches) - 1)


@pytest.mark.parametrize("name, columns", [("plain", PLAIN), ("mixed", MIXED)])
def test_shuffle_keeps_rows_whole_and_gives_each_once(
    request: pytest.FixtureRequest, name: str, columns: Sequence[Column]
) -> None:
    folder: Path = request.getfixturevalue(name)
    want = reference(folder, columns)
    got = rows_of(Stream(open_data(folder), batch_size=6, shuffle=True, window=3))
    assert got != want
    assert sorted(got) == sorted(want)


def test_tensors_have_the_types_and_bounds_that_batch_promises(data: Path) -> None:
    for batch in Stream(open_data(data), batch_size=9, shuffle=True):
        kjt = batch.sparse
        assert kjt.values().dtype == torch.int64
        assert kjt.lengths().dtype == torch.int32
        assert batch.dense_BN.dtype == batch.labels_B.dtype == torch.float32
        assert kjt.stride() == batch.num_rows == len(batch.dense_BN)
        # given ahead to spare a synchronisation: they must be what torchrec would compute
        lengths = kjt.lengths().view(len(kjt.keys()), -1).sum(1)
        assert kjt.length_per_key() == lengths.tolist()
        assert kjt.offset_per_key() == [0, *lengths.cumsum(0).tolist()]


def test_embedding_bag_collection_takes_the_batches(mixed: Path) -> None:
    stream = Stream(open_data(mixed), batch_size=16)
    tables = [
        EmbeddingBagConfig(name=f, embedding_dim=4, num_embeddings=100, feature_names=[f])
        for f in stream.features
    ]
    bags = EmbeddingBagCollection(tables=tables)
    reference_rows = reference(mixed, MIXED)
    for step, batch in enumerate(stream):
        rows = reference_rows[16 * step : 16 * step + 16]
        out = bags(batch.sparse)
        for f, name in enumerate(stream.features):
            weight = bags.embedding_bags[name].weight
            want = torch.stack([weight[list(row[0][f])].sum(0) for row in rows])
            torch.testing.assert_close(out[name], want)


def test_columns_are_read_in_schema_order_and_do_not_move_rows(mixed: Path) -> None:
    whole = list(Stream(open_data(mixed), batch_size=7, shuffle=True, window=2))
    some = list(
        Stream(open_data(mixed), batch_size=7, shuffle=True, window=2, columns=["tags", "row"])
    )
    for a, b in zip(whole, some, strict=True):
        assert b.sparse.keys() == ["row", "tags"]
        for key in ("row", "tags"):
            assert torch.equal(a.sparse[key].values(), b.sparse[key].values())
            assert torch.equal(a.sparse[key].lengths(), b.sparse[key].lengths())
        assert torch.equal(a.dense_BN, b.dense_BN)


def test_unread_columns_are_not_decoded(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    original = pq.ParquetFile.read_row_group

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["columns"])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    list(Stream(open_data(mixed), batch_size=7, columns=["row"]))
    assert asked
    assert all(names == ["row", "price", "age", "label"] for names in asked)


def test_data_set_without_features_or_without_dense_columns(tmp_path: Path) -> None:
    dense = write(tmp_path / "dense", [Column("price", "numeric")], [10])
    batches = list(Stream(open_data(dense), batch_size=4))
    assert [b.dense_BN.shape for b in batches] == [(4, 1), (4, 1), (2, 1)]
    assert batches[0].sparse.keys() == []
    sparse = write(tmp_path / "sparse", [Column("row", "categorical", 10)], [10])
    batches = list(Stream(open_data(sparse), batch_size=4))
    assert [b.dense_BN.shape for b in batches] == [(4, 0), (4, 0), (2, 0)]
    assert numbers(batches) == list(range(10))


def test_changing_a_batch_in_place_changes_no_other_epoch(plain: Path) -> None:
    stream = Stream(open_data(plain), batch_size=32, cache="memory")
    for batch in stream:
        batch.sparse.values().zero_()
        batch.dense_BN.zero_()
        batch.labels_B.zero_()
    assert rows_of(stream) == reference(plain, PLAIN)


# ---- order ---------------------------------------------------------------------------------


def expected_order(sizes: Sequence[int], window: int, seed: int, epoch: int) -> list[int]:
    """The order of a shuffled epoch, written down a second time, row by row."""

    def permuted(items: list[Any], *key: int) -> list[Any]:
        bits = np.random.PCG64(np.random.SeedSequence([len(key), *key]))
        draws = [int(bits.random_raw()) for _ in items]
        return [item for _, item in sorted(zip(draws, items, strict=True))]

    ends = list(itertools.accumulate(sizes))
    groups = [list(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
    groups = permuted(groups, seed, epoch)
    order: list[int] = []
    for number, start in enumerate(range(0, len(groups), window)):
        rows = list(itertools.chain(*groups[start : start + window]))
        order += permuted(rows, seed, epoch, number)
    return order


def test_order_is_the_documented_one(plain: Path) -> None:
    sizes = [8] * 12 + [4] + [8] * 9 + [5] + [8] * 6 + [2]
    stream = Stream(open_data(plain), batch_size=16, shuffle=True, seed=3, window=4)
    for epoch in range(2):
        assert numbers(stream) == expected_order(sizes, 4, 3, epoch)


def test_same_seed_same_order_other_seed_or_epoch_another(plain: Path) -> None:
    def epochs(seed: int) -> list[list[list[int]]]:
        stream = Stream(open_data(plain), batch_size=16, shuffle=True, seed=seed, window=4)
        return [epoch_of(stream) for _ in range(3)]

    first = epochs(0)
    assert first == epochs(0)
    orders = [*first, *epochs(1)]
    assert all(a != b for a, b in itertools.combinations(orders, 2))
    for order in orders:
        assert sorted(itertools.chain(*order)) == list(range(227))


def test_order_of_a_seed_never_changes(plain: Path) -> None:
    """Golden: an upgrade of numpy or of this file must not break resume."""
    stream = Stream(open_data(plain), batch_size=16, shuffle=True, seed=7, window=4)
    assert numbers(next(iter(stream))) == [
        51,
        1,
        61,
        54,
        62,
        55,
        57,
        60,
        53,
        50,
        69,
        56,
        67,
        7,
        66,
        4,
    ]


def test_order_does_not_depend_on_batch_size(plain: Path) -> None:
    orders = [
        numbers(Stream(open_data(plain), batch_size=b, shuffle=True, window=4))
        for b in (1, 10, 64, 500)
    ]
    assert all(order == orders[0] for order in orders)


def test_evaluation_keeps_file_order_in_every_epoch(plain: Path) -> None:
    stream = Stream(open_data(plain), "val", batch_size=8, seed=3)
    assert [numbers(stream) for _ in range(2)] == [list(range(20))] * 2


def test_set_epoch_goes_to_the_start_of_that_epoch(plain: Path) -> None:
    stream = Stream(open_data(plain), batch_size=16, shuffle=True)
    epochs = [epoch_of(stream) for _ in range(3)]
    for epoch in (2, 0, 1):
        stream.set_epoch(epoch)
        next(iter(stream))
        stream.set_epoch(epoch)
        assert (stream.epoch, stream.step) == (epoch, 0)
        assert epoch_of(stream) == epochs[epoch]


def test_shuffle_permutes_row_groups_and_mixes_windows(tmp_path: Path) -> None:
    rows, group, window = 4096, 64, 8
    columns = [Column("row", "categorical", rows)]
    folder = write(tmp_path / "d", columns, [rows], group)
    order = np.array(
        numbers(Stream(open_data(folder), batch_size=512, shuffle=True, window=window))
    )
    assert abs(np.corrcoef(np.arange(rows), order)[0, 1]) < 0.3  # 64 groups: sigma is 0.125
    windows = order.reshape(-1, group * window)
    members = [sorted(set((w // group).tolist())) for w in windows]
    assert all(len(m) == window for m in members)  # a window is `window` whole row groups
    assert sorted(itertools.chain(*members)) == list(range(rows // group))
    assert all(np.diff(m).max() > 1 for m in members)  # not neighbours in the file
    for w in windows:
        assert abs(np.corrcoef(np.arange(len(w)), w)[0, 1]) < 0.2
        # any eighth of a window holds rows of nearly all its groups
        assert all(len(set((part // group).tolist())) >= 7 for part in np.split(w, 8))


# ---- ranks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [5, 12, 19, 100])
def test_ranks_partition_every_global_batch(
    mixed: Path, world_size: int, shuffle: bool, batch_size: int
) -> None:
    options: dict[str, Any] = {"shuffle": shuffle, "seed": 2, "window": 3}
    whole = list(Stream(open_data(mixed), batch_size=batch_size * world_size, **options))
    ranks = [
        list(
            Stream(
                open_data(mixed), batch_size=batch_size, rank=r, world_size=world_size, **options
            )
        )
        for r in range(world_size)
    ]
    assert all(len(batches) == len(whole) for batches in ranks)
    for s, batch in enumerate(whole):
        shares = [batches[s] for batches in ranks]
        assert list(itertools.chain(*map(rows_of, shares))) == rows_of(batch)
        sizes = [share.num_rows for share in shares]
        if batch.num_rows == batch_size * world_size:
            assert sizes == [batch_size] * world_size
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 9])
def test_a_rank_may_have_no_rows_in_the_last_batch(tmp_path: Path, rows: int) -> None:
    folder = write(tmp_path / "d", MIXED, [rows], group_rows=2)
    streams = [
        Stream(open_data(folder), batch_size=2, rank=r, world_size=4, window=1) for r in range(4)
    ]
    ranks = [list(s) for s in streams]
    assert {len(b) for b in ranks} == {len(streams[0])} == {-(-rows // 8)}
    assert sorted(n for batches in ranks for n in numbers(batches)) == list(range(rows))
    for batch in itertools.chain(*ranks):
        assert batch.sparse.stride() == batch.num_rows
        assert batch.sparse.keys() == ["row", "colour", "maybe", "tags"]
        assert batch.dense_BN.shape == (batch.num_rows, 2)
        assert len(batch.sparse.lengths()) == 4 * batch.num_rows


def test_drop_last_leaves_out_only_the_short_global_batch(plain: Path) -> None:
    whole = [
        Stream(open_data(plain), batch_size=16, rank=r, world_size=3, shuffle=True)
        for r in range(3)
    ]
    short = [
        Stream(open_data(plain), batch_size=16, rank=r, world_size=3, shuffle=True, drop_last=True)
        for r in range(3)
    ]
    for a, b in zip(whole, short, strict=True):
        assert len(b) == 227 // 48 == len(a) - 1
        assert epoch_of(b) == epoch_of(a)[:-1]
        assert b.epoch == 1


# ---- cache ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [False, True])
def test_cache_and_read_ahead_do_not_change_batches(data: Path, shuffle: bool) -> None:
    def epochs(**more: Any) -> list[Batch]:
        stream = Stream(open_data(data), batch_size=10, shuffle=shuffle, window=3, **more)
        return [batch for _ in range(3) for batch in stream]

    want = epochs(cache="none", read_ahead=0)
    for cache in ("memory", "none", "auto"):
        for read_ahead in (0, 1, 4):
            got = epochs(cache=cache, read_ahead=read_ahead)
            assert all(itertools.starmap(same, zip(got, want, strict=True)))


def test_memory_cache_decodes_once(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Any] = []
    original = stream_module.decode

    def spy(group: Any, *args: Any) -> Any:
        decoded.append((group.path, group.number))
        return original(group, *args)

    monkeypatch.setattr(stream_module, "decode", spy)
    for cache, times in (("memory", 1), ("none", 3)):
        decoded.clear()
        stream = Stream(open_data(plain), batch_size=16, shuffle=True, window=4, cache=cache)
        for _ in range(3):
            list(stream)
        assert {decoded.count(g) for g in decoded} == {times}


def test_auto_cache_depends_on_the_decoded_size(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 61 rows of row, colour (8), maybe (12), price, age, label (4); tags: 4 and 8 per leaf value
    leaves = sum(max(1, len(bags[3])) for bags, _, _ in reference(mixed, MIXED))
    size = 61 * (8 + 8 + 12 + 4 + 4 + 4 + 4) + 8 * leaves
    monkeypatch.setattr(stream_module, "CACHE_LIMIT_BYTES", size)
    assert Stream(open_data(mixed), batch_size=4).cached
    monkeypatch.setattr(stream_module, "CACHE_LIMIT_BYTES", size - 1)
    assert not Stream(open_data(mixed), batch_size=4).cached
    assert Stream(open_data(mixed), batch_size=4, columns=["row"]).cached
    assert Stream(open_data(mixed), batch_size=4, cache="memory").cached


# ---- threads -------------------------------------------------------------------------------


def test_schema_is_public_and_features_are_named(mixed: Path) -> None:
    stream = Stream(open_data(mixed), batch_size=4)
    assert stream.schema.dataset == "fixture"
    assert stream.features == ("row", "colour", "maybe", "tags")
    assert dataclasses.is_dataclass(stream.schema)
