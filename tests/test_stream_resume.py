"""The Stream resumes at any step, on any number of ranks, with the batches that were left."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seo_rec.data import stream as stream_module
from seo_rec.data.dataset import open_data
from seo_rec.data.stream import Stream
from seo_rec.schema import DataError
from stream_data import PLAIN, epoch_of, mixed_data, numbers, plain_data, same, write


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_data(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mixed_data(tmp_path_factory.mktemp("mixed"))


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
