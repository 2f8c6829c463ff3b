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
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from seo_rec.files import checksum, locked, read_json, write_json
from seo_rec.train.checkpoint_errors import first_reason, plain_errors, ranks_and_reason
from seo_rec.train.checkpoint_files import (
    MARKER,
    VALUES,
    LoadPlanner,
    Reader,
    SavePlanner,
    Writer,
    checksums_of,
    verified_files,
)
from seo_rec.train.checkpoint_index import INDEX
from seo_rec.train.ranks import Ranks
from seo_rec.train.saved import CheckpointError, Saved
from seo_rec.train.state import State, bytes_of, copied, in_pieces

PIECE_FLOATS = 2**24  # of a tensor that are written and read at once
COPIED_BYTES = 2**28
NAME = re.compile(r"step-(\d{9,})")


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
        sums = self._together(lambda: checksums_of(part, self.ranks.rank), final)

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
        with plain_errors():
            dcp.save(
                dict(tensors),
                storage_writer=Writer(folder),
                planner=SavePlanner(),
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
            answer = (None, first_reason(error))
        answers = self.ranks.gather(answer, self._group)
        if failed := [(r, text) for r, (_, text) in enumerate(answers) if text]:
            where = ranks_and_reason(failed) if self.ranks.world_size > 1 else failed[0][1]
            raise CheckpointError(
                f"{final}: cannot be written ({where}); make room or choose another --out; the "
                "command goes on from the checkpoint before it, with --resume where it has that"
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
        files = verified_files(folder, ranks)
        values = read_json(folder / VALUES)
        if not isinstance(values, dict):
            raise ValueError(f"{VALUES} is {values!r:.80}; allowed: an object")
        index = Reader(folder).read_metadata()
        if unknown := {info.relative_path for info in index.storage_data.values()} - files:
            raise ValueError(f"{INDEX} reads {sorted(unknown)[0]!r}, which {MARKER} does not list")
        sizes = {
            name: (entry.size, entry.properties.dtype)
            for name, entry in index.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        saved = Saved(folder, values, sizes)
    except Exception as error:  # there is no end to what damaged bytes make a reader raise
        reason = first_reason(error)
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
        with plain_errors():
            dcp.load(
                dict(into),
                storage_reader=Reader(saved.folder),
                planner=LoadPlanner(),
                no_dist=alone,
            )
    except Exception as error:
        raise CheckpointError(
            f"{saved.folder}: cannot be loaded ({first_reason(error)}); it belongs to another "
            "model, or is damaged"
        ) from error


@torch.no_grad()
def _copy(tensors: Mapping[str, torch.Tensor], into: State) -> None:
    for name, tensor in into.items():
        assert isinstance(tensor, torch.Tensor)
        if tensors[name].shape != tensor.shape:
            raise ValueError(f"{name} is of shape {tuple(tensors[name].shape)}")
        tensor.copy_(tensors[name])


def _remove(folder: Path) -> None:
    """Marker first: wherever this is cut short, what is left is no checkpoint."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _empty_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


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
