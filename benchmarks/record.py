"""Records of benchmarks: the files of ``benchmarks/results``, one JSON object per line.

A line holds what it is of (the entries that a benchmark names as its identity), what came out, and
a stamp of where it was measured. Recorded lines are evidence: new ones are appended, and a line is
replaced only where a benchmark says that its last run counts.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from seo_rec.environment import stamp as stamp
from seo_rec.files import append_line, write_text
from seo_rec.runs import Run
from seo_rec.settings import FitSettings, settled

RESULTS = Path(__file__).parent / "results"
# Folders of the benchmarks that commands in older lines name without one.
FOLDERS = {"evidence": "accuracy", "unified": "accuracy", "epoch": "speed"}

Line = dict[str, Any]
Cell = TypeVar("Cell")


def path_of(name: str) -> Path:
    """The record file of a benchmark."""
    return RESULTS / f"{name}.jsonl"


def read(path: Path | None) -> list[Line]:
    """All lines of a file, none if it is not there.

    A line that is no JSON object was cut short by a kill: it is named on standard error and left
    out.
    """
    if path is None or not path.exists():
        return []
    found = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        try:
            found.append(_settled(json.loads(text)))
        except ValueError:
            print(f"{path}:{number}: not a whole line, left out", file=sys.stderr)
    return found


def recorded_fit(fit: FitSettings) -> dict[str, Any]:
    """What a line says of the settings of a training of small tables."""
    return settled(fit, 0).as_json()


def _settled(line: Line) -> Line:
    """The line; older ones lack settings that came later, with what these were at the time."""
    for values in (line, line.get("what")):
        if isinstance(values, dict) and isinstance(values.get("fit"), dict):
            values["fit"] = recorded_fit(FitSettings(**values["fit"]))
    return line


def append(path: Path | str, line: Mapping[str, Any]) -> None:
    """Append ``line``, on disk before this returns; the folder is made if needed."""
    append_line(path, _text(line))


def replace_all(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a file anew, for benchmarks whose last run is the one that counts."""
    write_text(path, "".join(f"{_text(line)}\n" for line in lines))


def merge(path: Path, lines: Sequence[Mapping[str, Any]], identity: Sequence[str]) -> None:
    """Write ``lines`` and all lines of the file that none of them replaces; new ones come last.

    Several processes may merge into one file at the same time.

    Args:
        path: the file.
        lines: what was measured.
        identity: a line replaces one that has the same values of these entries.
    """
    if not lines:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        found = {key_of(line, identity): line for line in (*read(path), *lines)}
        replace_all(path, found.values())
    finally:
        os.close(folder)


def key_of(line: Mapping[str, Any], identity: Sequence[str]) -> str:
    """What a line is of, as a text: the values of its ``identity`` entries."""
    return json.dumps([line[name] for name in identity], sort_keys=True)


def outcome(run: Run) -> Line:
    """What lines of the record hold of a training."""
    names = ("data", "data_fingerprint", "embedding_params", "num_bytes", "val_auc", "test_auc",
             "test_logloss", "epochs", "seconds_per_epoch", "seconds", "command",
             "environment")  # fmt: skip
    return {name: getattr(run, name) for name in names}


def outcome_without_times(run: Run) -> Line:
    """The same for a study that asks no question about time, and may share its machine."""
    return {k: v for k, v in outcome(run).items() if k not in ("seconds", "seconds_per_epoch")}


def as_read_again(line: Mapping[str, Any]) -> Line:
    """``line`` as a reader of its file will see it: lists for tuples, texts for keys."""
    return json.loads(json.dumps(line))  # type: ignore[no-any-return]


def command_now(command: str) -> str:
    """A recorded command with the place that its benchmark has today."""
    return re.sub(
        r"-m benchmarks\.(\w+)(?![\w.])",
        lambda m: f"-m benchmarks.{FOLDERS[m[1]]}.{m[1]}" if m[1] in FOLDERS else m[0],
        command,
    )


class Records:
    """The lines of one file by what they are of, and new ones that are appended to it.

    Args:
        path: the file; None: new lines are kept in memory only.
        identity: the entries that say what a line is of.
        usual: values of identity entries that older lines do not have.
        writes: whether new lines are appended to the file.
    """

    def __init__(
        self,
        path: Path | None,
        identity: Sequence[str],
        usual: Mapping[str, Any] | None = None,
        writes: bool = True,
    ) -> None:
        self.path, self.identity, self.writes = path, tuple(identity), writes
        self.usual = dict(usual or {})
        self._known: dict[str, Line] = {}
        self.refresh()

    @classmethod
    def of(cls, lines: Iterable[Line], identity: Sequence[str]) -> Records:
        """Lines that are already read; new ones are kept in memory."""
        records = cls(None, identity)
        for line in lines:
            records.add(line)
        return records

    @property
    def lines(self) -> list[Line]:
        """The last line of everything that is known."""
        return list(self._known.values())

    def refresh(self) -> None:
        """Take in the lines that other processes have written meanwhile."""
        for line in read(self.path):
            self._known[self._key(line)] = line

    def find(self, what: Mapping[str, Any]) -> Line | None:
        """The line of ``what``, which has the identity entries and may have others."""
        return self._known.get(self._key(what))

    def add(self, line: Mapping[str, Any]) -> Line:
        """Keep a new line, append it to the file, and return it as it will be read again."""
        found = as_read_again(line)
        self._known[self._key(found)] = found
        if self.path and self.writes:
            append(self.path, found)
        return found

    def _key(self, line: Mapping[str, Any]) -> str:
        return key_of({**self.usual, **line}, self.identity)


def record_missing(
    records: Records,
    cells: Iterable[Cell],
    what_of: Callable[[Cell], Mapping[str, Any]],
    measure: Callable[[Cell], Mapping[str, Any]],
    said: Callable[[Cell, Line], str],
    limit: int = 0,
) -> None:
    """Measure the cells of a plan that have no line yet, and print what came of each.

    Args:
        records: Where lines are looked for and added.
        cells: The plan, in its order.
        what_of: The identity entries of the line of a cell.
        measure: Makes the line of a cell.
        said: The text to print of a cell and its line.
        limit: Measure so many cells at most; 0: all.
    """
    new = 0
    for cell in cells:
        if records.find(what_of(cell)):
            continue
        print(said(cell, records.add(measure(cell))), flush=True)
        new += 1
        if new == limit:
            break


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, sort_keys=True)
