"""The files of a checkpoint: how torch's writer and reader make them, and their checksums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import ReadItem

from seo_rec.files import NO_SPACE, NoSpaceError, checksum, is_full_disk, read_json
from seo_rec.train.checkpoint_errors import first_reason
from seo_rec.train.checkpoint_index import INDEX, read_index, write_index
from seo_rec.train.ranks import Ranks
from seo_rec.train.state import Sharded

MARKER = "complete.json"
VALUES = "state.json"
TORCH_INDEX = ".metadata"  # written for torch's tools, never read


def checksums_of(folder: Path, rank: int) -> dict[str, Any]:
    """Checksums of the files that ``rank`` wrote; the index is rank 0's."""
    files = sorted(folder.glob(f"__{rank}_*"))
    if rank == 0:
        files += [folder / TORCH_INDEX, folder / INDEX]
    return {path.name: checksum(path) for path in files}


def verified_files(folder: Path, ranks: Ranks) -> set[str]:
    """As :func:`_verify`, on all ranks before one of them reads on: each verifies its share."""
    files, reason = set[str](), ""
    try:
        files = _verify(folder, ranks)
    except Exception as error:
        reason = first_reason(error)
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


class Writer(dcp.FileSystemWriter):
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


class SavePlanner(DefaultSavePlanner):
    def lookup_object(self, index: MetadataIndex) -> Any:
        value = self.state_dict[index.fqn]
        if isinstance(value, Sharded):
            assert index.offset is not None
            return value.piece_at(index.offset)
        return value


class LoadPlanner(DefaultLoadPlanner):
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


class Reader(dcp.FileSystemReader):
    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        return read_index(Path(self.path))
