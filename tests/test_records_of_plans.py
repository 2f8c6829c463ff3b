"""Plans of benchmarks are measured cell by cell: what has a line is not measured again."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.record import Line, Records, read, record_missing


def fill(records: Records, cells: range, limit: int = 0) -> list[int]:
    """The cells that were measured now."""
    measured: list[int] = []

    def measure(cell: int) -> Line:
        measured.append(cell)
        return {"cell": cell, "square": cell**2}

    def said(cell: int, line: Line) -> str:
        return f"{cell}: {line['square']}"

    record_missing(records, cells, lambda cell: {"cell": cell}, measure, said, limit)
    return measured


def test_only_missing_cells_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In order, each with its line in the file at once; a limit leaves the rest for later."""
    path = tmp_path / "lines.jsonl"
    assert fill(Records(path, ("cell",)), range(9), limit=2) == [0, 1]
    assert capsys.readouterr().out == "0: 0\n1: 1\n"
    assert fill(Records(path, ("cell",)), range(5)) == [2, 3, 4]
    assert [line["square"] for line in read(path)] == [0, 1, 4, 9, 16]
    assert fill(Records(path, ("cell",)), range(5)) == []
