"""Checkpoints of a run: whole or absent, written by all ranks, readable by any number of them.

A checkpoint is a folder ``step-<n>`` of ``torch.distributed.checkpoint`` files, ``state.json``
with the plain values, and ``complete.json`` with the size and SHA-256 of every file. It is filled
under a temporary name and renamed when every rank has written its part. Nothing in it can run
code: tensors are read with ``weights_only``, and the index that is read is JSON; torch's own, which
is a pickle, is for torch's tools.
"""

from __future__ import annotations

import re
import shutil
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem

from seo_rec.files import (
    NO_SPACE,
    NoSpaceError,
    checksum,
    is_full_disk,
    locked,
    read_json,
    write_json,
)
from seo_rec.train.checkpoint_index import INDEX, read_index, write_index
from seo_rec.train.ranks import Ranks
from seo_rec.train.state import Sharded, State, bytes_of, copied, in_pieces

R = TypeVar("R")

MARKER = "complete.json"
VALUES = "state.json"
TORCH_INDEX = ".metadata"  # written for torch's tools, never read
PIECE_FLOATS = 2**24  # of a tensor that are written and read at once
COPIED_BYTES = 2**28
VALUE_TYPES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    list[float]: "a list of numbers",
    Mapping[str, Mapping[str, float]]: "numbers by name, by the name of a label",
}
NAME = re.compile(r"step-(\d{9,})")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read; the message names it and the way out."""


@contextmanager
def claimed(out: Path | None, ranks: Ranks) -> Iterator[None]:
    """Within the block only this launch writes to the run ``out`` (None: nobody writes).

    Raises:
        CheckpointError: another launch does; on every rank.
    """

    def claim() -> None:
        if out is None:
            return
        try:
            stack.enter_context(locked(out))
        except BlockingIOError as error:
            raise CheckpointError(
                f"{out}: another process is training this run; wait until it ends, or choose "
                "another --out"
            ) from error

    with ExitStack() as stack:
        ranks.on_first(claim)
        yield


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint on disk: its plain values, and what its tensors are.

    ``tensors`` holds them where the checkpoint is in memory alone; ``folder`` then says of what it
    was made.
    """

    folder: Path
    values: dict[str, Any]
    sizes: dict[str, tuple[torch.Size, torch.dtype]]
    tensors: Mapping[str, torch.Tensor] | None = None

    @classmethod
    def in_memory(
        cls, folder: Path, values: dict[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> Saved:
        """A checkpoint that nobody has written, of whole tensors."""
        return cls(folder, values, {n: (t.shape, t.dtype) for n, t in tensors.items()}, tensors)

    def record(self, kind: type[R], name: str) -> R:
        """The values ``name`` as a dataclass ``kind``, whose fields are numbers or lists of them.

        Raises:
            CheckpointError: a field is missing, unknown or of another type.
        """
        hints, values = get_type_hints(kind), self.values.get(name)
        if not isinstance(values, dict) or set(values) != set(hints):
            found = sorted(values) if isinstance(values, dict) else repr(values)
            raise self._misfit(f"{name} is {found}; allowed: {sorted(hints)}")
        for field, hint in hints.items():
            if not _is(hint, values[field]):
                raise self._misfit(
                    f"{field} of {name} is {values[field]!r:.80}; allowed: {VALUE_TYPES[hint]}"
                )
        return kind(**values)

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """Within the block it is put into a run; whatever goes wrong is a CheckpointError."""
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:  # whatever its plain values say
            raise CheckpointError(
                f"{self.folder}: does not fit this run ({type(error).__name__}: {error}); "
                "remove this folder to resume from the checkpoint before it"
            ) from error

    def _misfit(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.folder}: {VALUES} does not fit this release ({what}); remove this folder to "
            "resume from the checkpoint before it"
        )


class Checkpoints:
    """The checkpoints in one folder, shared by all ranks of a run.

    Args:
        folder: where ``step-<n>`` folders live; made when first needed.
        keep: how many of the newest to keep.
        ranks: the processes that write together.
        background: copy the tensors, return, and write while the training goes on; ``wait``
            reports how that went, and so does the next ``save``. Tensors of more than
            :data:`COPIED_BYTES` in a process are written before ``save`` returns: a copy of them
            may not fit into memory.
    """

    def __init__(
        self, folder: Path, keep: int = 2, ranks: Ranks | None = None, background: bool = False
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep {keep}; allowed: 1 or more checkpoints")
        self.folder, self.keep = folder, keep
        self.ranks = ranks or Ranks()
        self.background = background
        self._writer: threading.Thread | None = None
        self._failure: BaseException | None = None
        # collectives of the background thread must not mix with those of the training
        apart = background and self.ranks.world_size > 1
        self._group = dist.new_group(backend="gloo") if apart else None

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        named = [(NAME.fullmatch(p.name), p) for p in self.folder.glob("step-*")]
        return sorted(int(m[1]) for m, p in named if m and (p / MARKER).exists())

    def save(self, step: int, tensors: State, values: Mapping[str, Any]) -> None:
        """Write checkpoint ``step``; one of that step is replaced.

        Args:
            step: its number.
            tensors: this rank's part of the tensors.
            values: plain values, equal on all ranks; JSON.

        Raises:
            CheckpointError: a rank could not write this checkpoint, or the one before it in the
                background; on every rank.
        """
        self.wait()
        tensors = in_pieces(tensors, PIECE_FLOATS)
        sizes = self.ranks.gather(bytes_of(tensors)) if self.background else []
        if not self.background or max(sizes) > COPIED_BYTES:
            self._write(step, tensors, values)
            return
        ours, plain = copied(tensors), deepcopy(dict(values))

        def write() -> None:
            try:
                self._write(step, ours, plain)
            except BaseException as error:  # raised again by the next wait()
                self._failure = error

        self._writer = threading.Thread(target=write, name="seo-rec-checkpoint", daemon=True)
        self._writer.start()

    def wait(self) -> None:
        """Return when nothing is being written; raise what the last writing raised."""
        if self._writer:
            self._writer.join()
            self._writer = None
        if self._failure:
            failure, self._failure = self._failure, None
            raise failure

    def close(self) -> None:
        """``wait``, and give back what the background writing held; this object is done."""
        self.wait()
        if self._group:
            dist.destroy_process_group(self._group)
            self._group = None

    def _write(self, step: int, tensors: State, values: Mapping[str, Any]) -> None:
        final = self._path(step)
        part = self.folder / f".{final.name}.part"
        self._together(lambda: _empty_folder(part) if self.ranks.first else None, final)
        self._together(lambda: self._write_tensors(part, tensors), final)
        sums = self._together(lambda: _checksums(part, self.ranks.rank), final)

        def finish() -> None:
            if not self.ranks.first:
                return
            write_json(part / VALUES, values)
            files = {name: entry for found in sums for name, entry in found.items()}
            files[VALUES] = checksum(part / VALUES)
            write_json(part / MARKER, {"files": files})
            _remove(final)
            part.rename(final)
            self._keep_only(self.steps()[-self.keep :])

        self._together(finish, final)

    def _keep_only(self, steps: list[int]) -> None:
        """Remove all other checkpoints, and what a killed process left half written or removed."""
        kept = {self._path(step) for step in steps}
        for path in sorted(self.folder.glob("*step-*")):
            ours = NAME.fullmatch(path.name.removeprefix(".").removesuffix(".part"))
            if ours and path not in kept:
                _remove(path)

    def drop_after(self, step: int) -> None:
        """Remove the checkpoints of later steps: the run goes on from ``step``."""
        if self.ranks.first:
            self._keep_only([s for s in self.steps() if s <= step][-self.keep :])

    def _write_tensors(self, folder: Path, tensors: State) -> None:
        alone = self.ranks.world_size == 1
        with _plain_errors():
            dcp.save(
                dict(tensors),
                storage_writer=_Writer(folder),
                planner=_Save(),
                process_group=self._group,
                no_dist=alone,
            )

    def _together(self, action: Any, final: Path) -> list[Any]:
        """Run ``action`` on every rank; its results everywhere, or an error everywhere."""
        answer: tuple[Any, str] = (None, "")
        failure: BaseException | None = None
        try:
            answer = (action(), "")
        except Exception as error:
            failure = error
            answer = (None, _reason(error))
        answers = self.ranks.gather(answer, self._group)
        if failed := [(r, text) for r, (_, text) in enumerate(answers) if text]:
            where = _where(failed) if self.ranks.world_size > 1 else failed[0][1]
            raise CheckpointError(
                f"{final}: cannot be written ({where}); make room or choose another "
                "--out, then --resume goes on from the checkpoint before it"
            ) from failure
        return [found for found, _ in answers]

    def latest(self) -> Saved | None:
        """The newest checkpoint, its files verified, or None if there is none.

        Raises:
            CheckpointError: it is damaged; on every rank.
        """
        newest = self.ranks.gather(self.steps()[-1:])[0]  # rank 0 decides: disks may lag
        return self.open(newest[0]) if newest else None

    def open(self, step: int) -> Saved:
        """Checkpoint ``step``, its files verified.

        Raises:
            CheckpointError: it is absent or damaged; on every rank.
        """
        self.wait()
        return open_checkpoint(self._path(step), self.ranks)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}"


def open_checkpoint(folder: Path, ranks: Ranks | None = None) -> Saved:
    """Read a checkpoint's plain values and index, after its files have been verified.

    Each rank verifies its share of the files, so all of them are read once.

    Raises:
        CheckpointError: it is absent or damaged; on every rank.
    """
    ranks = ranks or Ranks()
    reason, saved = "", None
    try:
        files = _verified(folder, ranks)
        values = read_json(folder / VALUES)
        if not isinstance(values, dict):
            raise ValueError(f"{VALUES} is {values!r:.80}; allowed: an object")
        index = _Reader(folder).read_metadata()
        if unknown := {info.relative_path for info in index.storage_data.values()} - files:
            raise ValueError(f"{INDEX} reads {sorted(unknown)[0]!r}, which {MARKER} does not list")
        sizes = {
            name: (entry.size, entry.properties.dtype)
            for name, entry in index.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        saved = Saved(folder, values, sizes)
    except Exception as error:  # there is no end to what damaged bytes make a reader raise
        reason = _reason(error)
    reasons = [r for r in ranks.gather(reason) if r]
    if reasons or saved is None:
        raise CheckpointError(
            f"{folder}: cannot be read ({reasons[0]}); remove this folder to resume from the "
            "checkpoint before it"
        )
    return saved


def load_tensors(saved: Saved, into: State, ranks: Ranks | None = None) -> None:
    """Fill ``into`` in place with the saved tensors of the same names.

    Raises:
        CheckpointError: a tensor is missing, of another shape, or cannot be read.
    """
    ranks = ranks or Ranks()
    alone = ranks.world_size == 1
    try:
        if saved.tensors is not None:
            _copy(saved.tensors, into)
            return
        with _plain_errors():
            dcp.load(
                dict(into), storage_reader=_Reader(saved.folder), planner=_Load(), no_dist=alone
            )
    except Exception as error:
        raise CheckpointError(
            f"{saved.folder}: cannot be loaded ({_reason(error)}); it belongs to another model, or "
            "is damaged"
        ) from error


@torch.no_grad()
def _copy(tensors: Mapping[str, torch.Tensor], into: State) -> None:
    for name, tensor in into.items():
        assert isinstance(tensor, torch.Tensor)
        if tensors[name].shape != tensor.shape:
            raise ValueError(f"{name} is of shape {tuple(tensors[name].shape)}")
        tensor.copy_(tensors[name])


@contextmanager
def _plain_errors() -> Iterator[None]:
    """The first error behind one of ``torch.distributed.checkpoint``, which is no Exception."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that one process needs no process group
            yield
    except dcp.CheckpointException as error:
        rank, (cause, _) = min(error.failures.items())
        if not isinstance(cause, Exception):
            raise
        full = [r for r, (why, _) in error.failures.items() if is_full_disk(why)]
        if full:
            raise NoSpaceError(_of_ranks(sorted(full)) + NO_SPACE) from cause
        raise RuntimeError(f"{type(cause).__name__} on rank {rank}: {_reason(cause)}") from cause


def _is(hint: Any, value: Any) -> bool:
    """Whether a value read from JSON is of a type of ``VALUE_TYPES``; true and false are none."""
    if hint == list[float]:
        return isinstance(value, list) and all(_is(float, v) for v in value)
    if hint == Mapping[str, Mapping[str, float]]:
        parts = value.values() if isinstance(value, dict) else [None]
        return all(isinstance(p, dict) and all(_is(float, v) for v in p.values()) for p in parts)
    return type(value) is int or (hint is float and type(value) is float)


def _reason(error: BaseException) -> str:
    """The first line of an error's message; of a full disk, that it is full."""
    text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return NO_SPACE if is_full_disk(error) and NO_SPACE not in text else text


def _where(failed: list[tuple[int, str]]) -> str:
    """Ranks and their reason; a full disk goes before what follows from it on other ranks."""
    full = next((text for _, text in failed if NO_SPACE in text), "")
    if full.startswith("rank"):  # all ranks were told which of them it was
        return full
    reason = full or failed[0][1]
    return _of_ranks([rank for rank, text in failed if text == reason]) + reason


def _of_ranks(numbers: list[int]) -> str:
    return f"rank{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}: "


def _remove(folder: Path) -> None:
    """Marker first: wherever this is cut short, what is left is no checkpoint."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _empty_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _checksums(folder: Path, rank: int) -> dict[str, Any]:
    """Checksums of the files that ``rank`` wrote; the index is rank 0's."""
    files = sorted(folder.glob(f"__{rank}_*"))
    if rank == 0:
        files += [folder / TORCH_INDEX, folder / INDEX]
    return {path.name: checksum(path) for path in files}


def _verified(folder: Path, ranks: Ranks) -> set[str]:
    """As :func:`_verify`, on all ranks before one of them reads on: each verifies its share."""
    files, reason = set[str](), ""
    try:
        files = _verify(folder, ranks)
    except Exception as error:
        reason = _reason(error)
    if reasons := [r for r in ranks.gather(reason) if r]:
        raise ValueError(reasons[0])
    return files


def _verify(folder: Path, ranks: Ranks) -> set[str]:
    """The names of the files, whose checksums are right."""
    marker = read_json(folder / MARKER)
    files = marker.get("files") if isinstance(marker, dict) else None
    if not isinstance(files, dict):
        raise ValueError(f"{MARKER} is not an object of files")
    if INDEX not in files and TORCH_INDEX in files:
        raise ValueError(
            "written by an earlier release, with an index that could run code and is not read; "
            "use it with that release, or train again"
        )
    if {VALUES, INDEX} - set(files):
        raise ValueError(f"{MARKER} does not list {VALUES} and {INDEX}")
    for i, (name, wanted) in enumerate(sorted(files.items())):
        if Path(name).name != name:
            raise ValueError(f"{MARKER} lists {name!r}, which is not a file of this folder")
        if i % ranks.world_size == ranks.rank and checksum(folder / name) != wanted:
            raise ValueError(f"wrong checksum of {name}")
    return set(files)


class _Writer(dcp.FileSystemWriter):
    def finish(self, metadata: Metadata, results: Any) -> None:
        """As the parent, which writes the pickle for torch's tools; and the index as JSON."""
        super().finish(metadata, results)
        write_index(Path(self.path), metadata)

    def write_data(self, plan: Any, planner: Any) -> Any:
        """As the parent; a full disk stays one, where torch's archive says ``unexpected pos``."""
        try:
            return super().write_data(plan, planner)
        except Exception as error:
            if is_full_disk(error):  # what is behind an error is not sent to the other ranks
                raise NoSpaceError(NO_SPACE) from error
            raise


class _Save(DefaultSavePlanner):
    def lookup_object(self, index: MetadataIndex) -> Any:
        value = self.state_dict[index.fqn]
        if isinstance(value, Sharded):
            assert index.offset is not None
            return value.piece_at(index.offset)
        return value


class _Load(DefaultLoadPlanner):
    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def set_up_planner(
        self, state_dict: Any, metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """As the default, which replaces every value that it does not know by None."""
        self.state_dict = self.original_state_dict = state_dict
        self.metadata, self.is_coordinator = metadata, is_coordinator

    def lookup_tensor(self, index: MetadataIndex) -> torch.Tensor:
        value = self.state_dict[index.fqn]
        if isinstance(value, Sharded):
            assert index.offset is not None
            return value.piece_at(index.offset)
        return value

    def load_bytes(self, read_item: ReadItem, value: Any) -> None:
        raise ValueError(f"{read_item.dest_index.fqn} is not a tensor")


class _Reader(dcp.FileSystemReader):
    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        return read_index(Path(self.path))


def rng_states(ranks: Ranks) -> dict[str, torch.Tensor]:
    """Where this rank's generators stand, that of its GPU included: dropout draws from it."""
    states = {f"rng.{ranks.rank}": torch.get_rng_state()}
    if ranks.device.type == "cuda":
        states[f"rng.cuda.{ranks.rank}"] = torch.cuda.get_rng_state(ranks.device)
    return states


def set_rng_states(states: Mapping[str, torch.Tensor], ranks: Ranks) -> None:
    """Put the generators back to where :func:`rng_states` found them."""
    for name, state in states.items():
        if name.startswith("rng.cuda."):
            torch.cuda.set_rng_state(state, ranks.device)
        else:
            torch.set_rng_state(state)
