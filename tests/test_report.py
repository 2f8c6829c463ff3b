"""The report: its page, reading of run folders, and the table in the terminal."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest

from report_runs import (
    EVIL,
    SEARCHED,
    make_comparison,
    make_data,
    make_search,
    make_training,
    page_of,
    result,
    shared_policy,
)
from seo_rec import report
from seo_rec.files import write_json
from seo_rec.policy import Feature, Lookup, Policy, Table
from seo_rec.report import charts, comparison, formats
from seo_rec.runs import reading


@pytest.fixture
def compared(tmp_path):
    return make_comparison(tmp_path / "compare", tmp_path / "data")


# ---- the page ----------------------------------------------------------------------------


class Loads(HTMLParser):
    """Everything a page could load or run, and whether its elements are closed in order."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self):
        super().__init__()
        self.found, self.scripts, self.open, self.ids, self.targets = [], 0, [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag, attrs):
        self.scripts += tag == "script"
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action", "srcset"):
                (self.targets if value.startswith("#") else self.found).append(value)
            if name.startswith("on"):
                self.scripts += 1
            if name == "id":
                self.ids.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(html: str) -> Loads:
    page = Loads()
    page.feed(html)
    assert page.open == []
    return page


def test_the_page_loads_nothing_and_its_links_lead_somewhere(compared, tmp_path):
    html = page_of([compared], tmp_path)
    page = parsed(html)
    assert page.found == []
    assert page.scripts == 0
    assert {t[1:] for t in page.targets} <= set(page.ids)
    assert "@import" not in html
    assert "url(http" not in html
    assert "://" not in html


def test_the_page_says_what_the_runs_say(compared, tmp_path):
    html = page_of([compared], tmp_path)
    for text in (
        "Every method holds exactly 128 embedding parameters",
        "against <b>multi-size</b>",
        '<td class="best">0.73667</td>',  # test AUC of seo
        "seo-2-min1-exact ★",
        "2.00</td>",  # attention 0.5 x 4, relative to uniform
        "only if its gain exceeds 1.5 × its standard error",
        "git abc123, with uncommitted changes",
        "toy: no chart; its methods all hold 128 parameters",
        "40",
        "<svg",
    ):
        assert text in html, text
    assert html.count("<svg") == 2
    assert "Not everything could be used" not in html
    assert "Not counted" not in html


BYTES = 2 * 16 * 4 * 4  # of `shared_policy`: two tables of 16 rows of four floats of four bytes


def test_bytes_stand_beside_parameters(compared, tmp_path, capsys):
    (found,) = comparison.group(reading.read([compared]))
    assert {t.num_bytes for row in found.rows for t in row.runs} == {BYTES}
    assert [row.num_bytes.mean for row in found.rows] == [BYTES] * 3
    html = page_of([compared], tmp_path)
    assert html.count("<td>128</td>\n<td>512</td>") == 3  # of every method of the comparison
    assert html.count("<td>128</td><td>512</td>") == 1  # of the candidate whose policy is there
    assert html.count("<td>128</td><td>n/a</td>") == 1  # and of the one whose policy is not
    assert "128 embedding parameters (floats), which take 512 bytes to serve" in html
    report.print_comparison([compared])
    _, headings, *rows = capsys.readouterr().out.splitlines()
    assert headings.split()[:3] == ["method", "params", "bytes"]
    assert [row.split()[1:3] for row in rows[:3]] == [["128", "512"]] * 3


def test_recorded_bytes_count_and_unknown_ones_are_not_made_up(tmp_path, capsys):
    """A result of this release says its bytes; an older one without a policy does not."""
    for name, changes in (("said", {"num_bytes": 700}), ("older", {})):
        run = tmp_path / name
        run.mkdir()
        (run / "results.jsonl").write_text(json.dumps(result("separate", 0, 0.7, **changes)))
    assert reading.read([tmp_path / "said"]).trainings[0].num_bytes == 700
    assert reading.read([tmp_path / "older"]).trainings[0].num_bytes is None
    report.print_comparison([tmp_path / "older"])
    assert capsys.readouterr().out.splitlines()[2].split()[:3] == ["separate", "128", "n/a"]
    assert "floats)." in page_of([tmp_path / "older"], tmp_path)


def test_a_policy_of_a_table_per_feature_is_said_to_be_too_wide_to_draw(tmp_path):
    """Rows by id for 39 features: no picture of 39 columns, the rest of the page is there."""
    names = tuple(f"c{i}" for i in range(39))
    data = tmp_path / "data"
    fingerprint = make_data(data, names).fingerprint
    ids = {name: np.arange(1, 40, dtype=np.int64) for name in names}
    of_ids = Policy(
        tuple(Table(f"own {name}", 40, 2) for name in names),
        tuple(Feature(name, (Lookup(f"own {name}", "id"),)) for name in names),
        vocabularies=ids,
        decision={**SEARCHED, "winner": "trivial-no-search"},
    )
    size = 39 * 80
    outcome = result(
        "seo", 0, 0.7, data_fingerprint=fingerprint, budget=size, embedding_params=size
    )
    make_training(tmp_path / "run", outcome, of_ids, data)
    html = page_of([tmp_path / "run"], tmp_path)
    parsed(html)
    assert "seo, seed 0, which is candidate trivial-no-search: 39 tables, too many" in html
    assert "39 of 39 features have a table of their own" in html
    assert 'href="#g1-slots"' in html and 'id="g1-slots"' in html
    assert 'class="cells"' not in html.split('id="g1-slots"')[1].split("<h3")[0]
    assert "Not counted" not in html and "0.70000" in html
    assert "toy: no chart; its one method holds 3,120 parameters" in html


def test_equal_runs_give_equal_bytes(compared, tmp_path):
    assert page_of([compared], tmp_path) == page_of([compared], tmp_path)


def test_hostile_names_stay_text(tmp_path, capsys):
    names = (EVIL, '"><img src=x onerror=alert(1)>', "$x_{", "[red]{{ 7*7 }}")
    aucs = {"separate": (0.7, 0.71), f"_{EVIL}": (0.72, 0.71)}
    data = tmp_path / "data"
    fingerprint = make_data(data, names).fingerprint
    run = tmp_path / "c"
    run.mkdir()
    lines = [
        json.dumps(result(m, s, a, data_fingerprint=fingerprint, command=EVIL, policy=EVIL))
        for m, values in aucs.items()
        for s, a in enumerate(values)
    ]
    (run / "results.jsonl").write_text("\n".join(lines))
    make_search(run / "searches" / "seo-seed0", fingerprint, names)
    single = tmp_path / "single"
    outcome = result("seo", 0, 0.6, data_fingerprint=fingerprint)
    make_training(single, outcome, shared_policy(names, decision=SEARCHED), data)
    html = page_of([run, single], tmp_path)
    page = parsed(html)
    assert page.scripts == 0
    assert page.found == []
    assert "<script" not in html
    assert "{{ 7*7 }}" in html
    report.print_comparison([run])
    assert EVIL in capsys.readouterr().out


def test_a_missing_or_changed_data_set_is_said_and_tolerated(compared, tmp_path):
    make_data(tmp_path / "data", seed=9)
    assert "has changed since" in page_of([compared], tmp_path)
    (tmp_path / "data").rename(tmp_path / "gone")
    html = page_of([compared], tmp_path)
    assert "is not there any more" in html
    assert "0.73667" in html


def test_results_alone_are_enough(tmp_path):
    run = tmp_path / "copied"
    run.mkdir()
    (run / "results.jsonl").write_text(json.dumps(result("separate", 0, 0.7)) + '\n{"cut')
    html = page_of([run], tmp_path)
    assert "0.70000" in html
    assert "results.jsonl:2: an unreadable line is left out" in html


def test_searches_alone_and_single_trainings_are_enough(tmp_path, capsys):
    fingerprint = make_data(tmp_path / "data").fingerprint
    make_search(tmp_path / "search", fingerprint)
    html = page_of([tmp_path / "search"], tmp_path)
    assert "winner, seo-2-min1-exact" in html
    assert "0 finished trainings and 1 finished search from" in html
    assert '<h2 id="g1">toy, 128 parameters</h2>' in html  # by name, not by fingerprint
    report.print_comparison([tmp_path / "search"])
    assert "toy, 128 parameters: searches only" in capsys.readouterr().out
    make_search(tmp_path / "raw", fingerprint, run_off=False)
    outcome = result("separate", 0, 0.7, data_fingerprint=fingerprint)
    make_training(tmp_path / "single", outcome, shared_policy(), tmp_path / "data")
    html = page_of([tmp_path / "raw", tmp_path / "single"], tmp_path)
    assert "chunks by attention alone" in html
    assert "no other method is ahead" in html
    assert "1 finished training and 1 finished search from" in html
    assert "1 training, 0 searches" in html and "0 trainings, 1 search" in html


def test_a_search_that_trains_nothing_is_said_in_words(tmp_path):
    """There is neither an attention nor a run-off to explain."""
    make_search(tmp_path / "s", make_data(tmp_path / "data").fingerprint, run_off=False)
    path = tmp_path / "s" / "search.json"
    found = json.loads(path.read_text()) | {"method": "no-search", "winner": "no-search"}
    decision = {"method": "no-search", "winner": "no-search", "kind": "plain", "searched": True}
    write_json(path, found | {"decision": decision, "record": {}})
    html = page_of([tmp_path / "s"], tmp_path)
    assert "s, seed 0: the rule of no-search decided from the columns; nothing was" in html
    assert "heatmaps" not in html and "run-off" not in html


def test_unfinished_runs_are_named(compared, tmp_path):
    (compared / "runs" / "late-seed0").mkdir()
    write_json(compared / "runs" / "late-seed0" / "run.json", {"kind": "train"})
    assert "late-seed0: the training is not finished" in page_of([compared], tmp_path)


def break_json(folder):
    (folder / "runs" / "seo-seed0" / "run.json").write_text("{\n oops")


def break_kind(folder):
    write_json(folder / "run.json", {"kind": "dance"})
    (folder / "results.jsonl").unlink()
    for part in ("runs", "searches"):
        (folder / part).rename(folder / f"_{part}")


def break_key(folder):
    outcome = result("seo", 0, 0.7)
    del outcome["test_auc"]
    (folder / "results.jsonl").write_text(json.dumps(outcome))


def break_attention(folder):
    path = folder / "searches" / "seo-seed0" / "search.json"
    path.write_text(path.read_text().replace('"attention"', '"intention"'))


@pytest.mark.parametrize(
    "damage, message",
    [
        (break_json, r"run\.json:2: not valid JSON"),
        (break_kind, r"kind 'dance'; allowed: train, tune, search"),
        (break_key, r"results\.jsonl: no 'test_auc' here"),
        (break_attention, r"searches\['2'\] is no attention"),
    ],
)
def test_damaged_folders_are_refused(compared, damage, message):
    damage(compared)
    with pytest.raises(report.ReportError, match=message):
        reading.read([compared])


def test_folders_that_are_no_runs_are_refused(compared, tmp_path):
    with pytest.raises(report.ReportError, match=r"no such folder; give a folder of `seo-rec comp"):
        report.build([tmp_path / "nowhere"], tmp_path / "page.html")
    with pytest.raises(report.ReportError, match="a file, not a folder"):
        report.build([compared / "results.jsonl"], tmp_path / "page.html")
    with pytest.raises(
        report.ReportError, match=r"it holds compare, data; .*did you mean .*compare"
    ):
        report.build([tmp_path], tmp_path / "page.html")
    with pytest.raises(report.ReportError, match="no folder is given"):
        report.build([], tmp_path / "page.html")
    unfinished = tmp_path / "unfinished"
    write_json(unfinished / "run.json", {"kind": "train"})
    with pytest.raises(report.ReportError, match="no finished run here"):
        report.build([unfinished], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


# ---- terminal, numbers, marks ------------------------------------------------------------


def test_terminal_table_is_plain_text_in_a_pipe(compared, capsys):
    report.print_comparison([compared])
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert "\x1b" not in out
    order = [line.split()[0] for line in lines if line.split()[1:2] == ["128"]]
    order.remove("toy,")
    assert order == ["seo", "multi-size", "separate"]
    assert "0.73667 ± 0.00577" in out
    assert "reference" in next(line for line in lines if line.split()[:1] == ["multi-size"])
    assert "toy, 128 parameters" in out


@pytest.mark.parametrize(
    "text, expected",
    [
        (formats.signed(-0.00123), "\N{MINUS SIGN}0.00123"),
        (formats.signed(0.00123), "+0.00123"),
        (formats.number(float("nan"), 5), "n/a"),
        (formats.plus_minus(0.7, float("nan")), "0.70000"),
        (formats.p_value(0.0001), "< 0.001"),
        (formats.seconds(0.5), "0.500"),
        (formats.seconds(1234.5), "1,234"),
        (formats.percent(0.00001), "< 0.01 %"),
        (formats.percent(0.9999), "> 99.9 %"),
        (formats.percent(1.0), "100.0 %"),
        (formats.percent(0.0), "0.00 %"),
        (formats.count(96000), "96,000"),
    ],
)
def test_numbers_read_well(text, expected):
    assert text == expected


def test_marks_tell_eighteen_methods_apart():
    marks = charts.marks([f"m{i}" for i in range(18)])
    assert len({(m.colour, m.marker, m.dash) for m in marks.values()}) == 18
