"""`report.html`: one file with its images, charts and style inside; no script, nothing fetched from
anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gan_core.reporting import charts
from gan_core.reporting import duplicates as dedup
from gan_core.reporting import sentences as words
from gan_core.reporting.images import as_image, sheet_image, strip
from gan_core.reporting.inputs import ReportInputs
from gan_core.reporting.inside import image_side, inspections
from gan_core.reporting.run_info import RunFacts, costs, duration, grids, memory, seconds_of, volume
from gan_core.reporting.scores import is_learned
from gan_core.reporting.sentences import CHANCE
from gan_core.reporting.summary import best_cells, column_title, columns_of
from gan_core.vision.sheets import encode_png
from gan_core.vision.sheets import sheet as contact_sheet

TEMPLATE = "report.html.j2"
# Ours: untrained generators have 0.08 to 0.22 of the training images' contrast, trained ones 0.87.
DRAWN_CONTRAST = 0.5


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(str(Path(__file__).parent)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        together=together,
        number=lambda value: f"{value:,}",
        percent=lambda share: together(words.percent(share)),
        duration=duration,
        memory=memory,
        volume=volume,
        short=lambda digest: str(digest)[:12],
        figure=figure,
        compact=compact,
        plus_minus=words.plus_minus,
    )
    return environment


def together(text: Any) -> str:
    """Numbers stay on one line with their signs and units."""
    text = re.sub(r"(\d) (%|kimg|points|s\b|min\b|h\b|MiB|GiB|kB|MB|GB)", "\\1\u00a0\\2", str(text))
    return (
        re.sub(r"(?:(?<=\d) )?(±) ?(?=\d)", "\u00a0\\1\u00a0", text)
        .replace("(\u00a0±", "(±")
        .replace(" \u00a0", " ")
    )


def figure(value: float) -> str:
    """A setting's number without needless digits: 60.0 is '60', 0.0002 is '0.0002'."""
    return f"{value:,.10g}" if abs(value) >= 1e-4 or not value else f"{value:g}"


def compact(values: list[float]) -> str:
    """Chosen settings: '0.001', or the range of them."""
    if not values:
        return ""
    return f"{min(values):g}" if len(values) == 1 else f"{min(values):g} to {max(values):g}"


def kimg_words(kimg: float) -> str:
    """20.032 is '20 kimg', 0.512 is '0.5 kimg'."""
    return f"{round(kimg, 1):,g} kimg"


def render(
    summary: dict[str, Any],
    inputs: ReportInputs,
    facts: RunFacts,
    diverged: dict[str, Any] | None = None,
) -> str:
    """The page as HTML.

    Args:
        summary: as `summarise` gives it.
        facts: what is known of the run; may be empty.
        diverged: of a training that diverged, in place of the scores: remedy, and the last looks at
            it as columns and lines of text.
    """
    style = {
        "light": Markup(charts.variables(charts.LIGHT)),
        "dark": Markup(charts.variables(charts.DARK)),
        "font": Markup(charts.FONT),
    }
    page: str = (
        _environment()
        .get_template(TEMPLATE)
        .render(
            s=summary,
            diverged=diverged,
            style=style,
            facts=facts,
            sentence=together(summary["sentence"]),
            verdict=together(summary["verdict"]),
            leaks=together(summary["leaks"]),
            headlines=[_safe(charts.headline_plot(summary, width=width)) for width in (1000, 330)],
            where=overview(summary, facts),
            results=[
                result(summary, source)
                for source in dict.fromkeys(row["source"] for row in summary["scores"])
            ],
            confusion=_safe(charts.confusion_chart(summary["by_class"])),
            mistakes=mistakes(summary, inputs),
            flows=[flow_steps(summary, name) for name in summary["flow"]],
            duplicates=dedup.group_images(dedup.shown_groups(summary, inputs)),
            duplicates_sentence=together(words.duplicates_sentence(summary)),
            leaked=dedup.leaked_pairs(summary, inputs),
            quality=dedup.search_quality(summary),
            training=training(summary, inputs, facts),
            inspections=inspections(inputs, summary),
            costs=costs(facts.artifacts),
            total=seconds_of(facts.artifacts),
            warnings=warnings(summary, facts),
            recipe=yaml.safe_dump(inputs.recipe, sort_keys=False, allow_unicode=True, width=110)
            if inputs.recipe
            else "",
            nothing=words.nothing_to_evaluate(summary),
            names=words,
        )
    )
    return page


def _safe(svg: str) -> Markup:
    """A chart of ours, whose texts were escaped when it was drawn."""
    return Markup(svg)


def figure_files(summary: dict[str, Any], inputs: ReportInputs) -> dict[str, bytes]:
    """The figures as files of their own: name to bytes."""
    found: dict[str, bytes] = {}
    drawn = {
        "headline.svg": charts.headline_plot(summary),
        "confusion.svg": charts.confusion_chart(summary["by_class"]),
        "training.svg": charts.line_charts(
            charts.training_charts(
                charts.read_statistics(inputs.snapshot),
                charts.read_declared(inputs.snapshot)["charts"],
            )
        ),
    }
    for source in dict.fromkeys(row["source"] for row in summary["scores"]):
        drawn[f"accuracy-{source}.svg"] = charts.line_charts(
            charts.accuracy_charts(summary, source)
        )
    for name, chart in drawn.items():
        if chart:
            found[name] = charts.standalone(chart).encode()
    pairs = [image for _, pixels in dedup.shown_groups(summary, inputs) for image in pixels[:2]]
    if pairs and len({image.shape for image in pairs}) == 1:
        found["duplicates.png"] = encode_png(contact_sheet(np.stack(pairs), columns=8))
    return found


# Parts
# --------------------------------------------------------------------------------
#


def overview(summary: dict[str, Any], facts: RunFacts) -> list[tuple[str, str]]:
    """What ran on what, as (name, words)."""
    rows: list[tuple[str, str]] = []
    flow = summary["flow"]
    trained = [
        f"{name} ({words.count(int(flow[name]['packed']), 'image')})"
        for name in summary["sources"]["train"]
        if "packed" in flow.get(name, {})
    ]
    outside = summary["outside"]
    if outside:
        rows.append(("Network", words.outside_words(outside)))
    if trained:
        rows.append(
            ("Training images", f"{words.listed(trained)}: {words.outside_use(outside)}")
            if outside
            else ("Trained on", f"{words.listed(trained)}, labels unused")
        )
    record = summary["training"]
    if record:
        rows.append(("GAN", gan_words(record)))
    best = summary["headline"]
    if best:
        rows.append(
            (
                "Evaluated on",
                f"{best['source']}: {words.count(best['classes'], 'class', 'classes')}, "
                f"{words.count(best['test_rows'], 'test image')}",
            )
        )
    learned = [entry for entry in summary["features"] if is_learned(entry["features"])]
    if learned:
        layers = words.count(len(learned[0]["layers"]), "layer")
        rows.append(
            (
                "Features",
                f"{learned[0]['values']:,} values an image, from {layers} of the "
                f"{learned[0]['features']}",
            )
        )
    if facts.command:
        rows.append(("Command", facts.command))
    if facts.machine:
        rows.append(("Machine", facts.machine))
    if facts.artifacts:
        time = duration(seconds_of(facts.artifacts))
        rows.append(("Computing time", f"{time} in all stages"))
    if facts.made:
        rows.append(("Written", facts.made))
    return rows


def gan_words(record: dict[str, Any]) -> str:
    """'DCGAN (modern), network dcgan32_svhn at width 0.25, 60 kimg'."""
    network = record.get("network") or {}
    parts = []
    if record.get("method"):
        mode = (record.get("options") or {}).get("mode")
        parts.append(words.method_name(record["method"]) + (f" ({mode})" if mode else ""))
    if network.get("name"):
        width = network.get("width", 1)
        parts.append(f"network {network['name']}" + (f" at width {width:g}" if width != 1 else ""))
    if record.get("kimg") is not None:
        parts.append(kimg_words(record["kimg"]))
    weights = record.get("weights") or {}
    if "discriminator" in weights:
        parts.append(f"{weights['discriminator']:,} weights in the discriminator")
    return ", ".join(parts)


def result(summary: dict[str, Any], source: str) -> dict[str, Any]:
    """Charts, score table and differences of one evaluated source."""
    rows = [row for row in summary["scores"] if row["source"] == source]
    columns = columns_of(rows)
    best, colours = best_cells(rows), charts.tones(summary["scores"])
    head = [
        {
            "title": column_title(column),
            **_column_facts([row for row in rows if row["labels"] == column]),
        }
        for column in columns
    ]
    groups = []
    for probe in sorted({row["probe"] for row in rows if row["features"] != CHANCE}):
        own = [row for row in rows if row["probe"] == probe]
        lines = []
        for features in dict.fromkeys(row["features"] for row in own):
            cells = {row["labels"]: row for row in own if row["features"] == features}
            marks = [(features, probe) in best[source, column] for column in columns]
            lines.append(
                {
                    "features": features,
                    "name": words.features_name(features),
                    "tone": colours[features],
                    "saw_labels": any(row["saw_labels"] for row in cells.values()),
                    "chosen": words.chosen_values(
                        cells[column] for column in columns if column in cells
                    ),
                    "cells": [
                        (cells.get(column), mark)
                        for column, mark in zip(columns, marks, strict=True)
                    ],
                }
            )
        groups.append({"probe": words.probe_name(probe), "lines": lines})
    chance = {row["labels"]: row for row in rows if row["features"] == CHANCE}
    gaps = [gap for gap in summary["differences"] if gap["source"] == source]
    return {
        "source": source,
        "charts": [
            _safe(charts.line_charts([chart])) for chart in charts.accuracy_charts(summary, source)
        ],
        "head": head,
        "groups": groups,
        "chance": [chance.get(column) for column in columns] if chance else [],
        "gaps": _gap_rows(gaps, columns),
        "paired": all(gap["paired"] for gap in gaps),
        "notes": [
            words.uneven_note(
                [*rows, *(row["without_leaked"] for row in rows if row["without_leaked"])], gaps
            ),
            words.one_draw_note(rows),
            words.saw_labels_note(row["saw_labels"] for row in rows),
        ],
        "clean": clean_rows(rows, columns),
    }


def mistakes(summary: dict[str, Any], inputs: ReportInputs) -> list[dict[str, Any]]:
    """The misclassified test images that are shown, each with its pixels."""
    shown = (summary["by_class"] or {}).get("mistakes", {}).get("shown", [])
    pixels = dedup.pixels_of(inputs, shown)
    places = [(one["image_id"], one["box"]) for one in shown]
    return [
        {**one, "image": as_image(strip([pixels[place]]))}
        for one, place in zip(shown, places, strict=True)
        if place in pixels
    ]


def clean_rows(rows: list[dict[str, Any]], columns: list[str]) -> dict[str, Any]:
    """Scores with all test images and without the leaked ones; {} if none leaked or none were
    counted.
    """
    counted = [
        row for row in rows if row["without_leaked"] is not None and row["features"] != CHANCE
    ]
    if not counted or counted[0]["without_leaked"]["test_rows"] == counted[0]["test_rows"]:
        return {}
    cells: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in counted:
        cells.setdefault((row["features"], row["probe"]), {})[row["labels"]] = row
    lines = [
        {
            "name": words.features_name(features),
            "probe": words.probe_name(probe),
            "cells": [found.get(column) for column in columns],
        }
        for (features, probe), found in cells.items()
    ]
    left, every = counted[0]["without_leaked"]["test_rows"], counted[0]["test_rows"]
    return {"lines": lines, "left": left, "leaked": every - left}


def _column_facts(rows: list[dict[str, Any]]) -> dict[str, int]:
    scored = [row for row in rows if row["features"] != CHANCE] or rows
    return {
        "labels": max(row["label_count"] for row in scored),
        "draws": max(row["draws"] for row in scored),
    }


def _gap_rows(gaps: list[dict[str, Any]], columns: list[str]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for gap in gaps:
        found.setdefault((gap["probe"], gap["features"], gap["baseline"]), {})[gap["labels"]] = gap
    return [
        {
            "probe": words.probe_name(probe),
            "features": words.features_name(features),
            "baseline": words.short_name(baseline),
            "cells": [cells.get(column) for column in columns],
        }
        for (probe, features, baseline), cells in sorted(found.items())
    ]


def flow_steps(summary: dict[str, Any], name: str) -> dict[str, Any]:
    """The counts of one source: its roles, and steps {title, number, share (of the bar), gone, how,
    lost, aside, apart}.
    """
    entry, steps = summary["flow"][name], []

    def step(title: str, number: int, of: int, gone: int = 0, how: str = "", **more: Any) -> None:
        share = min(1.0, number / of) if of else 1.0
        known = {"gone": gone, "how": how, "lost": [], "aside": [], "apart": False, **more}
        steps.append({"title": title, "number": number, "share": share, **known})

    def counted(counts: dict[str, int]) -> list[str]:
        return [f"{n:,} {text.replace('_', ' ')}" for text, n in counts.items()]

    images, crops, removed = entry.get("images"), entry.get("crops"), entry.get("duplicates")
    usable = crops["ok"] if crops else 0
    if images:
        step("files in", images["in"], images["in"])
        lost = counted(images["reasons"])
        step("readable", images["ok"], images["in"], images["failed"], "failed", lost=lost)
    if crops:
        gone = {text: n for text, n in crops["status"].items() if text not in ("ok", "failed")}
        total, of = sum(gone.values()), max(usable, crops["rows"])
        step("crops", usable, of, total, "gave no crop", lost=counted(gone))
    if name in summary["sources"]["train"]:
        if removed and crops:
            other = usable - removed["rows"]
            step("for training", removed["rows"], usable, other, "in other splits")
        if "packed" in entry:
            out = removed["removed"] if removed else 0
            step("training set", entry["packed"], usable or entry["packed"], out, "duplicates out")
    if "features" in entry:  # of all crops, not of the training set
        rows, splits = entry["features"]["rows"], entry["features"]["splits"]
        splits = {split: splits[split] for split in sorted(splits, key=split_order)}
        step("crops with features", rows, usable, aside=counted(splits), apart=True)
    scored = any(row["source"] == name for row in summary["scores"])
    use = "training images" if summary["outside"] else "trained on"
    roles = [use] if name in summary["sources"]["train"] else []
    if name in summary["sources"]["evaluate"]:
        roles.append("evaluated" if scored else "features taken")
    return {"name": name, "roles": words.listed(roles), "steps": steps}


def split_order(split: str) -> tuple[int, str]:
    """train, validation, test, then others by name."""
    known = ("train", "validation", "test")
    return (known.index(split) if split in known else len(known), split)


def training(summary: dict[str, Any], inputs: ReportInputs, facts: RunFacts) -> dict[str, Any]:
    """Sample grids over time, curves, and what the train stage says of itself."""
    size = image_side(summary)
    images = []
    declared = charts.read_declared(inputs.snapshot)
    for kind, caption in {"grid": "", **declared["captions"]}.items():
        for kimg, path in grids(inputs.snapshot, kind=kind):
            text = f"{caption}, {kimg_words(kimg)}" if caption else kimg_words(kimg)
            spoken = f"{caption or 'Samples'} after {kimg_words(kimg)}"
            found = sheet_image(path, size, text, spoken)
            if found:
                images.append(found)
    rows = charts.read_statistics(inputs.snapshot)
    pace = [training_pace(entry.get("summary") or {}) for entry in facts.of_stage("train")]
    drawn = [
        _safe(charts.line_charts([chart]))
        for chart in charts.training_charts(rows, declared["charts"])
    ]
    return {
        "grids": images,
        "charts": drawn,
        "pace": [text for text in pace if text],
        "undrawn": undrawn_note(rows),
    }


def undrawn_note(rows: Sequence[dict[str, Any]]) -> str:
    """That the generator has not learned to draw yet, by its contrast; '' where it has.

    Args: rows: lines of stats.jsonl; `contrast` is that of samples over that of training images.
    """
    row = next((row for row in reversed(rows) if row.get("contrast") is not None), None)
    if row is None or row["contrast"] >= DRAWN_CONTRAST:
        return ""
    return (
        f"The generator has not learned to draw yet: at {kimg_words(row['kimg'])} the contrast of "
        f"its samples is {row['contrast']:.2f} of that of the training images, where "
        f"{DRAWN_CONTRAST:g} is the least that counts as drawing. Train longer (train.kimg)."
    )


def training_pace(summary: dict[str, Any]) -> str:
    """'20 kimg in 2 min 49 s: 119 images a second, in bf16.', of the train stage's summary of
    itself.
    """
    if not summary.get("kimg") or not summary.get("seconds"):
        return ""
    text = f"{kimg_words(float(summary['kimg']))} in {duration(float(summary['seconds']))}"
    if summary.get("images_per_second"):
        text += f": {float(summary['images_per_second']):,.0f} images a second"
    if summary.get("precision"):
        text += f", in {summary['precision']}"
    if summary.get("chosen"):
        chosen = summary["chosen"]
        text += (
            f"; features are taken of the snapshot at {kimg_words(float(chosen['kimg']))}, where "
            "a linear probe read "
            f"{words.percent(float(chosen['validation_accuracy']))} of the validation labels"
        )
    if summary.get("rollbacks"):
        text += f"; went back {words.count(int(summary['rollbacks']), 'time')} after a divergence"
    return text + "."


def warnings(summary: dict[str, Any], facts: RunFacts) -> list[tuple[str, list[str]]]:
    """Sentences by the node that they are of; counts that do not meet come first, the many small
    ones of evaluation last.
    """
    found: dict[str, list[str]] = {"counts": list(summary["checks"])} if summary["checks"] else {}
    for node, text in sorted(facts.warnings(), key=lambda pair: pair[0].startswith("evaluate")):
        found.setdefault(node, []).append(text)
    return list(found.items())
