from __future__ import annotations

import dataclasses
import html
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import opened_page

from tapestry.core.atomic import write_csv, write_json
from tapestry.core.errors import TapestryError
from tapestry.report.inputs import SHOWN_PARAMETERS, ReportInputs, read_inputs
from tapestry.report.origin import SLOT, with_origin
from tapestry.report.page import render, write_report

KS = (1, 5, 10, 20, 50, 100)
DOMAINS = ("Books", "Toys_and_Games")
ODD = '<b>"A" & $x_1$ #000001</b>'


def metrics(level: float, n: int = 400, ks: tuple[int, ...] = KS) -> dict[str, float]:
    """M with HR@K = level · K / 1000, NDCG@K half of it, MRR = level / 10."""
    if n == 0:
        return {"n": 0}
    return {
        "n": n,
        **{f"hr_{k}": level * k / 1000 for k in ks},
        **{f"ndcg_{k}": level * k / 2000 for k in ks},
        "mrr": level / 10,
    }


def domain(rows: int) -> dict[str, Any]:
    return {
        "rows_in": rows,
        "rows_kept": rows - 60,
        "rows_quarantined": 10,
        "rows_filtered": 50,
        "quarantined": {"missing user": 3, f"odd row {rows}": 7},
        "filtered": {"duplicate": 20, "item of another domain": 30},
        "users": rows // 10,
        "items": rows // 20,
        "interactions": rows - 60,
        "delta": 0.125,
        "transition_entropy": 0.75,
        "tied_pairs": 0.25,
        "tied_switches": 0.3,
    }


def inputs(
    names: tuple[str, ...] = DOMAINS,
    ks: tuple[int, ...] = KS,
    knn: float = 4.0,
    tied: int = 40,
) -> ReportInputs:
    """A model at level 5 beside a popularity baseline at 2."""
    domains = {name: domain(1000 * index) for index, name in enumerate(names, start=1)}
    whole = {
        key: sum(row[key] for row in domains.values())
        for key, value in domain(1000).items()
        if not isinstance(value, dict)
    }
    curve = [{"epoch": e, "loss": 4.0 - e, "tape_norm": 0.5, **metrics(e, ks=(1, 10, 100))} for e in (1, 3, 2)]
    curve = [row | {"epoch": float(index)} for index, row in enumerate(curve, start=1)]
    return ReportInputs(
        data={
            "all": whole,
            "domain": domains,
            "transitions": {
                row: {column: 10 * y + x + 1 for x, column in enumerate(names)} for y, row in enumerate(names)
            },
            "lengths": [{"from": 5, "to": 7, "users": 1200}, {"from": 8, "to": 8, "users": 30}],
        },
        train={"best": curve[1], "final": curve[2], "epochs": 3, "tokens": 12345},
        test={
            "all": metrics(5.0, ks=ks),
            "domain": {name: metrics(4.0 + index, 200, ks) for index, name in enumerate(names)},
            "transition": {"same": metrics(6.0, 100, ks), "switch": metrics(3.0, 300, ks)},
            "tied": {"tied": metrics(7.0, tied, ks), "untied": metrics(4.5, 360, ks)},
            "popularity": {"tail": metrics(1.0, 130, ks), "middle": metrics(2.0, 130, ks), "head": metrics(8.0, 0)},
            "baselines": {"item_knn": metrics(knn, ks=ks), "popularity": metrics(2.0, ks=ks)},
        },
        curve=curve,
        config={
            "model": {"width": 64, "tape": True, "attention": "intra", "dropout": 0.5},
            "train": {"negatives": None, "learning_rate": 1e-05, "stop_by": "ndcg_10"},
            "domains": [{"name": name, "start": 0, "end": 1} for name in names],
        },
        parameters={
            "source.release": "synthetic",
            "sessionize.split": "leave_one_out",
            "train.seed": 1,
            "sessionize.seed": 2,
            "synthetic.seed": 3,
        },
        examples=[example(names[0], rank=2), example(names[-1], rank=71)],
        studies=[],
    )


def example(domain: str, rank: int) -> dict[str, Any]:
    items = [{"item_id": f"{domain}-{number}", "domain": domain} for number in range(8)]
    return {
        "history": items[:3],
        "earlier": 1234,
        "domain": domain,
        "target": items[4],
        "rank": rank,
        "candidates": 5678,
        "recommended": items[3:6] if rank <= 3 else items[5:8],
    }


class Page(HTMLParser):
    """Tables by label as rows of cells, the cells in bold, the text, and every attribute."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.bold: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self._open: list[str] = []
        self._label = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._open.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag == "table":
            self._label = dict(attributes)["aria-label"] or ""
            self.tables[self._label] = []
        elif tag == "tr":
            self.tables[self._label].append([])
        elif tag in ("td", "th"):
            self.tables[self._label][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if "strong" in self._open:
            self.bold.append(data)
        if "td" in self._open or "th" in self._open:
            self.tables[self._label][-1][-1] += data


@pytest.fixture(scope="module")
def default() -> str:
    return render(inputs())


def named(rows: list[list[str]]) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in rows}


def test_test_figures_are_those_of_the_inputs(default: str) -> None:
    tables = Page(default).tables
    assert tables["Test figures"] == [
        ["", "HR@10", "HR@100", "NDCG@100", "MRR"],
        ["Tapestry", "5.00%", "50.00%", "25.00%", "50.00%"],
        ["Item-kNN", "4.00%", "40.00%", "20.00%", "40.00%"],
        ["Popularity", "2.00%", "20.00%", "10.00%", "20.00%"],
    ]
    groups = named(tables["Test figures by group"])
    assert groups["All"] == ["400", "5.00%", "50.00%", "25.00%", "50.00%"]
    assert groups["Toys and Games"] == ["200", "5.00%", "50.00%", "25.00%", "50.00%"]
    assert groups["Other domain"] == ["300", "3.00%", "30.00%", "15.00%", "30.00%"]
    assert groups["Tied"] == ["40", "7.00%", "70.00%", "35.00%", "70.00%"]


def test_rows_and_reasons_are_those_of_the_inputs(default: str) -> None:
    tables = Page(default).tables
    assert named(tables["Rows by domain"]) == {
        "Domain": ["Rows in", "= kept", "+ quarantined", "+ filtered"],
        "Books": ["1,000", "940", "10", "50"],
        "Toys and Games": ["2,000", "1,940", "10", "50"],
        "All": ["3,000", "2,880", "20", "100"],
    }
    reasons = named(tables["Rows lost by reason"])
    assert reasons["missing user"] == ["3", "3", "6"]
    assert reasons["odd row 2000"] == ["0", "7", "7"]
    assert reasons["item of another domain"] == ["30", "30", "60"]
    assert named(tables["Sequences by domain"])["Books"] == [
        *("100", "50", "940"),
        *("0.125", "0.750", "25.00%", "30.00%"),
    ]


def test_the_map_of_transitions_has_the_shares_of_each_row() -> None:
    data: dict[str, Any] = dict(inputs().data)
    data["transitions"] = {
        "Books": {"Books": 3, "Toys_and_Games": 1},
        "Toys_and_Games": dict.fromkeys(DOMAINS, 0),
    }
    drawn = figure_texts(render(dataclasses.replace(inputs(), data=data)))[
        "How often an interaction in one domain is followed by one in another"
    ]
    assert [text for text in drawn if text.isdigit()] == ["1", "2", "75", "25", "0", "0"]
    assert {"Books  1", "Toys and Games  2"} <= set(drawn)


def test_the_classes_of_lengths_are_labelled(default: str) -> None:
    drawn = figure_texts(default)["Number of users by the length of their sequence"]
    assert {"5–7", "8"} <= set(drawn)


def test_examples_show_history_recommendations_and_the_rank_of_what_was_chosen(default: str) -> None:
    text = re.sub(r"\s+", " ", " ".join(Page(default).text))
    first, second = text.partition("Asked for: Books")[2].split("Asked for: Toys and Games")
    assert "after 1,234 earlier Books-0 Books Books-1 Books Books-2 Books" in first
    assert "Books-3 Books-4 chosen Books-5" in first
    assert "rank 2 of 5,678" in first
    assert "chosen" not in second.partition("Chosen:")[0]
    assert "rank 71 of 5,678" in second


def figure_texts(page: str) -> dict[str, list[str]]:
    """The texts of each figure, by its description."""
    figures = re.findall(r'<svg role="img" aria-label="([^"]*)".*?>(.*?)</svg>', page, re.DOTALL)
    return {
        name: [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", drawn)]
        for name, drawn in figures
    }


def test_training_shows_the_best_and_the_last_epoch_and_every_parameter(default: str) -> None:
    page = Page(default)
    epochs = named(page.tables["Validation figures"])
    assert epochs["Best epoch"] == ["2", "1.0000", "3.00%", "30.00%", "1.50%", "15.00%", "30.00%"]
    assert epochs["Last epoch"] == ["3", "2.0000", "2.00%", "20.00%", "1.00%", "10.00%", "20.00%"]
    assert "epoch 2, the best by validation NDCG@10, whose" in default
    model, train = page.tables["Parameters of model"], page.tables["Parameters of train"]
    assert named(model) == {
        "model": [""],
        "attention": ["intra"],
        "dropout": ["0.5"],
        "tape": ["true"],
        "width": ["64"],
    }
    expected = {"train": [""], "learning_rate": ["1e-05"], "negatives": ["null"], "stop_by": ["ndcg_10"]}
    assert named(train) == expected


def test_another_figure_that_training_was_stopped_by_has_a_column_and_is_named() -> None:
    given = inputs()
    given.config["train"]["stop_by"] = "domain_mrr"
    for row in given.curve:
        row["domain_mrr"] = 0.125 * row["epoch"]  # type: ignore[index]
    shown = render(given)
    assert "epoch 2, the best by validation MRR, mean over domains, whose" in shown
    table = Page(shown).tables["Validation figures"]
    assert table[0][-1] == "MRR, mean over domains"
    assert named(table)["Best epoch"][-1] == "25.00%"
    assert named(table)["Last epoch"][-1] == "37.50%"


def test_the_best_of_a_column_is_bold(default: str) -> None:
    assert Page(default).bold == ["5.00%", "50.00%", "25.00%", "50.00%"]
    mixed = inputs()
    mixed.test["baselines"]["item_knn"]["mrr"] = 0.6
    assert Page(render(mixed)).bold == ["5.00%", "50.00%", "25.00%", "60.00%"]


def test_a_baseline_that_the_model_does_not_beat_is_named_with_the_figures() -> None:
    mixed = inputs()
    mixed.test["baselines"]["item_knn"]["mrr"] = 0.6
    text = " ".join(Page(render(mixed)).text)
    assert "Tapestry does not beat Item-kNN on MRR (50.00% against 60.00%)." in text
    assert "Tapestry beats Popularity on every figure of the table." in text


@pytest.mark.parametrize("knn", [5.0, 5.5])
def test_an_equal_baseline_is_not_beaten(knn: float) -> None:
    text = " ".join(Page(render(inputs(knn=knn))).text)
    assert "Tapestry does not beat Item-kNN on HR@10 (5.00% against" in text


def test_without_baselines_the_page_says_so() -> None:
    alone = inputs()
    del alone.test["baselines"]  # type: ignore[attr-defined]
    assert "There is no baseline to compare with." in render(alone)


def test_a_group_of_no_targets_has_dashes() -> None:
    groups = named(Page(render(inputs(tied=0))).tables["Test figures by group"])
    assert groups["Tied"] == ["0", "–", "–", "–", "–"]
    assert groups["Head"] == ["0", "–", "–", "–", "–"]


@pytest.mark.parametrize(
    ("ks", "head"),
    [
        ((3, 7), ["HR@7", "NDCG@7", "MRR"]),
        ((1,), ["HR@1", "NDCG@1", "MRR"]),
        ((5, 10, 50), ["HR@10", "HR@50", "NDCG@50", "MRR"]),
        (tuple(range(1, 60)), ["HR@10", "HR@59", "NDCG@59", "MRR"]),
    ],
)
def test_headline_columns_follow_the_cut_offs(ks: tuple[int, ...], head: list[str]) -> None:
    tables = Page(render(inputs(ks=ks))).tables
    assert tables["Test figures"][0] == ["", *head]
    assert tables["Test figures by group"][0] == ["Targets", "n", *head]


def test_figures_among_sampled_negatives_have_a_table_and_a_warning_of_their_own(default: str) -> None:
    given = inputs()
    sampled = {f"{key}_of_99": 0.5 + value for key, value in metrics(1.0).items() if key != "n"}
    test: dict[str, Any] = {**given.test, "all": {**given.test["all"], **sampled}}
    test["baselines"] = {name: {**row, **sampled} for name, row in given.test["baselines"].items()}
    page = Page(render(dataclasses.replace(given, test=test)))
    head, *rows = page.tables["Test figures among 99 sampled negatives"]
    assert head == ["", "HR@10 of 99", "HR@100 of 99", "NDCG@100 of 99", "MRR of 99"]
    assert [row[0] for row in rows] == ["Tapestry", "Item-kNN", "Popularity"]
    assert rows[0][1] == f"{sampled['hr_10_of_99']:.2%}"
    assert page.tables["Test figures"] == Page(default).tables["Test figures"]
    assert any("may order models differently" in text for text in page.text)
    assert "sampled" not in default


def test_one_epoch_is_enough() -> None:
    several = inputs()
    one = dataclasses.replace(
        several, curve=several.curve[:1], train={**several.train, "best": several.curve[0], "epochs": 1}
    )
    assert named(Page(render(one)).tables["Validation figures"])["Best epoch"][0] == "1"


def test_odd_names_are_text_everywhere() -> None:
    page = render(inputs(names=(ODD, "Books")))
    assert "<b>" not in page
    shown = ODD.replace("_", " ")
    assert shown in named(Page(page).tables["Rows by domain"])
    assert f"{shown} (n = 200)" in Page(page).text


def test_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first" / "index.html", tmp_path / "second" / "index.html"
    write_report(inputs(), first)
    write_report(inputs(), second)
    assert first.read_bytes() == second.read_bytes()
    assert str(tmp_path) not in first.read_text(encoding="utf-8")
    assert [path.name for path in first.parent.iterdir()] == ["index.html"]


def test_the_page_needs_nothing_but_itself(default: str) -> None:
    parsed = Page(default)
    assert {tag for tag, _, _ in parsed.attributes}.isdisjoint({"script", "link", "img", "iframe"})
    references = [value for _, name, value in parsed.attributes if name in ("src", "href", "xlink:href")]
    assert references
    assert all(value.startswith("#") for value in references)
    outside_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", default)
    assert re.search(r"https?:|@import|url\((?!#)", outside_namespaces) is None


def test_ids_are_unique_and_every_reference_has_its_target(default: str) -> None:
    ids = [value for _, name, value in Page(default).attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', default)) <= set(ids)


def test_figures_take_their_colours_from_the_page(default: str) -> None:
    drawn = "".join(re.findall(r"<svg.*?</svg>", default, re.DOTALL))
    assert drawn.count("<svg") == 5
    assert "var(--ink)" in drawn
    assert re.findall(r"#[0-9a-f]{6}\b", drawn) == []


def test_how_it_was_made_has_release_split_and_seeds(default: str) -> None:
    made = named(Page(default).tables["How this was made"])
    assert made == {
        "Release": ["synthetic"],
        "Split": ["leave_one_out"],
        "Seed of training": ["1"],
        "Seed of the order of ties": ["2"],
        "Seed of the simulator": ["3"],
    }
    downloaded = inputs()
    downloaded = dataclasses.replace(downloaded, parameters={**downloaded.parameters, "source.release": "amazon-2018"})
    made = named(Page(render(downloaded)).tables["How this was made"])
    assert made["Release"] == ["amazon-2018"]
    assert "Seed of the simulator" not in made


def test_the_origin_is_further_rows_as_text_and_changes_nothing_else(default: str) -> None:
    origin = {"Commit": "0123abcd", "Hardware": ODD}
    page = with_origin(default, origin)
    made = Page(default).tables["How this was made"]
    assert Page(page).tables["How this was made"] == [*made, *([name, value] for name, value in origin.items())]
    before, after = default.split(SLOT)
    assert page.startswith(before)
    assert page.endswith(after)
    assert "<b>" not in page


@pytest.mark.parametrize("given", ["", "<p>no report</p>", SLOT * 2])
def test_an_origin_is_added_only_to_a_report(given: str) -> None:
    with pytest.raises(TapestryError, match="no empty slot for its origin"):
        with_origin(given, {"Commit": "0123abcd"})


def test_an_origin_is_added_once(default: str) -> None:
    with pytest.raises(TapestryError, match="no empty slot for its origin"):
        with_origin(with_origin(default, {"Commit": "0123abcd"}), {"Commit": "0123abcd"})


WHOLE = """
[...document.querySelectorAll('iframe')].map(frame => {
    const page = frame.contentDocument, table = page.querySelector('.headline').parentElement;
    const {width, height} = page.querySelector('.headline').getBoundingClientRect();
    const body = page.documentElement;
    return [table.scrollWidth - table.clientWidth, body.scrollWidth - body.clientWidth, width > 200 && height > 60];
})
"""
"""JavaScript: by frame, how many pixels of the headline table and of the page are out of sight; is the table drawn?"""


def test_a_phone_shows_the_headline_table_whole(browser: str, tmp_path: Path) -> None:
    widest = inputs()
    for row in [widest.test["all"], *widest.test["baselines"].values()]:
        row |= {key: 1.0 if key == "hr_100" else 0.9999 for key in row if key != "n"}  # all of them bold
    page = with_origin(render(widest), {"Commit": "0123456789" * 4, "Hardware": "a processor with a long name " * 4})
    frames = [
        f'<iframe style="border: 0; height: 900px; width: {width}px" srcdoc="{html.escape(page)}"></iframe>'
        for width in (320, 360, 390)
    ]
    (tmp_path / "frames.html").write_text(f'<!doctype html><meta charset="utf-8">{"".join(frames)}', encoding="utf-8")
    with opened_page(browser, tmp_path / "profile") as tab:
        tab.open((tmp_path / "frames.html").as_uri())
        tab.wait_for("document.readyState === 'complete' && document.querySelectorAll('iframe').length === 3")
        seen = json.loads(tab.wait_for(f"JSON.stringify({WHOLE})"))
    assert seen == [[0, 0, True]] * 3


OVERLAPS = """
[...document.querySelectorAll('iframe')].flatMap(frame =>
    [...frame.contentDocument.querySelectorAll('svg')].flatMap(figure => {
        const texts = [...figure.querySelectorAll('text')].map(
            text => [text.textContent, text.getBoundingClientRect()]);
        return texts.flatMap(([one, a], index) => texts.slice(index + 1).filter(([, b]) =>
            Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
            Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2).map(([other]) => one + ' | ' + other));
    }))
"""
"""JavaScript: the pairs of texts of a figure that overlap."""
HEIGHTS = """
[...document.querySelectorAll('iframe')].map(frame =>
    [...frame.contentDocument.querySelectorAll('svg')].filter(svg => svg.getBoundingClientRect().height > 100).length)
"""
"""JavaScript: by frame, how many figures are drawn."""


def test_every_figure_is_drawn_without_overlapping_texts_and_nothing_is_logged(browser: str, tmp_path: Path) -> None:
    page = render(inputs(names=tuple(f"Domain_with_a_long_name_{number}" for number in range(8))))
    frames = [
        f'<iframe style="border: 0; height: 900px; width: {width}px" srcdoc="{html.escape(page)}"></iframe>'
        for width in (400, 1400)
    ]
    (tmp_path / "frames.html").write_text(f'<!doctype html><meta charset="utf-8">{"".join(frames)}', encoding="utf-8")
    with opened_page(browser, tmp_path / "profile") as tab:
        tab.open((tmp_path / "frames.html").as_uri())
        tab.wait_for("document.readyState === 'complete' && document.querySelectorAll('iframe').length === 2")
        assert json.loads(tab.wait_for(f"JSON.stringify({HEIGHTS})")) == [5, 5]
        assert json.loads(tab.wait_for(f"JSON.stringify({OVERLAPS})")) == []
        assert tab.logged() == []
        tab.evaluate("console.error('seen'), fetch('nowhere:').catch(() => 0)")
        assert tab.logged() != []


def test_rows_that_do_not_add_up_are_an_error() -> None:
    broken = inputs()
    broken.data["domain"]["Books"]["rows_kept"] += 1
    with pytest.raises(TapestryError, match=r"Books: the rows don't add up; run `dvc repro`"):
        render(broken)


def test_no_test_target_is_an_error() -> None:
    broken = inputs()
    broken.test["all"].clear()
    broken.test["all"]["n"] = 0
    with pytest.raises(TapestryError, match="no test target"):
        render(broken)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The files of `inputs()` in metrics/ and models/."""
    given = inputs()
    for name in ("data", "train", "test"):
        write_json(tmp_path / "metrics" / f"{name}.json", getattr(given, name))
    write_csv(tmp_path / "metrics" / "curve.csv", given.curve)
    write_json(tmp_path / "models" / "config.json", given.config)
    write_json(tmp_path / "data" / "examples.json", given.examples)
    write_parameters(tmp_path, given.parameters)
    return tmp_path


def write_parameters(folder: Path, parameters: Mapping[str, Any]) -> None:
    """Write params.yaml with these, and one that the report doesn't read in each section."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in parameters.items():
        section, key = name.split(".")
        sections.setdefault(section, {"other": None})[key] = value
    write_json(folder / "params.yaml", sections)  # JSON is YAML


def read(files: Path) -> ReportInputs:
    return read_inputs(
        files / "metrics", files / "models", files / "params.yaml", files / "data/examples.json", files / "studies"
    )


def test_inputs_are_read_as_the_stages_write_them(files: Path) -> None:
    assert read(files) == inputs()


@pytest.mark.parametrize("name", SHOWN_PARAMETERS)
def test_a_missing_parameter_is_named(files: Path, name: str) -> None:
    write_parameters(files, {key: value for key, value in inputs().parameters.items() if key != name})
    with pytest.raises(TapestryError, match=rf"params\.yaml: {re.escape(name)} is missing"):
        read(files)


@pytest.mark.parametrize(
    "name",
    [
        *("metrics/data.json", "metrics/train.json", "metrics/test.json", "metrics/curve.csv"),
        *("models/config.json", "data/examples.json"),
    ],
)
def test_a_missing_file_is_named_with_what_to_do(files: Path, name: str) -> None:
    (files / name).unlink()
    with pytest.raises(TapestryError, match=rf"{re.escape(name)}: not there; run `dvc repro`"):
        read(files)


@pytest.mark.parametrize(
    ("name", "content"),
    [("test.json", "{"), ("train.json", "[" * 100_000), ("curve.csv", "epoch,loss\n1,none\n")],
    ids=["cut", "nested", "no number"],
)
def test_a_damaged_file_is_an_error(files: Path, name: str, content: str) -> None:
    (files / "metrics" / name).write_text(content, encoding="utf-8")
    with pytest.raises(TapestryError, match="run `dvc repro`"):
        read(files)
