"""The documents are complete, in reading order, and what they count is so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results"
# Phrases of notes, not of sentences: a reader cannot tell what they stand for.
IDIOMS = re.compile(r"\b(those of|that of|what (is|was)|the latter|the former)\b", re.IGNORECASE)
OURS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
SPECIFICATIONS = ("policy-format.md", "plan-format.md", "package-format.md")
GUIDES = [*OURS, *(p.relative_to(ROOT).as_posix() for p in sorted(DOCS.rglob("*.md")))]


def settings() -> dict[str, Any]:
    """``mkdocs.yml``, without what only MkDocs can make of its tags."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    found: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)
    return found


def pages(nav: Any) -> Iterator[str]:
    """The pages of a navigation, in reading order."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from pages(entry)


def test_every_page_is_in_the_navigation_once() -> None:
    listed = list(pages(settings()["nav"]))
    assert sorted(listed) == sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md"))
    assert listed[0] == "index.md"


def test_the_index_links_every_guide_in_the_order_of_the_navigation() -> None:
    links = re.findall(r"\]\(([\w./-]+\.md)\)", (DOCS / "index.md").read_text())
    listed = [p for p in pages(settings()["nav"]) if p != "index.md" and not p.startswith("api/")]
    assert [p for p in links if p in listed] == listed


def test_the_site_loads_nothing_from_elsewhere() -> None:
    theme = settings()["theme"]
    assert theme["font"] is False
    assert "extra_javascript" not in settings() and "extra_css" not in settings()


def test_every_public_package_has_a_reference() -> None:
    """Every directory of seo_rec that is imported by users, and the kernels."""
    named = {
        name
        for page in (DOCS / "api").glob("*.md")
        for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE)
    }
    inner = {"cli", "report", "runs", "analysis"}
    packages = {p.parent.name for p in (ROOT / "seo_rec").glob("*/__init__.py")} - inner
    missing = [p for p in packages if not any(n.startswith(f"seo_rec.{p}") for n in named)]
    assert missing == []
    assert "seo_kernels" in named


@pytest.mark.parametrize("name", GUIDES)
def test_guides_are_written_in_sentences(name: str) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", (ROOT / name).read_text(), flags=re.DOTALL)
    assert IDIOMS.findall(text) == []


@pytest.mark.parametrize("name", GUIDES)
def test_tables_are_whole(name: str) -> None:
    """A row after an empty line is shown as text with bars: every table begins with a header."""
    lines = ["", *re.sub(r"```.*?```", "", (ROOT / name).read_text(), flags=re.DOTALL).split("\n")]
    first = [i for i in range(1, len(lines)) if lines[i][:1] == "|" != lines[i - 1][:1]]
    assert [lines[i] for i in first if not re.fullmatch(r"[|: -]*-[|: -]*", lines[i + 1])] == []


LATER = (
    "days.md",
    "budgets.md",
    "digests.md",
    "clustered.md",
    "crosses.md",
    "halving.md",
    "gpu.md",
    "tables.md",
    "serving.md",
    "scoring.md",
    "server.md",
    "package-format.md",
    "evaluation.md",
    "training.md",
    "tuning.md",
    "uvm.md",
    "large-data.md",
    "storage.md",
    "stack.md",
    "size.md",
    "at-bytes.md",
    "at-bytes-earlier.md",
    "at-bytes-settings.md",
    "at-bytes-tables.md",
    "prepared-format.md",
    "papers.md",
)  # half of 52,400 words were there before


def test_the_guides_stay_short() -> None:
    """README and guides can be read in an hour; pages of what came later count by themselves."""
    words = {p: len(p.read_text().split()) for p in [ROOT / "README.md", *DOCS.rglob("*.md")]}
    assert sum(n for p, n in words.items() if p.name not in LATER) <= 26_200
    for page in SPECIFICATIONS:  # complete, so that others can write readers from them
        del words[DOCS / page]
    assert max(words.values()) <= 2_500
    del words[DOCS / "LOG.md"]  # grows with every experiment
    guides = {p: count for p, count in words.items() if p.parent in (ROOT, DOCS)}
    assert sum(n for p, n in guides.items() if p.name not in LATER) <= 12_500


# ---- what the findings count -------------------------------------------------------------------


def run_offs() -> dict[tuple[str, str, int, int], bool]:
    """Of every run-off on real data in the records, whether attention decided it."""
    found = {}
    for name in ("movielens", "criteo", "unified"):
        for line in (RESULTS / f"{name}.jsonl").read_text().splitlines():
            record = json.loads(line)
            if record["method"] != "seo":
                continue
            key = (name, record["study"], record["budget"], record["seed"])
            winner, policy = record.get("winner"), record.get("policy", "")
            # Older lines only describe the policy: plain is "39 features x 2", and nothing else.
            plain = winner.startswith("trivial-") if winner else policy.count(" features x ") == 1
            found[key] = not plain
    return found


def test_attention_decided_one_of_44_run_offs() -> None:
    decided = run_offs()
    text = " ".join((DOCS / "findings.md").read_text().split())
    assert f"attention decided {sum(decided.values())} of {len(decided)} recorded run-offs" in text
    assert f"attention decided one of {len(decided)} recorded" in (ROOT / "README.md").read_text()
    assert [key for key, by_attention in decided.items() if by_attention] == [
        ("unified", "criteo", 48_000, 2)
    ]
    rows = re.findall(
        r"^\| (MovieLens-1M|Criteo sample), (MLP|DCN-V2) \|.*\| (\d+) \| (\d+) \|$",
        (DOCS / "findings.md").read_text(),
        re.MULTILINE,
    )
    counted = {
        ("MovieLens-1M", "MLP"): [v for k, v in decided.items() if k[0] == "movielens"],
        ("MovieLens-1M", "DCN-V2"): [v for k, v in decided.items() if k[1] == "movielens-1m"],
        ("Criteo sample", "MLP"): [v for k, v in decided.items() if k[0] == "criteo"],
        ("Criteo sample", "DCN-V2"): [v for k, v in decided.items() if k[1] == "criteo"],
    }
    assert {(r[0], r[1]): (int(r[2]), int(r[3])) for r in rows} == {
        key: (len(values), sum(values)) for key, values in counted.items()
    }
