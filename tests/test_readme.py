"""What the README and the documents tell a reader to type works, and the README stays short.

Every ``python`` block runs, in the order of its document and in one empty folder, unless the line
above it is ``<!-- not run -->``. Every ``seo-rec`` line of every ``bash`` block, and of every
indented one, is parsed by the real command line; the README's own chain of commands runs on a small
file. ``make`` targets and TorchX components that are named exist. Links to files lead somewhere.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import typer

from seo_rec.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCUMENTS = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("**/*.md")),
]
FENCE = re.compile(
    r"^(?P<above>[^\n]*)\n(?P<indent>[ ]*)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```",
    re.MULTILINE | re.DOTALL,
)
INDENTED = re.compile(r"^ {4}seo-rec (?:.*\\\n)*.*$", re.MULTILINE)
NOT_RUN = "<!-- not run -->"


class Block(NamedTuple):
    """A fenced block of a document, and the line at which its code begins."""

    document: str
    line: int
    language: str
    code: str
    above: str


def blocks() -> list[Block]:
    found = []
    for path in DOCUMENTS:
        text = "\n" + path.read_text() if path.exists() else ""
        for m in FENCE.finditer(text):
            line = text.count("\n", 0, m.start("code"))
            name = str(path.relative_to(ROOT))
            found.append(Block(name, line, m["language"], m["code"], m["above"].strip()))
        outside = FENCE.sub(lambda m: "\n" * m[0].count("\n"), text)
        for m in INDENTED.finditer(outside):
            line = outside.count("\n", 0, m.start())
            found.append(Block(str(path.relative_to(ROOT)), line, "bash", m[0].strip(), ""))
    return found


def commands(block: Block) -> Iterator[list[str]]:
    """The commands of a shell block, as words; comments, prompts and variables are left out."""
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        part: list[str] = []
        for word in [*words, ";"]:
            if word in (";", "&&", "|", "||", "&"):
                while part and re.fullmatch(r"\w+=.*", part[0]):
                    part.pop(0)
                if part:
                    yield part
                part = []
            else:
                part.append(word)


def shell_commands() -> list[tuple[Block, list[str]]]:
    shells = [b for b in blocks() if b.language in ("bash", "sh", "shell", "console")]
    return [(b, words) for b in shells for words in commands(b)]


def ours(words: list[str]) -> list[str] | None:
    """The arguments of ``seo-rec`` if this is a call of it."""
    if Path(words[0]).name == "seo-rec":
        return words[1:]
    if Path(words[0]).name.startswith("python") and words[1:3] == ["-m", "seo_rec"]:
        return words[3:]
    return None


def place(case: Any) -> str:
    return f"{case[0].document}:{case[0].line} {' '.join(case[1])[:60]}"


def only_parse(arguments: list[str]) -> None:
    """Parse ``arguments`` as ``seo-rec`` does, types and missing options included; run nothing."""

    def disarm(command: Any) -> None:
        for child in getattr(command, "commands", {}).values():
            disarm(child)
            child.callback = lambda *_, **__: None

    group: Any = typer.main.get_command(app)
    disarm(group)
    group.main(arguments, prog_name="seo-rec", standalone_mode=False)


# ---- the documents -------------------------------------------------------------------------


def test_there_is_a_readme() -> None:
    assert README.exists()
    assert any(ours(words) for block, words in shell_commands() if block.document == "README.md")


@pytest.mark.parametrize("case", [c for c in shell_commands() if ours(c[1]) is not None], ids=place)
def test_a_command_parses(case: tuple[Block, list[str]]) -> None:
    block, words = case
    if "--config" in words:  # a file of the reader's own, which is read while options are parsed
        del words[(at := words.index("--config")) : at + 2]
    try:
        only_parse(ours(words) or [])
    except Exception as error:
        message = getattr(error, "message", str(error))
        pytest.fail(f"{block.document}:{block.line}: {' '.join(words)}: {message}")


def test_parsing_finds_mistakes() -> None:
    """The test above would notice what it is there for."""
    good = ["apply", "p.json", "--strategy", "exact", "--out", "a.json"]
    only_parse(good)
    only_parse(["prepare", "synthetic", "--out", "d"])
    for bad in (
        good[:-2],  # a missing option
        [*good, "--bold"],  # no such option
        [*good, "more"],  # an argument too many
        [*good, "--params", "few"],  # not a number
        ["explain"],
        ["prepare", "moon"],
    ):
        with pytest.raises(
            Exception, match=r"(?i)missing|no such|unexpected|no number of parameters"
        ):
            only_parse(bad)


@pytest.mark.parametrize("case", [c for c in shell_commands() if c[1][0] == "make"], ids=place)
def test_a_make_target_exists(case: tuple[Block, list[str]]) -> None:
    targets = [w for w in case[1][1:] if "=" not in w and not w.startswith("-")]
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("case", [c for c in shell_commands() if c[1][0] == "torchx"], ids=place)
def test_a_torchx_component_exists(case: tuple[Block, list[str]]) -> None:
    components = [w for w in case[1] if ".py:" in w]
    for component in components:
        path, function = component.split(":")
        tree = ast.parse((ROOT / path).read_text())
        assert function in [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """Links and images that are no web addresses are files of the repository."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if not re.match(r"[a-z]+:", target) and not target.startswith("#"):
            assert (path.parent / target.split("#")[0]).exists(), f"{path.name}: {target}"


@pytest.mark.parametrize(
    "document", sorted({b.document for b in blocks() if b.language == "python"})
)
def test_python_blocks_run(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks():
        if (block.document, block.language) == (document, "python") and block.above != NOT_RUN:
            # so many empty lines that a traceback names the line of the document
            code = "\n" * block.line + block.code
            exec(compile(code, str(ROOT / document), "exec"), names)


# ---- the README is read in five minutes -------------------------------------------------------

MOST = {"lines": 150, "words": 1_200, "columns of a table": 5, "figures of a paragraph": 3}
# A number of the prose; not one inside a word such as H100 or MovieLens-1M.
FIGURE = re.compile(r"(?<![\w./-])[−+-]?\d[\d,]*(?:\.\d+)*")


def paragraphs(text: str) -> list[str]:
    """Prose between empty lines; an item of a list is one. Without code, tables and addresses."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(\||#|<!--).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", " ", text)
    return [p for p in re.split(r"\n\s*\n|\n(?=\s*[*-] )", text) if p.strip()]


def too_much(text: str) -> list[str]:
    """What of a README is above the limits of ``MOST``."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    counts = {
        "lines": len(text.splitlines()),
        "words": len(text.split()),
        "columns of a table": max((row.count("|") - 1 for row in rows), default=0),
        "figures of a paragraph": max(
            (len(FIGURE.findall(p)) for p in paragraphs(text)), default=0
        ),
    }
    return [f"{counts[k]} {k}; allowed: {most}" for k, most in MOST.items() if counts[k] > most]


def test_the_readme_is_short() -> None:
    assert too_much(README.read_text()) == []


@pytest.mark.parametrize(
    "text, names",
    [
        ("a\n" * 151, "lines"),
        ("a " * 1_201, "words"),
        ("|" + "a|" * 6, "columns of a table"),
        ("a\n\n1 and 0.5 rows, −2,000 of 3.", "figures of a paragraph"),
        ("* 1 2\n* 3 4 5 6", "figures of a paragraph"),
    ],
)
def test_a_long_readme_is_noticed(text: str, names: str) -> None:
    short = (
        "H100, MovieLens-1M, `--l2 1 2 3 4`\n\n1 2 3\n* 4 5 6\n\n```\n1 2 3 4\n```\n|a|b|c|d|1|\n"
    )
    assert too_much(short) == []
    (found,) = too_much(text + "\n")
    assert names in found


# ---- the README's chain, on a small file -----------------------------------------------------

QUICKER = {
    "search": ["--params", "3200", "--epochs", "1", "--set", "run_off.epochs=1"],
    "train": ["--epochs", "1"],
    "compare": [
        *("--params", "3200", "--epochs", "1", "--seeds", "1"),
        *("--set", "seo.run_off.epochs=1"),
    ],
}


def write_clicks(path: Path, rows: int = 600) -> None:
    """The file that the README's commands are about: clicks.csv."""
    rng = np.random.default_rng(0)
    lines = ["user,item,city,price,tags,clicked"]
    for _ in range(rows):
        user, item, city = rng.integers(50), rng.integers(80), rng.integers(5)
        tags = "|".join(f"t{t}" for t in rng.integers(0, 9, rng.integers(0, 4)))
        price, clicked = rng.gamma(2.0), int(rng.random() < 0.2 + 0.1 * city)
        lines.append(f"u{user},i{item},c{city},{price:.2f},{tags},{clicked}")
    path.write_text("\n".join(lines) + "\n")


def test_the_readme_chain_runs(
    seo_rec: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From ``prepare table`` to ``report``, as printed but for shorter trainings."""
    (chain,) = [
        b for b in blocks() if b.document == "README.md" and "seo-rec prepare table" in b.code
    ]
    monkeypatch.chdir(tmp_path)
    write_clicks(tmp_path / "clicks.csv")
    typed = [arguments for words in commands(chain) if (arguments := ours(words))]
    assert [a[0] for a in typed] >= ["prepare"] and len(typed) >= 5
    for arguments in typed:
        done = seo_rec(*arguments, *QUICKER.get(arguments[0], []))
        assert done.code == 0, f"{' '.join(arguments)}: {done.err}"
    assert (tmp_path / "report.html").exists()
