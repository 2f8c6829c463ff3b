"""``--precision auto``: types of rows are candidates, in the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seo_rec import recipes, train
from seo_rec.data.dataset import DataSet
from seo_rec.model import ModelSettings
from seo_rec.policy import Allowance, Policy, stored_types
from seo_rec.runs.decision import decided
from seo_rec.search import find
from seo_rec.search.run_off import RunOff
from seo_rec.search.seo import SeoSearch, search
from seo_rec.search.seo.types_of_rows import in_other_types
from seo_rec.train import FitSettings, Training

TRAINING = Training(ModelSettings(hidden=(8,)), FitSettings(epochs=2, batch_size=100))
BYTES = 6_400
Command = Callable[..., Any]


def settings(**changes: object) -> SeoSearch:
    at = Allowance(BYTES, "bytes", "int8")
    values = {
        "precision": "auto",
        "run_off.chunk_dims": (8,),
        "run_off.trivial_lookups": (1,),
        **changes,
    }
    made: SeoSearch = find("seo").settings_at(at, 16, TRAINING, values)
    return made


def test_candidates_of_every_type_are_in_the_same_bytes(tiny_data: DataSet) -> None:
    F = len(tiny_data.schema.features)
    alpha = torch.full((F, 4), 1 / (4 * F))
    found = in_other_types(tiny_data, alpha, [1.0] * F, settings(num_bytes=20_000), RunOff(), 0)
    names = {c.name for c in found}
    assert {"trivial-2x8-int4", "trivial-1x16-int4", "trivial-8x2-float16"} <= names
    assert {"trivial-frequent-16-int4", "trivial-no-search-int4", "seo-8-worth-int4"} <= names
    for candidate in found:
        (stored,) = stored_types(candidate.policy)
        assert candidate.name.endswith(f"-{stored}")
        assert 0 < candidate.policy.num_bytes <= 20_000
        assert candidate.searched is candidate.name.startswith("seo-")
    by_name = {c.name: c.policy for c in found}
    assert by_name["trivial-2x8-int4"].num_bytes > 20_000 - 2 * (8 + 4)  # spent to the last row
    # too few bytes for some of them: those are no candidates
    fewer = in_other_types(tiny_data, alpha, None, settings(num_bytes=260), RunOff(), 0)
    assert {c.name for c in fewer} < names


@pytest.mark.parametrize(
    "rules, kinds",
    [
        (RunOff(by_id=False), {"1x16", "2x8", "8x2"}),
        (RunOff(frequent=False), {"1x16", "2x8", "8x2", "no-search"}),
    ],
)
def test_other_types_keep_to_the_rules_of_the_run_off(
    tiny_data: DataSet, rules: RunOff, kinds: set[str]
) -> None:
    """A search that is told to hash all stores ids in no type."""
    F = len(tiny_data.schema.features)
    at = settings(num_bytes=20_000)
    found = in_other_types(tiny_data, torch.full((F, 4), 1 / (4 * F)), [1.0] * F, at, rules, 0)
    assert {c.name.removeprefix("trivial-").rpartition("-")[0] for c in found} == kinds
    assert any(c.policy.vocabularies for c in found) is rules.by_id


@pytest.mark.parametrize("dim, narrow", [(1, set()), (3, set()), (4, {"trivial-2x2-float16"})])
def test_chunks_of_two_floats_need_an_even_width(
    tiny_data: DataSet, dim: int, narrow: set[str]
) -> None:
    F = len(tiny_data.schema.features)
    at = settings(dim=dim, chunk_dim=1, search_dim=dim)
    found = in_other_types(tiny_data, torch.full((F, dim), 1 / (dim * F)), None, at, RunOff(), 0)
    names = {c.name for c in found}
    assert {name for name in names if name.endswith("float16")} == narrow
    assert f"trivial-{dim}x1-int4" in names


def test_the_search_decides_and_records_it(tiny_data: DataSet, tmp_path: Path) -> None:
    """Most candidates are int8; the answer says its type, and keeps to the bytes."""
    found = recipes.search("seo", tiny_data, tmp_path / "out", settings(), TRAINING)
    record = json.loads((tmp_path / "out/search.json").read_text())
    scores = record["record"]["run_off"]
    assert {n.rsplit("-", 1)[1] for n in scores if n.endswith(("int4", "float16"))} == {
        "int4",
        "float16",
    }
    assert all(s.get("num_bytes", 0) <= BYTES for s in scores.values())
    (stored,) = stored_types(found.policy)
    assert found.policy.decision is not None
    assert found.policy.decision["precision"] == record["decision"]["precision"] == stored
    assert decided(found.policy.decision).endswith(f"; its rows are stored as {stored}")
    assert found.policy.num_bytes <= BYTES
    assert found.policy.budget is not None and found.policy.budget.num_bytes == BYTES
    saved = Policy.load(tmp_path / "out/policy.json")
    assert saved == found.policy
    again = recipes.search("seo", tiny_data, tmp_path / "out", settings(), TRAINING, resume=True)
    assert again.policy == found.policy
    run = recipes.train(tiny_data, found.policy, tmp_path / "trained", TRAINING)
    assert run.num_bytes == found.policy.num_bytes
    assert run.precision == stored  # and is scored as it is served


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"num_bytes": 0}, "num_bytes 0"),
        ({"run_off": None}, "run_off none"),
        ({"run_off": RunOff(cost=0)}, "run_off of cost 0"),
    ],
)
def test_only_a_limited_search_in_bytes_decides(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=f"precision 'auto' with .*{named}.*; allowed: a budget"):
        SeoSearch(precision="auto", **{"num_bytes": BYTES, **changes})  # type: ignore[arg-type]


def test_several_processes_do_not_compare_types(
    tiny_data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "ranks", lambda: SimpleNamespace(world_size=2))
    with pytest.raises(ValueError, match=r"precision auto in 2 processes.*; allowed: one process"):
        search.check_seo(tiny_data, settings(), TRAINING)


def test_other_commands_refuse_it() -> None:
    with pytest.raises(ValueError, match="only seo-rec search decides, with --bytes"):
        Allowance(BYTES, "bytes", "auto")


@pytest.mark.parametrize(
    "options, wanted",
    [
        (("--bytes", BYTES), "auto"),
        (("--bytes", BYTES, "--precision", "auto"), "auto"),
        (("--bytes", BYTES, "--precision", "int4"), "int4"),
        (("--bytes", BYTES, "--set", "run_off.cost=0"), "float32"),
        (("--bytes", BYTES, "--method", "no-search"), "float32"),
        (("--params", 1600), "float32"),
        ((), "float32"),
    ],
)
def test_what_the_command_line_asks_for(
    monkeypatch: pytest.MonkeyPatch,
    seo_rec: Command,
    tiny: Path,
    tmp_path: Path,
    options: tuple[object, ...],
    wanted: str,
) -> None:
    """A search in bytes decides the type unless one is named."""
    asked = list[Any]()

    def noted(method: str, data: DataSet, out: Path, settings: Any, *more: Any, **rest: Any) -> Any:
        asked.append(settings)
        raise ValueError("asked")

    monkeypatch.setattr(recipes, "search", noted)
    done = seo_rec("search", tiny, *options, "--out", tmp_path / "out")
    assert done.code and "asked" in done.err, done.err
    assert asked[0].precision == wanted
    assert asked[0].allowance.precision == {"auto": "int8"}.get(wanted, wanted)


@pytest.mark.parametrize("typed", [(), ("--precision", "int8")])
def test_several_processes_say_which_type_they_take(
    monkeypatch: pytest.MonkeyPatch,
    seo_rec: Command,
    tiny: Path,
    tmp_path: Path,
    typed: tuple[str, ...],
) -> None:
    asked = list[Any]()

    def noted(method: str, data: DataSet, out: Path, settings: Any, *more: Any, **rest: Any) -> Any:
        asked.append(settings.precision)
        raise ValueError("asked")

    monkeypatch.setattr(recipes, "search", noted)
    monkeypatch.setattr(train, "ranks", lambda: SimpleNamespace(world_size=2, first=True))
    done = seo_rec("search", tiny, "--bytes", BYTES, *typed, "--out", tmp_path / "out")
    assert asked == [typed[1] if typed else "float32"], done.err
    assert ("precision: float32, since 2 processes" in done.err) is not bool(typed)


@pytest.mark.parametrize(
    "command, said",
    [
        (("search", "--params", 1600), "--precision auto with --method seo and a budget of 1600"),
        (("search", "--bytes", BYTES, "--set", "run_off=none"), "allowed with a budget in --bytes"),
        (("search", "--bytes", BYTES, "--method", "no-search"), "--method no-search"),
        (
            ("train", "--bytes", BYTES, "--method", "multi-size"),
            "which only seo-rec search decides",
        ),
        (("compare", "--bytes", BYTES), "which only seo-rec search decides"),
        (("frontier", "--bytes", "6400,8000"), "which only seo-rec search decides"),
    ],
)
def test_where_the_type_cannot_be_decided(
    seo_rec: Command, tiny: Path, tmp_path: Path, command: tuple[object, ...], said: str
) -> None:
    name, *options = command
    done = seo_rec(name, tiny, *options, "--precision", "auto", "--out", tmp_path / "out")
    assert done.code == 2 and said in " ".join(done.err.split()), done.err
    assert "int8" in done.err and not (tmp_path / "out").exists()
