"""The report on a small run over real digits (report_chain.py)."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from gan_core import schemas
from gan_core.contract import StageInput
from gan_core.files import write_table
from gan_core.reporting.inputs import ReportInputs
from gan_core.reporting.scores import Predictions
from gan_core.reporting.sentences import small_number
from gan_core.reporting.summary import scores_table, summarise
from gan_core.shards import write_rows

_spec = importlib.util.spec_from_file_location(
    "report_chain", Path(__file__).with_name("report_chain.py")
)
assert _spec is not None and _spec.loader is not None
made_by = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made_by)
BROKEN, CAVEAT, COPIES, RECIPE = made_by.BROKEN, made_by.CAVEAT, made_by.COPIES, made_by.RECIPE
report, stage_input, write_source = made_by.report, made_by.stage_input, made_by.write_source


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[StageInput]]:
    return made_by.build_chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="module")
def made(
    chain: dict[str, list[StageInput]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    return report(tmp_path_factory.mktemp("report") / "work", chain)


class Page(HTMLParser):
    """Reads a page as a browser would: open elements, addresses that something is fetched from,
    visible text.
    """

    VOID = {"meta", "img", "br", "path", "circle", "rect", "link", "hr"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.ids: set[str] = set()
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [
            value or ""
            for name, value in attrs
            if name in ("src", "href", "srcset", "data", "action")
        ]
        self.ids |= {value or "" for name, value in attrs if name == "id"}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_page_is_whole_and_fetches_nothing(made: tuple[Path, Any]) -> None:
    raw = (made[0] / "report.html").read_text()
    page = Page(raw)
    assert not page.open
    assert "script" not in page.tags and "link" not in page.tags
    links = {address for address in page.addresses if not address.startswith("data:image/")}
    files = {"summary.json", "model-card.md", "data-card.md"}
    assert links == {*files, "#training"} and all((made[0] / name).is_file() for name in files)
    assert "url(" not in raw and "@import" not in raw
    assert len(raw.encode()) < 2_500_000
    assert {
        "scores",
        "classes",
        "data",
        "training",
        "inspections",
        "cost",
        "warnings",
        "next",
        "record",
    } <= page.ids
    for words in (
        "quiet-digit",
        "discern run digits",
        "The best C is the smallest tried.",
        CAVEAT,
        "cached",
        "has not learned to draw yet",
        "Features learned from digits by DCGAN",
    ):
        assert words in page.text
    assert "nan" not in page.text.lower().split() and "None" not in page.text


def test_cards_name_the_data_and_every_score(made: tuple[Path, Any]) -> None:
    summary = json.loads((made[0] / "summary.json").read_text())
    text = (made[0] / "model-card.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    (model,) = front["model-index"]
    learned = [row for row in summary["scores"] if row["features"] == "discriminator"]
    given = [result["metrics"][0]["value"] for result in model["results"]]
    assert learned and given == [round(row["mean"], 4) for row in learned]
    for row in summary["scores"]:
        if row["features"] != "chance":
            cell = f"| {row['features']} | {row['probe']} | {row['labels']} | "
            assert f"{cell}{100 * row['mean']:.1f} [" in text
    data = (made[0] / "data-card.md").read_text()
    for source, flow in summary["flow"].items():
        assert f"## {source}" in data and f"{flow['images']['in']:,}, " in data


def test_scores_are_those_of_the_predictions(
    chain: dict[str, list[StageInput]], made: tuple[Path, Any]
) -> None:
    """Every accuracy, counted again one prediction at a time."""
    import pyarrow.parquet as pq

    summary = json.loads((made[0] / "summary.json").read_text())
    right: dict[tuple[str, str, str], list[bool]] = {}
    for cell in chain["cells"]:
        for row in pq.read_table(cell.path / "predictions.parquet").to_pylist():
            name = "chance" if row["probe"] == "chance" else row["features"]
            right.setdefault((name, row["probe"], row["labels"]), []).append(
                row["label"] == row["predicted"]
            )
    assert len(summary["scores"]) == len(right) == 14
    for row in summary["scores"]:
        answers = right[row["features"], row["probe"], row["labels"]]
        assert row["mean"] == pytest.approx(sum(answers) / len(answers), abs=1e-6)
        assert row["low"] <= row["mean"] <= row["high"]
    best = summary["headline"]
    assert best["features"] == "discriminator" and best["labels"] == "all"
    assert f"{100 * best['mean']:.1f} %" in summary["sentence"]
    table = scores_table(summary)
    assert [row["features"] for row in table] == ["Discriminator features"] * 2 + [
        "Raw pixels"
    ] * 2 + ["Random weights"] * 2 + ["Chance"]
    assert all(row["chosen"].startswith("C ") for row in table[:-1]) and table[-1]["chosen"] == ""
    assert small_number(5e-4) == "5e-4" and small_number(25.0) == "25"
    assert (
        sum(cell.endswith("*") for row in table for cell in row.values()) == 2
    )  # one best in each column of labels


def test_misclassified_images_are_those_of_the_predictions(
    chain: dict[str, list[StageInput]], made: tuple[Path, Any]
) -> None:
    import pyarrow.parquet as pq

    found = json.loads((made[0] / "summary.json").read_text())["by_class"]
    place = {name: found[name] for name in ("features", "probe", "labels")}
    wrong: list[tuple[str, int, int]] = []
    for cell in chain["cells"]:
        for row in pq.read_table(cell.path / "predictions.parquet").to_pylist():
            if row | place == row and row["label"] != row["predicted"]:
                wrong.append((row["image_id"], row["label"], row["predicted"]))
    shown = [
        (one["image_id"], int(one["true"]), int(one["predicted"]))
        for one in found["mistakes"]["shown"]
    ]
    assert 0 < len(shown) <= found["mistakes"]["count"] == len(wrong)  # one draw: all labels
    assert shown == sorted(wrong)[: len(shown)]
    raw = (made[0] / "report.html").read_text()
    for _, true, predicted in shown:
        assert f'alt="test image of class {true}, predicted {predicted}"' in raw


def test_differences_are_paired_by_image(
    chain: dict[str, list[StageInput]], made: tuple[Path, Any]
) -> None:
    summary = json.loads((made[0] / "summary.json").read_text())
    assert len(summary["differences"]) == 8  # 2 probes x 2 numbers of labels x 2 baselines
    means = {
        (row["features"], row["probe"], row["labels"]): row["mean"] for row in summary["scores"]
    }
    for gap in summary["differences"]:
        assert gap["paired"]
        ours, theirs = (
            means[name, gap["probe"], gap["labels"]] for name in (gap["features"], gap["baseline"])
        )
        assert gap["mean"] == pytest.approx(ours - theirs, abs=2e-6)
        low, high = round(100 * gap["low"], 1), round(100 * gap["high"], 1)  # as printed
        assert gap["verdict"] == ("above" if low > 0 else "below" if high < 0 else "level")
    # Predictions of other images cannot be paired, and the page must not pretend so.
    predictions = Predictions(ReportInputs(cells=tuple(cell.path for cell in chain["cells"])))
    ours, theirs = (
        ("digits", "discriminator", "linear_svm", "all"),
        ("digits", "pixels", "linear_svm", "all"),
    )
    assert predictions.paired(ours, theirs) is not None
    predictions._cells[theirs] = {
        draw: rows.slice(1) for draw, rows in predictions._cells[theirs].items()
    }
    assert predictions.paired(ours, theirs) is None


def test_counts_add_up_and_copies_are_shown(
    chain: dict[str, list[StageInput]], made: tuple[Path, Any]
) -> None:
    import pyarrow.parquet as pq

    summary = json.loads((made[0] / "summary.json").read_text())
    flow = summary["flow"]["digits"]
    assert (
        flow["images"]["in"] == 500 + len(BROKEN) == flow["images"]["ok"] + flow["images"]["failed"]
    )
    assert flow["images"]["reasons"] == {"not_an_image": 1, "truncated": 1}
    keep = pq.read_table(chain["duplicates"][0].path / "duplicates.parquet")["keep"].to_pylist()
    removed = keep.count(False)
    assert 0 < removed <= COPIES and flow["duplicates"]["removed"] == removed
    assert flow["packed"] == keep.count(True)
    assert flow["features"]["rows"] == flow["crops"]["ok"] == 500
    assert not summary["checks"]
    assert [row["address"] for row in summary["failures"]["shown"]] == sorted(
        address for address, _ in BROKEN
    )
    raw = (made[0] / "report.html").read_text()
    assert raw.count('class="keep"') == removed == len(summary["duplicates"]["examples"])
    assert (made[0] / "duplicates.png").is_file()


def test_lost_rows_are_noticed(chain: dict[str, list[StageInput]], tmp_path: Path) -> None:
    """A fault: crop has dropped an image without a row."""
    from gan_core.shards import PixelShards

    folder = tmp_path / "crops"
    folder.mkdir()
    write_rows(
        folder,
        PixelShards(chain["crops"][0].path, usable_only=False).table.drop(["folder"]).slice(3),
    )
    inputs = ReportInputs(recipe=RECIPE, images=(chain["images"][0].path,), crops=(folder,))
    (output,) = summarise(inputs)["checks"]
    assert "502" in output and "499" in output


def test_content_is_the_same_again(
    chain: dict[str, list[StageInput]], made: tuple[Path, Any], tmp_path: Path
) -> None:
    again, _ = report(tmp_path / "again", chain)
    text = (again / "summary.json").read_bytes()
    assert text == (made[0] / "summary.json").read_bytes()
    assert (
        str(tmp_path).encode() not in text
        and str(chain["crops"][0].path.parent).encode() not in text
    )
    assert b"seconds" not in text


def test_without_labels_there_is_nothing_to_evaluate(tmp_path: Path) -> None:
    folders = write_source(tmp_path, "digits", 60, labels=False)
    inputs = {role: [stage_input(role, path)] for role, path in folders.items()}
    work, outcome = report(tmp_path / "report", inputs)
    assert (
        "nothing to evaluate: the images of digits carry no labels" in outcome.summary["sentence"]
    )
    page = Page((work / "report.html").read_text())
    assert (
        "nothing to evaluate" in page.text and "No GAN was trained" in page.text and not page.open
    )


def test_nothing_at_all_still_gives_a_page(tmp_path: Path) -> None:
    work, outcome = report(tmp_path / "report", {}, recipe={})
    page = Page((work / "report.html").read_text())
    assert not page.open and "nothing to evaluate" in page.text.lower()
    assert outcome.counts == {"scores": 0, "failures": 0}


def test_names_of_files_cannot_become_markup(tmp_path: Path) -> None:
    folders = write_source(tmp_path, "digits", 40)
    table = pa.Table.from_pylist(
        [
            {
                "image_id": "0" * 32,
                "box": -1,
                "source": "digits",
                "address": "<script>alert(1)</script>.png",
                "status": "failed",
                "reason": 'empty: <img src="http://example.org/x.png">',
            }
        ],
        schema=schemas.IMAGES,
    )
    write_table(table, folders["images"] / "images.parquet")
    recipe = RECIPE | {"about": "</pre><script>alert(2)</script>"}
    inputs = {role: [stage_input(role, path)] for role, path in folders.items()}
    work, _ = report(tmp_path / "report", inputs, recipe, title="<b>bold</b>")
    page = Page((work / "report.html").read_text())
    assert "script" not in page.tags and not page.open
    assert "<script>alert(1)</script>.png" in page.text  # shown as text
    assert all(
        address.startswith(("data:", "summary.json", "model-card.md", "data-card.md"))
        for address in page.addresses
    )


def test_two_sources_without_duplicates(tmp_path: Path) -> None:
    """Trained on one source, evaluated on another that was not trained on."""
    first, second = write_source(tmp_path, "digits", 60), write_source(tmp_path, "turned", 50)
    made_by.write_duplicates(
        first["duplicates"], made_by.digit_rows(60 - COPIES, "digits")[0][: 60 - 2 * COPIES]
    )
    inputs = {role: [stage_input(role, first[role])] for role in ("duplicates", "pack")}
    inputs |= {
        role: [stage_input(role, first[role]), stage_input(role, second[role])]
        for role in ("images", "crops")
    }
    recipe = RECIPE | {"sources": {"train": [{"name": "digits"}], "evaluate": [{"name": "turned"}]}}
    work, _ = report(tmp_path / "report", inputs, recipe)
    summary = json.loads((work / "summary.json").read_text())
    assert summary["title"] == "Features learned from digits, tested on turned"
    assert (
        list(summary["flow"]) == ["digits", "turned"] and "packed" not in summary["flow"]["turned"]
    )
    text = Page((work / "report.html").read_text()).text
    assert "No near-duplicates were found" in text
    assert "trained on" in text and "features taken" in text


OUTSIDE = """
from torch import nn

def make(maps=4, weights=None):
    convolution = nn.Conv2d(3, maps, 3, 2, 1), nn.BatchNorm2d(maps), nn.ReLU()
    return nn.Sequential(*convolution, nn.Flatten(), nn.Linear(maps * 256, 2))
"""


def outside_features(
    folder: Path, chain: dict[str, list[StageInput]], arguments: str
) -> tuple[StageInput, Any]:
    """Features of an external network without weights, made by the stage as a plan asks for
    them.
    """
    from gan_core.config import ExtractConfig
    from gan_core.contract import StageRequest
    from gan_core.features.external.fingerprint import stamp_of
    from gan_core.progress import silent
    from gan_core.stages import extract

    (folder / "strangers_net.py").write_text(OUTSIDE)
    settings = {"network": f"strangers_net:make({arguments})"}
    stamp = stamp_of(ExtractConfig.model_validate(settings), folder)
    assert stamp is not None
    work = folder / f"features{len(arguments)}"
    work.mkdir()
    part = {
        "seed": 0,
        "threads": 1,
        "features": "network",
        "extract": settings,
        "external": stamp.part(),
    }
    inputs = {role: chain[role] for role in ("crops", "duplicates", "pack")}
    context = {"device": "cpu", **stamp.context()}
    request = StageRequest(
        stage="extract",
        node="e",
        key="0" * 32,
        part=part,
        inputs=inputs,
        context=context,
        work=work,
    )
    try:
        outcome = extract.run(request, silent)
    finally:
        sys.modules.pop("strangers_net", None)
        sys.path[:] = [place for place in sys.path if place != str(folder)]
    return stage_input("extract", work), outcome


def test_a_network_from_outside_without_weights(
    chain: dict[str, list[StageInput]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is said to be learned or trained; that no weights were given is among the
    warnings.
    """
    features, outcome = outside_features(tmp_path, chain, "maps=4")
    assert any("No weights were given" in text for text in outcome.warnings)
    _, asked = outside_features(tmp_path, chain, "weights='mine'")
    assert not asked.warnings  # the code names the weights that it loads
    monkeypatch.setattr(
        made_by,
        "artifacts_of",
        lambda inputs: [
            {
                "node": "extract:digits:network",
                "stage": "extract",
                "key": "",
                "digest": "",
                "seconds": 1.0,
                "warnings": outcome.warnings,
            }
        ],
    )
    part = {
        "features": "network",
        "probe": {"name": "ridge"},
        "protocol": {"labels_per_class": [5], "draws": 1},
    }
    cell, _ = made_by.run_stage("evaluate", tmp_path / "cell", part, {"features": [features]})
    inputs = {role: chain[role] for role in ("images", "crops", "duplicates", "pack")}
    inputs |= {"features": [features], "cells": [stage_input("evaluate", cell)]}
    work, _ = report(tmp_path / "report", inputs)
    summary = json.loads((work / "summary.json").read_text())
    assert summary["title"] == "Features of strangers_net:make(maps=4) on digits"
    raw = (work / "report.html").read_text()
    page = Page(raw)
    assert (
        "Trained on" not in page.text
        and "earned from" not in page.text
        and "only the GAN" not in page.text
    )
    packed = summary["flow"]["digits"]["packed"]
    assert (
        f"digits ({packed} images): its batch-norm statistics were measured over {packed} images "
        "of them" in page.text
    )
    assert "no weights were given" in page.text and "No weights were given (--weights)" in page.text
    # One draw of labels: the page must not say that the interval counts what it does not.
    assert (
        "There is one draw of labels at 5 per class" in page.text
        and "one draw" in summary["verdict"] + page.text
    )


CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
SEEN = """JSON.stringify({wide: document.documentElement.scrollWidth, window: innerWidth,
  broken: [...document.images].filter(i => !i.naturalWidth).length, images: document.images.length,
  fetched: performance.getEntriesByType('resource')
    .map(e => e.name).filter(n => !n.startsWith('data:')),
  beyond: [...document.querySelectorAll('svg.chart text')].filter(t => {
    const a = t.getBoundingClientRect(), b = t.closest('.body, .card').getBoundingClientRect();
    return a.width && (a.right > b.right + 1 || a.left < b.left - 1)}).map(t => t.textContent)})"""


@pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed: the page cannot be opened in a browser"
)
@pytest.mark.parametrize("width", [1280, 400])
def test_page_in_a_browser(made: tuple[Path, Any], tmp_path: Path, width: int) -> None:
    """Every image decodes, nothing is fetched, nothing runs over the page's edge, no label over its
    chart's.
    """
    seen = asyncio.run(read(f"file://{made[0] / 'report.html'}", width, tmp_path))
    assert seen["images"] > 10 and seen["broken"] == 0
    assert seen["fetched"] == []
    assert seen["wide"] <= seen["window"]
    assert seen["beyond"] == []


async def read(url: str, width: int, profile: Path) -> Any:
    """Opens a page at some width and answers what SEEN sees, over Chromium's own protocol."""
    from websockets.asyncio.client import connect

    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--remote-debugging-port=0",
    ]
    process = await asyncio.create_subprocess_exec(
        str(CHROMIUM),
        *flags,
        f"--user-data-dir={profile}",
        "about:blank",
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(60):
            address = ""
            while not address:
                line = (await process.stderr.readline()).decode()
                address = line.split("listening on ")[1].strip() if "listening on " in line else ""
            async with connect(address, max_size=None) as browser:
                return await _measure(browser, url, width)
    finally:
        process.kill()
        await process.wait()


async def _measure(browser: Any, url: str, width: int) -> Any:
    number = 0

    async def call(method: str, session: str | None = None, **parameters: Any) -> Any:
        nonlocal number
        number += 1
        envelope = {"id": number, "method": method, "params": parameters} | (
            {"sessionId": session} if session else {}
        )
        await browser.send(json.dumps(envelope))
        while True:
            answer = json.loads(await browser.recv())
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    target = (await call("Target.createTarget", url="about:blank"))["targetId"]
    page = (await call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
    await call(
        "Emulation.setDeviceMetricsOverride",
        page,
        width=width,
        height=900,
        deviceScaleFactor=1,
        mobile=False,
    )
    await call("Page.navigate", page, url=url)
    state = ""
    while state != "complete":
        await asyncio.sleep(0.1)
        state = (await call("Runtime.evaluate", page, expression="document.readyState"))["result"][
            "value"
        ]
    return json.loads((await call("Runtime.evaluate", page, expression=SEEN))["result"]["value"])
