"""The laws of the Stream: order, partition, resume, exact content, errors, threads."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from seo_rec.batch import Batch
from seo_rec.data import row_groups
from seo_rec.data import stream as stream_module
from seo_rec.data.dataset import open_data
from seo_rec.data.read_ahead import THREAD_NAME
from seo_rec.data.stream import Stream
from seo_rec.schema import SCHEMA_FILE, Column, DataError, Schema

# Rows are Python tuples (bags of each feature, dense columns, label): the reference for content.
Row = tuple[tuple[tuple[int, ...], ...], tuple[float, ...], float]

PLAIN = (
    Column("row", "categorical", 10_000),
    Column("price", "numeric"),
    Column("colour", "categorical", 50),
)
MIXED = (
    *PLAIN,
    Column("maybe", "categorical", 50, 0.7),
    Column("age", "numeric"),
    Column("tags", "multivalent", 50, 1.5),
)
KINDS = {
    "categorical": pa.int64(),
    "multivalent": pa.list_(pa.int64()),
    "numeric": pa.float32(),
}


def table(columns: Sequence[Column], rows: int, first: int = 0) -> Any:
    """Rows first .. first + rows; the feature `row` is the row's number."""
    rng = np.random.default_rng([first, rows])

    def cell(column: Column, number: int) -> Any:
        value = int(rng.integers(50))
        if column.name == "row":
            return number
        if column.kind == "numeric":
            return float(rng.normal())
        if column.kind == "categorical":
            missing = column.lookups_per_row < 1 and rng.random() < 0.3
            return None if missing else value
        bags: list[list[int] | None] = [None, [], [value], [value, number % 50, value]]
        return bags[int(rng.integers(4))]

    data = {
        c.name: pa.array([cell(c, first + i) for i in range(rows)], KINDS[c.kind]) for c in columns
    }
    data["label"] = pa.array(rng.integers(0, 2, rows).astype(np.float32))
    return pa.table(data)


def write(
    data: Path, columns: Sequence[Column], shards: Sequence[int], group_rows: int = 8, **more: int
) -> Path:
    """A data set whose training split has the given shard sizes; `more` are other splits."""
    num_rows = {"train": sum(shards), **more}
    schema = Schema("fixture", tuple(columns), "label", num_rows, dict.fromkeys(num_rows, 0.5))
    data.mkdir(parents=True, exist_ok=True)
    (data / SCHEMA_FILE).write_text(json.dumps(schema.to_json()))
    for split, sizes in {"train": shards, **{k: [v] for k, v in more.items()}}.items():
        (data / split).mkdir()
        first = 0
        for number, size in enumerate(sizes):
            path = data / split / f"part-{number:05d}.parquet"
            pq.write_table(table(columns, size, first), path, row_group_size=group_rows)
            first += size
    return data


def reference(data: Path, columns: Sequence[Column], split: str = "train") -> list[Row]:
    """All rows in file order, by pyarrow's own conversion to Python."""
    rows: list[Row] = []
    for path in sorted((data / split).glob("*.parquet")):
        for record in pq.read_table(path).to_pylist():
            bags = []
            for column in columns:
                value = record[column.name]
                if column.kind == "categorical":
                    bags.append(() if value is None else (value,))
                elif column.kind == "multivalent":
                    bags.append(tuple(value or ()))
            dense = tuple(record[c.name] for c in columns if c.kind == "numeric")
            rows.append((tuple(bags), dense, record["label"]))
    return rows


def rows_of(batches: Batch | Iterable[Batch]) -> list[Row]:
    """The rows of batches, read through the public face of the KeyedJaggedTensor."""
    rows: list[Row] = []
    for batch in [batches] if isinstance(batches, Batch) else batches:
        keys = batch.sparse.keys()
        features = [batch.sparse[key] for key in keys]
        bags = [[tuple(bag.tolist()) for bag in f.to_dense()] for f in features]
        for i in range(batch.num_rows):
            dense = tuple(batch.dense_BN[i].tolist())
            rows.append((tuple(b[i] for b in bags), dense, float(batch.labels_B[i])))
    return rows


def numbers(batches: Batch | Iterable[Batch]) -> list[int]:
    """The row numbers in batches: the ids of the feature `row`."""
    batches = [batches] if isinstance(batches, Batch) else batches
    return [i for b in batches for i in b.sparse["row"].values().tolist()]


def epoch_of(stream: Stream) -> list[list[int]]:
    return [numbers(batch) for batch in stream]


def same(a: Batch, b: Batch) -> bool:
    return (
        a.sparse.keys() == b.sparse.keys()
        and a.sparse.stride() == b.sparse.stride()
        and torch.equal(a.sparse.values(), b.sparse.values())
        and torch.equal(a.sparse.lengths(), b.sparse.lengths())
        and torch.equal(a.dense_BN, b.dense_BN)
        and torch.equal(a.labels_B, b.labels_B)
    )


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """227 rows in 3 shards, row groups of 8 rows and of shards' ends; all bags have one id."""
    return write(tmp_path_factory.mktemp("plain"), PLAIN, [100, 77, 50], val=20, test=0)


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """61 rows with nulls, null lists and empty lists."""
    return write(tmp_path_factory.mktemp("mixed"), MIXED, [40, 21])


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


# ---- resume --------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize("rank, world_size", [(0, 1), (2, 3)])
def test_resume_at_every_step_equals_the_uninterrupted_run(
    mixed: Path, cache: str, rank: int, world_size: int
) -> None:
    def stream(**more: Any) -> Stream:
        return Stream(
            open_data(mixed),
            batch_size=4,
            shuffle=True,
            seed=5,
            window=2,
            rank=rank,
            world_size=world_size,
            cache=cache,
            **more,
        )

    uninterrupted = stream()
    states, batches = [uninterrupted.state_dict()], []
    for _ in range(2):
        for batch in uninterrupted:
            batches.append(batch)
            states.append(uninterrupted.state_dict())
    assert all(type(v) is int for state in states for v in state.values())
    for k, state in enumerate(json.loads(json.dumps(states))[:-1]):
        resumed = stream(read_ahead=k % 3)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        rest = list(resumed)
        if resumed.epoch < 2:
            rest += list(resumed)
        assert len(rest) == len(batches) - k
        assert all(itertools.starmap(same, zip(rest, batches[k:], strict=True)))
        assert resumed.state_dict() == states[-1]


def test_state_counts_batches_handed_out_not_those_decoded_ahead(plain: Path) -> None:
    stream = Stream(open_data(plain), batch_size=16, window=1, read_ahead=8)
    batches = iter(stream)
    for step in range(1, 6):
        next(batches)
        time.sleep(0.01)
        assert stream.state_dict()["step"] == stream.step == step


def test_handing_out_the_last_batch_ends_the_epoch(plain: Path) -> None:
    stream = Stream(open_data(plain), batch_size=100)
    positions = [(stream.epoch, stream.step) for _ in stream]
    assert positions == [(0, 1), (0, 2), (1, 0)]


def test_leaving_a_loop_early_continues_in_the_next(plain: Path) -> None:
    stream = Stream(open_data(plain), batch_size=16, shuffle=True)
    want = epoch_of(Stream(open_data(plain), batch_size=16, shuffle=True))
    got = [numbers(b) for b in itertools.islice(stream, 5)]
    assert got + epoch_of(stream) == want


@pytest.mark.parametrize("old, new", [((8, 4), (16, 2)), ((32, 1), (8, 4)), ((8, 2), (4, 2))])
def test_resume_on_another_number_of_ranks(
    plain: Path, old: tuple[int, int], new: tuple[int, int]
) -> None:
    """The rows after step s are the same set of global batches, split among other ranks."""

    def streams(batch_size: int, world_size: int) -> list[Stream]:
        return [
            Stream(
                open_data(plain), batch_size=batch_size, rank=r, world_size=world_size, shuffle=True
            )
            for r in range(world_size)
        ]

    before = streams(*old)
    used = [numbers(itertools.islice(s, 3)) for s in before]
    state = before[0].state_dict()
    assert all(s.state_dict() == state for s in before)
    after = streams(*new)
    for s in after:
        s.load_state_dict(state)
    rest = [numbers(s) for s in after]
    assert sorted(itertools.chain(*used, *rest)) == list(range(227))


def test_resume_decodes_only_what_is_left(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Stream(open_data(plain), batch_size=16, shuffle=True, window=2, read_ahead=0)
    for _ in itertools.islice(first, 12):
        pass
    decoded: list[Any] = []
    original = stream_module.decode

    def spy(group: Any, *args: Any) -> Any:
        decoded.append(group)
        return original(group, *args)

    monkeypatch.setattr(stream_module, "decode", spy)
    second = Stream(open_data(plain), batch_size=16, shuffle=True, window=2, read_ahead=0)
    second.load_state_dict(first.state_dict())
    rest = 227 - 12 * 16
    assert len(numbers(second)) == rest
    assert sum(g.num_rows for g in decoded) <= rest + 2 * 8  # at most one window more


def test_state_of_another_data_set_split_or_order_is_refused(
    plain: Path, mixed: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"batch_size": 8, "shuffle": True, "seed": 1, "window": 2}
    stream = Stream(open_data(plain), **options)
    next(iter(stream))
    state = stream.state_dict()
    regrouped = write(tmp_path / "d", PLAIN, [100, 77, 50], group_rows=16, val=20, test=0)
    for other in (
        Stream(open_data(mixed), **options),
        Stream(open_data(plain), "val", **options),
        Stream(open_data(regrouped), **options),
    ):
        with pytest.raises(DataError, match=r"another data set or split.*open the data"):
            other.load_state_dict(state)
    for change, message in (
        ({"seed": 2}, r"seed=1, this stream seed=2.*open the stream with seed=1"),
        ({"window": 3}, "window=2, this stream window=3"),
        ({"shuffle": False}, "shuffle=1, this stream shuffle=0"),
        ({"batch_size": 3}, r"1 batches of 8 rows .* keep batch_size \* world_size at 8"),
    ):
        with pytest.raises(DataError, match=message):
            Stream(open_data(plain), **(options | change)).load_state_dict(state)
    with pytest.raises(DataError, match="got keys"):
        stream.load_state_dict({"step": 3})
    with pytest.raises(DataError, match="state version 99"):
        stream.load_state_dict(state | {"version": 99})
    for position in ({"step": 29}, {"step": -1}, {"epoch": -1}):
        with pytest.raises(DataError, match="not a position"):
            stream.load_state_dict(state | position)
    assert stream.state_dict() == state


def test_an_iterator_that_lost_its_place_raises(plain: Path) -> None:
    stream = Stream(open_data(plain), batch_size=16)
    moves: list[Callable[[], Any]] = [
        lambda: iter(stream),
        lambda: stream.set_epoch(0),
        lambda: stream.load_state_dict(stream.state_dict()),
    ]
    for move in moves:
        old = iter(stream)
        next(old)
        move()
        with pytest.raises(RuntimeError, match="stale"):
            next(old)


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


# ---- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"split": "holdout"}, r"no split 'holdout'.*\['test', 'train', 'val'\]"),
        ({"split": "test"}, "split 'test' has no rows"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"window": 0}, "window is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"read_ahead": -1}, "read_ahead is -1"),
        ({"world_size": 0}, "world_size is 0"),
        ({"rank": 2, "world_size": 2}, r"rank is 2; with world_size 2 .* \[0, 2\)"),
        ({"cache": "disk"}, "cache is 'disk'; allowed: auto, memory, none"),
        ({"columns": ["row", "size"]}, r"\['size'\].*schema.json are \['row', 'colour'\]"),
        ({"columns": ["price"]}, r"\['price'\].*numeric columns are always read"),
        ({"columns": []}, "no feature"),
        ({"columns": "row"}, "pass a list"),
        ({"batch_size": 300, "drop_last": True}, "227 rows do not fill .* smaller batch_size"),
    ],
)
def test_wrong_arguments(plain: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Stream(open_data(plain), **({"batch_size": 8} | options))


def test_not_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a prepared data set"):
        Stream(open_data(tmp_path), batch_size=8)


def test_missing_shards(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", PLAIN, [20, 20])
    (folder / "train" / "part-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"train: 20 rows in 1 shards.*says 40.*missing"):
        Stream(open_data(folder), batch_size=8)
    (folder / "train" / "part-00000.parquet").unlink()
    with pytest.raises(DataError, match="0 rows in 0 shards"):
        Stream(open_data(folder), batch_size=8)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.drop_columns(["colour"]), r"missing \['colour'\]"),
        (lambda t: t.append_column("size", t["row"]), r"not in the schema \['size'\]"),
        (lambda t: t.drop_columns(["label"]), r"missing \['label'\]"),
        (
            lambda t: t.set_column(2, "colour", t["colour"].cast(pa.string())),
            "'colour' is string; a categorical column must be int64",
        ),
        (
            lambda t: t.set_column(1, "price", t["price"].cast(pa.float64())),
            "'price' is double; a numeric column must be float32",
        ),
        (
            lambda t: t.set_column(5, "tags", t["row"]),
            "'tags' is int64; a multivalent column must be list<int64>",
        ),
    ],
)
def test_shard_that_does_not_match_the_schema(
    tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    folder = write(tmp_path / "d", MIXED, [20, 20])
    path = folder / "train" / "part-00001.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(DataError, match=r"part-00001\.parquet: .*" + message):
        Stream(open_data(folder), batch_size=8)


@pytest.mark.parametrize(
    "column, values, message",
    [
        ("price", [None] * 20, "column 'price' has 20 nulls"),
        ("label", [0.0] * 19 + [None], "column 'label' has 1 nulls"),
        ("tags", [[1, None]] * 20, "column 'tags' has 20 nulls inside its lists"),
    ],
)
@pytest.mark.parametrize("read_ahead", [0, 2])
def test_nulls_where_none_may_be(
    tmp_path: Path, column: str, values: list[Any], message: str, read_ahead: int
) -> None:
    folder = write(tmp_path / "d", MIXED, [20])
    path = folder / "train" / "part-00000.parquet"
    old = pq.read_table(path)
    place = old.schema.get_field_index(column)
    array = pa.array(values, old.schema.field(column).type)
    pq.write_table(old.set_column(place, column, array), path)
    with pytest.raises(DataError, match=r"part-00000\.parquet: row group 0: " + message):
        list(Stream(open_data(folder), batch_size=8, read_ahead=read_ahead))
    assert_no_threads()


def test_lists_over_rows_that_are_null_leave_nothing_behind(tmp_path: Path) -> None:
    """Arrow may keep values under a null list; they must not enter the next bag."""
    columns = [Column("tags", "multivalent", 50, 1.0)]
    folder = write(tmp_path / "d", columns, [4])
    offsets = pa.array([0, 2, 3, 3, 5], pa.int32())
    mask = pa.array([False, True, False, False])
    lists = pa.ListArray.from_arrays(offsets, pa.array([1, 2, 9, 3, 4]), mask=mask)
    group = row_groups.RowGroup(Path("none"), None, 0, 4)
    array = row_groups._bags(pa.chunked_array([lists]), "tags", group)
    assert array.values.tolist() == [1, 2, 3, 4]
    assert array.lengths is not None
    assert array.lengths.tolist() == [2, 0, 0, 2]
    assert [len(b[0][0]) for b in rows_of(Stream(open_data(folder), batch_size=4))] == [
        len(b[0][0]) for b in reference(folder, columns)
    ]


def test_corrupt_files_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", PLAIN, [200, 200], group_rows=100)
    path = folder / "train" / "part-00001.parquet"
    good = path.read_bytes()
    path.write_bytes(good[:-20])
    with pytest.raises(DataError, match=r"part-00001\.parquet: not readable as parquet"):
        Stream(open_data(folder), batch_size=8)
    # the footer is whole, the pages are not: found while reading, in the thread
    path.write_bytes(b"PAR1" + b"\xff" * (len(good) // 2) + good[4 + len(good) // 2 :])
    for read_ahead in (0, 2):
        with pytest.raises(DataError, match=r"part-00001\.parquet: row group 0: not readable"):
            list(Stream(open_data(folder), batch_size=8, window=1, read_ahead=read_ahead))
    assert_no_threads()


# ---- threads -------------------------------------------------------------------------------


def assert_no_threads() -> None:
    gc.collect()
    assert [t for t in threading.enumerate() if t.name == THREAD_NAME] == []


def test_no_thread_outlives_its_loop(plain: Path) -> None:
    stream = Stream(open_data(plain), batch_size=4, window=1, read_ahead=1)
    list(stream)
    assert_no_threads()

    for _ in stream:
        break
    assert_no_threads()

    def fail() -> None:
        for _ in stream:
            raise ValueError("the training step")

    with pytest.raises(ValueError, match="the training step"):
        fail()
    assert_no_threads()

    kept = iter(stream)
    next(kept)
    assert [t for t in threading.enumerate() if t.name == THREAD_NAME]
    del kept
    assert_no_threads()

    iter(stream)
    assert_no_threads()


@pytest.mark.slow
def test_an_iterator_left_open_does_not_hang_the_interpreter(plain: Path) -> None:
    program = (
        "from seo_rec.data.dataset import open_data\n"
        "from seo_rec.data.stream import Stream\n"
        f"data = open_data({str(plain)!r})\n"
        "stream = Stream(data, batch_size=4, window=1, read_ahead=1)\n"
        "batches = iter(stream)\n"
        "next(batches)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_schema_is_public_and_features_are_named(mixed: Path) -> None:
    stream = Stream(open_data(mixed), batch_size=4)
    assert stream.schema.dataset == "fixture"
    assert stream.features == ("row", "colour", "maybe", "tags")
    assert dataclasses.is_dataclass(stream.schema)
