"""What ``benchmarks.gpu`` recorded: the newest run on every kind of GPU."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.pages.markdown import Column, entry, table
from benchmarks.record import Line, path_of, read


def region(lines: Sequence[Line] | None = None) -> list[str]:
    """Per GPU: how the parts ended, what failed or was not allowed, and what was measured.

    Runs on a CPU say nothing about GPUs and are left out.

    Args:
        lines: default: the record.
    """
    lines = read(path_of("gpu")) if lines is None else lines
    newest: dict[str, list[Line]] = {}
    for line in lines:
        if line["device"] != "cuda":
            continue
        run = newest.setdefault(line["environment"]["gpu"], [])
        if run and run[0]["environment"] != line["environment"]:
            run.clear()
        run.append(line)
    out: list[str] = []
    for gpu, run in sorted(newest.items()):
        out += [heading(gpu, run), "", *table(PARTS, parts(run))]
        out += [f"* {x['part']}: {x['name']}: {x['text']}" for x in of(run, "forbidden")]
        out += [""] * any(of(run, "forbidden"))
        out += table(MEASURED, of(run, "measurement"))
    return out or ["Nothing is recorded yet."]


def heading(gpu: str, run: Sequence[Line]) -> str:
    """Where and with what a run was made."""
    e = run[0]["environment"]
    changed = " with changes" if e["git_dirty"] else ""
    return (
        f"{gpu}, torch {e['torch']}, TorchRec {e['torchrec']}, FBGEMM {e['fbgemm']}, "
        f"{e['date'][:10]}, git {str(e['git_sha'])[:7]}{changed}:"
    )


def of(run: Sequence[Line], kind: str) -> list[Line]:
    return [x for x in run if x["kind"] == kind]


def parts(run: Sequence[Line]) -> list[Line]:
    """A row per part and number of ranks: its checks, the failed ones, and how it ended."""
    rows = []
    for end in of(run, "part"):
        place = end["part"], end["world_size"]
        checks = [x for x in of(run, "check") if (x["part"], x["world_size"]) == place]
        failed = [x["name"] for x in checks if not x["passed"]]
        rows.append({**end, "checks": len(checks), "failed": "; ".join(failed) or "none"})
    return rows


PARTS = (
    entry("part"),
    entry("world_size", "ranks", "d"),
    entry("checks", format="d"),
    entry("failed"),
    entry("text", "ended"),
)
MEASURED = (
    entry("part"),
    entry("name", "of"),
    entry("value", format=".3g"),
    entry("unit"),
    Column("goal", lambda x: x.get("goal"), ".1f"),
)
