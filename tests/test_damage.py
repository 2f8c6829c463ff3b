"""Nothing damaged is used: every file that the product writes and reads again."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hostile import hostile
from seo_rec import recipes
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.split import Split
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.data.vocabulary import read_vocabulary
from seo_rec.export import package
from seo_rec.files import checksum
from seo_rec.recipes.evaluation import stream_of
from seo_rec.recipes.searching import read_search
from seo_rec.runs import Run, RunError, SearchRecord
from seo_rec.schema import SPLITS, DataError
from seo_rec.settings import FitSettings, ModelSettings, Training
from seo_rec.train import CheckpointError
from seo_rec.train.weights import read_weights, save_weights

# ---- flipped bits --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with every kind of column, made of 400 rows."""
    rng = np.random.default_rng(0)
    raw = tmp_path_factory.mktemp("raw") / "rows.csv"
    lines = ["y,price,user,tags"]
    for label, price, user, a, b in rng.integers(0, (2, 50, 90, 20, 20), (400, 5)):
        lines.append(f"{label},{price / 8},{user},{a}|{b}")
    raw.write_text("\n".join(lines) + "\n")
    out = raw.parent / "data"
    columns = TableColumns("y", categorical=("user",), multivalent=("tags",), numeric=("price",))
    prepare_table(raw, out, columns=columns, split=Split("random", 1, (0.5, 0.25, 0.25)))
    return out


def content(folder: Path) -> list[Any]:
    """Everything that a training, a method or an evaluation reads of a data set."""
    data = open_data(folder)
    found: list[Any] = [data.schema]
    for split in SPLITS:
        for batch in data.stream(split, batch_size=64):
            tensors = batch.dense_BN, batch.sparse.values(), batch.sparse.lengths(), batch.labels_B
            found += [t.tolist() for t in tensors]
    for column in data.schema.features:
        found += [array.tolist() for array in data.counts(column.name)]
    return found


def flipped(whole: bytes, chance: random.Random) -> bytes:
    """A copy with one to four flipped bits."""
    damaged = bytearray(whole)
    for bit in chance.sample(range(8 * len(whole)), chance.randint(1, 4)):
        damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@pytest.mark.parametrize("times", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_flipped_bit_of_a_data_set_is_read_as_other_data(
    prepared: Path, tmp_path: Path, times: int
) -> None:
    """Either one line names the file, or everything that is read is as it was (white space)."""
    folder = tmp_path / "data"
    shutil.copytree(prepared, folder)
    expected = content(folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    assert len(files) == 3 + 2 + 1
    chance, refused = random.Random(times), dict.fromkeys(files, 0)
    for number in range(times):
        path = files[number % len(files)]
        whole = path.read_bytes()
        path.write_bytes(flipped(whole, chance))
        try:
            assert content(folder) == expected, path
        except DataError as error:
            assert str(path) in str(error) and "\n" not in str(error), path
            refused[path] += 1
        path.write_bytes(whole)
    for path, count in refused.items():
        if path.suffix == ".parquet":
            assert count >= times // len(files), path  # every one of them
        assert count > times // len(files) // 2, path
    assert content(folder) == expected


def test_pages_have_checksums_of_their_own(prepared: Path, tmp_path: Path) -> None:
    """A file that is damaged after it was verified is found where its pages are read."""
    folder = tmp_path / "data"
    shutil.copytree(prepared, folder)
    path = folder / "train" / "part-00000.parquet"
    whole, footer = path.read_bytes(), pq.read_metadata(path)
    assert footer.num_row_groups == 1 and footer.num_columns == 4
    for at in range(footer.num_columns):
        chunk = footer.row_group(0).column(at)
        stream = open_data(folder).stream("train", batch_size=64)
        damaged = bytearray(whole)
        end = (chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size
        damaged[end - 3] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"part-00000\.parquet: row group 0: not readable"):
            list(stream)
        path.write_bytes(whole)


# ---- what is verified, and when ------------------------------------------------------------


def test_each_shard_is_verified_once(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def noted(path: Path) -> Any:
        read.append(path.name if path.parent.name == "vocabulary" else path.parent.name)
        return checksum(path)

    monkeypatch.setattr("seo_rec.data.integrity.checksum", noted)
    data = open_data(prepared)
    for _ in range(2):
        data.stream("train", batch_size=64)
        data.stream("test", batch_size=64)
        data.counts("user")
    assert read == ["train", "test", "user.parquet"]
    assert set(data.verify_all()) == {
        *(f"{split}/part-00000.parquet" for split in SPLITS),
        "vocabulary/tags.parquet",
        "vocabulary/user.parquet",
    }
    assert sorted(read[3:]) == ["tags.parquet", "test", "train", "user.parquet", "val"]


def test_the_ranks_of_a_launch_share_the_shards(tmp_path: Path, prepared: Path) -> None:
    """Every shard is verified by exactly one of the ranks."""
    folder = shutil.copytree(prepared, tmp_path / "data")
    document = json.loads((folder / "schema.json").read_text())
    del document["sha256"]
    one = document["files"]["train/part-00000.parquet"]
    for number in range(1, 5):
        name = f"train/part-{number:05d}.parquet"
        shutil.copy(folder / "train" / "part-00000.parquet", folder / name)
        document["files"][name] = {**one, "sha256": "0" * 64}
    (folder / "schema.json").write_text(json.dumps(document))
    named = []
    for rank in range(5):
        try:
            open_data(folder).verify("train", rank=rank, world_size=5)
        except DataError as error:
            named.append(str(error).split(":")[0][-18:])
    assert named == [f"part-{number:05d}.parquet" for number in range(1, 5)]


def test_missing_and_left_over_shards_are_named(tmp_path: Path, prepared: Path) -> None:
    folder = shutil.copytree(prepared, tmp_path / "data")
    shard = folder / "val" / "part-00000.parquet"
    shard.rename(folder / "val" / "part-00001.parquet")
    with pytest.raises(DataError, match=r"missing \['part-00000.*left over \['part-00001"):
        open_data(folder).stream("val", batch_size=8)
    open_data(folder).stream("train", batch_size=8)
    (folder / "vocabulary" / "other.parquet").write_bytes(
        (folder / "vocabulary" / "user.parquet").read_bytes()
    )
    with pytest.raises(DataError, match="does not list this file"):
        open_data(folder).counts("other")


def test_data_of_earlier_releases_are_read_with_a_note(
    tmp_path: Path, prepared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(prepared, tmp_path / "data")
    document = json.loads((folder / "schema.json").read_text())
    del document["sha256"], document["files"]
    (folder / "schema.json").write_text(json.dumps(document))
    caplog.set_level("INFO", "seo_rec.progress")
    old, new = open_data(folder), open_data(prepared)
    assert old.fingerprint == new.fingerprint
    assert content(folder)[1:] == content(prepared)[1:]
    caplog.clear()
    for split in ("train", "train", "val"):
        old.stream(split, batch_size=8)
    assert [r.message for r in caplog.records if "lists no checksums" in r.message] == [
        caplog.records[0].message
    ]
    with pytest.raises(DataError, match="lists no checksums, so nothing can be verified"):
        old.verify_all()


def test_the_command_verifies_a_folder(
    tmp_path: Path, prepared: Path, seo_rec: Callable[..., Any]
) -> None:
    folder = shutil.copytree(prepared, tmp_path / "data")
    done = seo_rec("prepare", "verify", folder)
    assert done.code == 0 and "5 files" in done.out and "as they were prepared" in done.out
    path = folder / "vocabulary" / "tags.parquet"
    path.write_bytes(flipped(path.read_bytes(), random.Random(0)))
    done = seo_rec("prepare", "verify", folder)
    assert done.code == 2 and done.err.count("\n") == 1
    assert f"{path}: damaged or replaced" in done.err


# ---- values that no preparation writes -----------------------------------------------------


def rewritten(folder: Path, to: Path, column: str, change: Callable[[Any], Any]) -> DataSet:
    """The data set with another training shard, and no checksums that would tell."""
    shutil.copytree(folder, to)
    path = to / "train" / "part-00000.parquet"
    table = pq.read_table(path)
    at = table.schema.get_field_index(column)
    values = table[column].to_pylist()
    values[5] = change(values[5])
    array = pa.array(values, table.schema.field(at).type)
    pq.write_table(table.set_column(at, table.schema.field(at), array), path)
    document = json.loads((to / "schema.json").read_text())
    del document["sha256"], document["files"]
    (to / "schema.json").write_text(json.dumps(document))
    return open_data(to)


BAD_VALUES: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "half a label": ("y", lambda _: 0.5, "has labels other than 0 and 1"),
    "no label": ("y", lambda _: float("nan"), "has labels other than 0 and 1"),
    "label -1": ("y", lambda _: -1.0, "has labels other than 0 and 1"),
    "NaN": ("price", lambda _: float("nan"), "has NaN or infinite numbers"),
    "infinite": ("price", lambda _: float("-inf"), "has NaN or infinite numbers"),
    "negative id": ("user", lambda _: -7, "has the id -7; allowed: 0 or more"),
    "negative id in a list": ("tags", lambda v: [*v, -1], "has the id -1; allowed: 0 or more"),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_values_outside_the_format_are_named(tmp_path: Path, prepared: Path, name: str) -> None:
    column, change, message = BAD_VALUES[name]
    data = rewritten(prepared, tmp_path / "data", column, change)
    place = rf"part-00000\.parquet: row group 0: column '{column}' {message}"
    with pytest.raises(DataError, match=place):
        list(data.stream("train", batch_size=64))


def vocabularies() -> Iterator[tuple[str, Any]]:
    ids, counts = pa.array([3, 5, 9]), pa.array([1, 2, 1])
    yield "no numbers", pa.table({"id": ["a", "b"], "count": [1, 2]})
    yield "doubles", pa.table({"id": ids.cast(pa.float64()), "count": counts})
    yield "a null", pa.table({"id": ids, "count": pa.array([1, None, 1])})
    yield "not sorted", pa.table({"id": pa.array([3, 9, 5]), "count": counts})
    yield "twice", pa.table({"id": pa.array([3, 3, 5]), "count": counts})
    yield "negative", pa.table({"id": pa.array([-3, 3, 5]), "count": counts})
    yield "count 0", pa.table({"id": ids, "count": pa.array([1, 0, 1])})
    yield "no count", pa.table({"id": ids})


@pytest.mark.parametrize(
    "name, table", list(vocabularies()), ids=lambda v: v if type(v) is str else ""
)
def test_vocabularies_outside_the_format_are_refused(tmp_path: Path, name: str, table: Any) -> None:
    (tmp_path / "vocabulary").mkdir()
    pq.write_table(table, tmp_path / "vocabulary" / "u.parquet")
    with pytest.raises(DataError, match=r"u\.parquet: not a vocabulary file"):
        read_vocabulary(tmp_path, "u")


# ---- documents -----------------------------------------------------------------------------


def test_a_schema_is_checked_by_type_and_shape(prepared: Path, tmp_path: Path) -> None:
    """Every value replaced in turn: an error on one line that names the file, or data to open."""
    document = json.loads((prepared / "schema.json").read_text())
    del document["sha256"]
    refused = 0
    for what, spoilt in hostile(document):
        (tmp_path / "schema.json").write_text(json.dumps(spoilt))
        try:
            data = open_data(tmp_path)
            data.require_rows("train", "val", "test")
            data.check_validation(warn=False)
            data.verify_all()
        except DataError as error:
            assert str(tmp_path) in str(error) and "\n" not in str(error), what
            refused += 1
        except BaseException as error:
            pytest.fail(f"{what}: {type(error).__name__}: {error}")
    assert refused > 500


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = open_data(tiny)
    out = tmp_path_factory.mktemp("trained") / "run"
    policy = recipes.method_policy("separate", data, 400, 4)
    training = Training(ModelSettings(hidden=(4,)), FitSettings(epochs=1, batch_size=500))
    recipes.train(data, policy, out, training)
    return out


def lines_of_spoilt(path: Path, read: Callable[[], object]) -> Iterator[str]:
    """Messages of the errors of ``read``, with each value of a JSON file replaced in turn."""
    honest = path.read_text()
    for what, spoilt in hostile(json.loads(honest)):
        path.write_text(json.dumps(spoilt))
        try:
            read()
        except (ValueError, RunError, CheckpointError) as error:
            yield str(error)
        except BaseException as error:
            pytest.fail(f"{what}: {type(error).__name__}: {error}")
    for text in ("", "{", "[]", "1", "null", "[" * 100_000, "1" * 5_000, "\xff"):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises((ValueError, RunError)) as caught:
            read()
        yield str(caught.value)
    path.write_text(honest)


READ_OF_RUN = ("model", "num_dense", "numeric", "preparation")


@pytest.mark.parametrize("name", ["run.json", "result.json", "search.json"])
def test_records_of_a_run_are_checked_by_type_and_shape(
    trained: Path, tiny: Path, tmp_path: Path, name: str
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    data = open_data(tiny)
    asked = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({key: asked[key] for key in READ_OF_RUN}))
    record = SearchRecord("seo", "seo", {}, "d", 0.5, 1.0, 9, 9, {}, {}, "seo-rec search")
    (run / "search.json").write_text(json.dumps(record.to_json()))

    def read() -> None:
        if name == "search.json":
            read_search(run)
        elif name == "run.json":
            recipes.load_trained(run)
            stream_of(run, data, "test")
        else:
            Run.read(run / "result.json")

    messages = list(lines_of_spoilt(run / name, read))
    assert len(messages) > 50
    for message in messages:
        assert str(run) in message and "\n" not in message


@pytest.mark.parametrize("name", ["run.json", pytest.param("result.json", marks=pytest.mark.slow)])
def test_an_export_checks_the_records_of_the_run(
    trained: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the package says of the run; the rest of an export is left out, which takes long."""
    run = shutil.copytree(trained, tmp_path / "run")
    asked = json.loads((run / "run.json").read_text())
    keys = ("model", "num_dense", "method", "data", "data_fingerprint")
    (run / "run.json").write_text(json.dumps({key: asked[key] for key in keys}))
    monkeypatch.setattr(package, "preparation_of", lambda *_: None)
    monkeypatch.setattr(package, "package_parts", lambda *_: None)
    messages = list(lines_of_spoilt(run / name, lambda: package.run_parts(run, None, None, ())))
    assert len(messages) > 50
    for message in messages:
        assert "\n" not in message
        assert str(run) in message or message.endswith("by --data")


def test_damaged_weights_are_named_without_advice_to_trust_them(tmp_path: Path) -> None:
    path, chance = tmp_path / "weights.npz", random.Random(0)
    save_weights(path, {"w": torch.arange(12.0).reshape(3, 4), "b": torch.ones(3)})
    whole = path.read_bytes()
    np.savez(tmp_path / "objects.npz", w=np.array([{}, None], dtype=object))
    damaged = [flipped(whole, chance) for _ in range(300)]
    damaged += [whole[:size] for size in range(0, len(whole), 7)]
    # a header of an array larger than any memory
    huge = b"(999999999999999, 4), }"
    small = b"(3, 4), }".ljust(len(huge))
    assert small in whole
    damaged += [whole.replace(small, huge), (tmp_path / "objects.npz").read_bytes()]
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            found = read_weights(path)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            assert "pickle" not in str(error)
            refused += 1
        else:
            assert torch.equal(found["w"], torch.arange(12.0).reshape(3, 4))
    assert refused > 200


def test_an_error_has_one_line(seo_rec: Callable[..., Any], monkeypatch: Any) -> None:
    def refuse(path: object) -> None:
        raise ValueError("first\n  second\n\nthird")

    monkeypatch.setattr("seo_rec.data.dataset.open_data", refuse)
    done = seo_rec("eval", "run", "data")
    assert (done.code, done.err) == (2, "error: first second third\n")
