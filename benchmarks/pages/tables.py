"""Write the regions of the measured pages and of the README, and their pictures, from the records.

    python -m benchmarks.pages.tables                 # all pages
    python -m benchmarks.pages.tables churn speed     # some of them
    python -m benchmarks.pages.tables kernels --print # on the terminal, with all tables

Reads ``benchmarks/results/*.jsonl`` as the benchmarks wrote them with ``--record``; no figure is
typed in by hand but the numbers of papers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy import churn as churn_runs
from benchmarks.accuracy import unified as unified_runs
from benchmarks.pages import (
    analysis,
    at_bytes,
    backbones,
    churn,
    combined,
    dimgrow,
    every_way,
    gpu,
    inference,
    kernels,
    mlet,
    mlet_regime,
    optembed,
    planted,
    readme,
    results,
    scaling,
    scoring,
    search_variants,
    seo_grid,
    serving,
    speed,
    throughput,
    unified,
    unified_grid,
)
from benchmarks.pages.markdown import fill, shortened
from benchmarks.record import read
from seo_rec.files import write_bytes, write_text

ROOT = Path(__file__).parent.parent.parent
MEASURED = ROOT / "docs" / "measured"
Region = Callable[[], Sequence[str]]
# The tables that stand on a page, by region. `--print` shows the others, and regions without any.
SHOWN: dict[str, tuple[int, ...]] = {
    "throughput": (15, 20),
    "kernels": (1,),
    "dimgrow": (1,),
    "optembed": (2,),
    "movielens": (0,),
    "criteo": (),
    "synthetic": (),
    "churn": (1,),
    "unified": (0,),
    "unified on criteo": (),
    "mlet": (0,),
    "every way": (),
    "inner products": (),
    "checked": (0,),
    "scaling": (3,),
}


@dataclass(frozen=True)
class Page:
    """A page with regions: what fills each of them, and what draws its pictures, by file name.

    Regions of which :data:`SHOWN` keeps no table have no place on the page.
    """

    path: Path
    regions: Callable[[], dict[str, list[str]]]
    pictures: tuple[tuple[str, Callable[[], bytes]], ...] = ()

    def text(self) -> str:
        """The page as it should be now."""
        return fill(self.path.read_text(), self.shown())

    def shown(self) -> dict[str, list[str]]:
        """The regions on the page: of long ones the tables that show the answer."""
        return {
            name: shortened(lines, SHOWN[name]) if name in SHOWN else lines
            for name, lines in self.regions().items()
            if SHOWN.get(name) != ()
        }

    def write(self) -> None:
        write_text(self.path, self.text())
        for name, draw in self.pictures:
            write_bytes(self.path.with_name(name), draw())


def _methods() -> dict[str, list[str]]:
    return {**unified.regions(), "mlet": mlet.region()}


def _searches() -> dict[str, list[str]]:
    return {
        "combined": combined.region(),
        "dimgrow": dimgrow.region(),
        "optembed": optembed.region(),
    }


def _papers() -> dict[str, list[str]]:
    return {
        "mlet regime": mlet_regime.region(),
        "unified grid": unified_grid.region(),
        "seo grid": seo_grid.region(),
        "inference": inference.region(),
    }


def _halving() -> dict[str, list[str]]:
    return {"planted": planted.region()}


def _settings() -> dict[str, list[str]]:
    return {"search variants": search_variants.region()}


def _churn_lines() -> list[dict[str, object]]:
    return churn.planned(read(churn_runs.RECORD))


PAGES = {
    "readme": Page(ROOT / "README.md", readme.regions),
    "results": Page(MEASURED / "results.md", results.regions),
    "every-way": Page(MEASURED / "every-way.md", every_way.regions),
    "methods": Page(
        MEASURED / "methods.md",
        _methods,
        (("frontier.png", lambda: unified.frontier(read(unified_runs.RECORD))),),
    ),
    "searches": Page(MEASURED / "searches.md", _searches),
    "papers": Page(MEASURED / "papers.md", _papers),
    "backbones": Page(MEASURED / "backbones.md", lambda: {"backbones": backbones.region()}),
    "analysis": Page(
        MEASURED / "analysis.md", analysis.regions, (("orthogonality.png", analysis.plot),)
    ),
    "churn": Page(
        MEASURED / "churn.md",
        lambda: {"churn": churn.region(_churn_lines())},
        (("churn.png", lambda: churn.plot(_churn_lines())),),
    ),
    "halving": Page(ROOT / "docs" / "halving.md", _halving),
    "at-bytes": Page(MEASURED / "at-bytes.md", at_bytes.regions),
    "at-bytes-tables": Page(MEASURED / "at-bytes-tables.md", at_bytes.tables),
    "at-bytes-earlier": Page(MEASURED / "at-bytes-earlier.md", at_bytes.earlier),
    "at-bytes-settings": Page(MEASURED / "at-bytes-settings.md", _settings),
    "serving": Page(MEASURED / "serving.md", serving.regions),
    "scoring": Page(MEASURED / "scoring.md", lambda: {"scoring": scoring.region()}),
    "speed": Page(MEASURED / "speed.md", speed.regions),
    "size": Page(MEASURED / "size.md", speed.size_regions),
    "kernels": Page(MEASURED / "kernels.md", lambda: {"kernels": kernels.region()}),
    "gpu": Page(MEASURED / "gpu.md", lambda: {"gpu": gpu.region()}),
    "throughput": Page(
        MEASURED / "throughput.md",
        lambda: {"throughput": throughput.region(throughput.read_lines())},
        (("throughput.png", lambda: throughput.figure_of(throughput.read_lines())),),
    ),
    "scaling": Page(MEASURED / "scaling.md", scaling.regions),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="PAGE", help=f"some of {', '.join(PAGES)}")
    parser.add_argument("--print", action="store_true", help="print the regions, write nothing")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - set(PAGES)):
        parser.error(f"no page {', '.join(unknown)}; allowed: {', '.join(PAGES)}")
    for name in options.names or PAGES:
        page = PAGES[name]
        if options.print:
            for lines in page.regions().values():
                print(*lines, sep="\n")
        else:
            page.write()
            print(f"wrote {page.path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
