"""`summary.json`: what a run found, from the content of its artifacts alone. Equal artifacts give
equal bytes: no clocks, no paths.
"""

from __future__ import annotations

from typing import Any

from gan_core import registry
from gan_core.reporting import sentences as words
from gan_core.reporting.duplicates import duplicates_record
from gan_core.reporting.inputs import (
    ReportInputs,
    failures,
    feature_sets,
    flow_of_crops,
    flow_of_duplicates,
    flow_of_images,
    flow_of_pack,
    inspection_numbers,
    outside_network,
    training_record,
)
from gan_core.reporting.scores import (
    Predictions,
    by_class,
    differences,
    headline,
    is_learned,
    label_order,
    score_rows,
)
from gan_core.reporting.sentences import CHANCE

FORMAT = 1


def summarise(inputs: ReportInputs) -> dict[str, Any]:
    """Everything a report says that does not depend on when and where it was made.

    Returns: JSON values: recipe, title, sentence, verdict, leaks, sources, flow (per source),
    failures, duplicates, features, outside (`gather.outside_network`), training, scores (mean, low,
    high, half: shares with 95 % intervals), differences to the baselines, by_class, inspect,
    checks.
    """
    rows = score_rows(inputs)
    predictions = Predictions(inputs)
    scored = [
        name for name in inputs.sources("evaluate") if any(row["source"] == name for row in rows)
    ]
    # of one source: accuracies of different sources cannot be compared
    best = headline(rows, scored[0] if scored else None)
    recipe = inputs.recipe
    names = {role: inputs.sources(role) for role in ("train", "evaluate")}
    features = feature_sets(inputs)
    summary: dict[str, Any] = {
        "format": FORMAT,
        "recipe": recipe.get("name", ""),
        "about": recipe.get("about", ""),
        "scale": recipe.get("scale", ""),
        "caveat": inputs.report.get("caveat"),
        "next": list(inputs.report.get("next") or []),
        "sources": names,
        "transfer": bool(set(names["evaluate"]) - set(names["train"])),
        "dedup_mode": (recipe.get("dedup") or {}).get("mode"),
        "flow": flow(inputs),
        "failures": failures(inputs),
        "duplicates": duplicates_record(inputs),
        "features": [
            {name: value for name, value in entry.items() if name != "lineage"}
            for entry in features
        ],
        "outside": outside_network(features),
        "training": training_record(inputs),
        "scores": rows,
        "differences": differences(rows, predictions),
        "headline": best,
        "by_class": by_class(inputs, best, predictions),
        "inspect": inspection_numbers(inputs),
    }
    summary["title"] = inputs.report.get("title") or title(summary, set_titles(recipe))
    summary["sentence"] = words.result_sentence(summary)
    summary["verdict"] = words.verdict_sentence(summary)
    summary["leaks"] = words.leaks_sentence(summary)
    summary["checks"] = check_counts(summary)
    return summary


def set_titles(recipe: dict[str, Any]) -> dict[str, str]:
    """Titles of the sources that have the name of their dataset: `cifar10` reads CIFAR-10."""
    given = [source for sources in recipe.get("sources", {}).values() for source in sources or []]
    return {
        source["name"]: registry.title("datasets", source["name"])
        for source in given
        if source["name"] == source.get("dataset")
    }


def title(summary: dict[str, Any], titles: dict[str, str]) -> str:
    """A heading for runs whose recipe names none: from the sources, by their titles or else their
    names, and the method."""
    train, evaluated = (
        [titles.get(name, name) for name in summary["sources"][role]]
        for role in ("train", "evaluate")
    )
    if summary["outside"]:
        where = f" on {words.listed(evaluated)}" if evaluated else ""
        return f"Features of {summary['outside']['name']}{where}"
    if not train:
        return "Features without labels"
    method = summary["training"].get("method")
    how = f" by {words.method_name(method)}" if method else ""
    tested = f", tested on {words.listed(evaluated)}" if summary["transfer"] else ""
    return f"Features learned from {words.listed(train)}{how}{tested}"


def flow(inputs: ReportInputs) -> dict[str, dict[str, Any]]:
    """Counts of each source through the stages; a stage that a source did not pass is missing."""
    images, crops, pack = flow_of_images(inputs), flow_of_crops(inputs), flow_of_pack(inputs)
    removed = flow_of_duplicates(inputs)
    named = [*inputs.sources("train"), *inputs.sources("evaluate"), *images, *crops]
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(named):
        entry: dict[str, Any] = {}
        for stage, table in (("images", images), ("crops", crops), ("duplicates", removed)):
            if name in table:
                entry[stage] = table[name]
        if name in pack:
            entry["packed"] = pack[name]
        if entry:
            found[name] = entry
    for features in feature_sets(inputs):
        if is_learned(features["features"]) and features["source"] in found:
            found[features["source"]]["features"] = {
                "rows": features["rows"],
                "values": features["values"],
                "splits": features["splits"],
            }
    return found


def check_counts(summary: dict[str, Any]) -> list[str]:
    """Sentences where the counts of one stage do not meet those of the next: nothing may disappear
    without a row.
    """
    parts = []
    for name, entry in summary["flow"].items():
        images, crops = entry.get("images"), entry.get("crops")
        if images and images["ok"] + images["failed"] != images["in"]:
            parts.append(
                f"{name}: {images['in']:,} rows came in, {images['ok'] + images['failed']:,} are "
                "accounted for."
            )
        if images and crops and crops["images"] != images["in"]:
            parts.append(
                f"{name}: ingest has {images['in']:,} images, the crop table {crops['images']:,}."
            )
        removed = entry.get("duplicates")
        if removed and "packed" in entry and entry["packed"] != removed["kept"]:
            parts.append(
                f"{name}: dedup kept {removed['kept']:,} crops, the training set holds "
                f"{entry['packed']:,}."
            )
        if crops and "features" in entry and entry["features"]["rows"] != crops["ok"]:
            parts.append(
                f"{name}: {crops['ok']:,} usable crops, features of {entry['features']['rows']:,}."
            )
    return parts


def columns_of(rows: list[dict[str, Any]]) -> list[str]:
    """The numbers of labels that occur, smallest first."""
    return sorted({str(row["labels"]) for row in rows}, key=label_order)


def scores_table(summary: dict[str, Any]) -> list[dict[str, str]]:
    """Scores as text, one row for each (source, features, probe): for the terminal and for table
    artifacts.

    Columns: source (where there are several), features, probe, one for each number of labels ('10
    per class', 'all labels') holding '97.1 ± 0.9' or '0.0 (0.0 to 65.8)' in percent, and chosen
    (the values taken on the validation split, in that order). A dagger marks features that saw
    labels in training, an asterisk the best of a column: `table_notes` says so.
    """
    rows = summary["scores"]
    columns = columns_of(rows)
    several = len({row["source"] for row in rows}) > 1
    best = best_cells(rows)
    table: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows:
        place = (row["source"], row["features"], row["probe"])
        if place not in table:
            chance = row["features"] == CHANCE
            table[place] = {
                **({"source": row["source"]} if several else {}),
                "features": words.features_name(row["features"])
                + (" †" if row["saw_labels"] else ""),
                "probe": "" if chance else words.probe_name(row["probe"]),
                **{column_title(column): "" for column in columns},
            }
        mark = " *" if place[1:] in best[row["source"], row["labels"]] else ""
        table[place][column_title(row["labels"])] = f"{words.score_words(row)}{mark}"
    for (source, features, probe), line in table.items():
        same = [
            row
            for row in rows
            if (row["source"], row["features"], row["probe"]) == (source, features, probe)
        ]
        line["chosen"] = words.chosen_values(
            sorted(same, key=lambda row: label_order(row["labels"]))
        )
    return list(table.values())


def table_notes(summary: dict[str, Any]) -> list[str]:
    """Lines below `scores_table`: what its marks and brackets mean, and what its intervals
    cannot say. None without scores.
    """
    rows = summary["scores"]
    if not rows:
        return []
    each = ", for each source" if len({row["source"] for row in rows}) > 1 else ""
    best = f"* the highest mean of a column{each}." if any(best_cells(rows).values()) else ""
    daggers = words.saw_labels_note(row["saw_labels"] for row in rows)
    return [
        line for line in (best, daggers, words.uneven_note(rows), words.one_draw_note(rows)) if line
    ]


def column_title(labels: str) -> str:
    """'10 per class' or 'all labels'."""
    return f"{int(labels):,} per class" if labels.isdigit() else f"{labels} labels"


def best_cells(rows: list[dict[str, Any]]) -> dict[tuple[str, str], set[tuple[str, str]]]:
    """(source, labels) to the (features, probe) with the highest mean; equal means share the
    place.
    """
    best: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for place in {(row["source"], row["labels"]) for row in rows}:
        column = [
            row
            for row in rows
            if (row["source"], row["labels"]) == place and row["features"] != CHANCE
        ]
        top = max((row["mean"] for row in column), default=0.0)
        best[place] = {(row["features"], row["probe"]) for row in column if row["mean"] == top}
    return best


def summary_markdown(summary: dict[str, Any], page: str) -> str:
    """A report in short as Markdown: sentence, verdict, scores, caveat, and where the page is."""
    parts = [f"# {summary.get('title') or 'Report'}"]
    parts += [str(summary[name]) for name in ("sentence", "verdict") if summary.get(name)]
    if rows := scores_table(summary):
        parts.append(
            "\n".join(
                [
                    "Test accuracy, % (95 % interval)",
                    "",
                    _row(rows[0]),
                    _row(["---"] * len(rows[0])),
                ]
            )
        )
        parts[-1] += "".join(f"\n{_row(row.values())}" for row in rows)
        parts += [note.replace("*", "\\*") for note in table_notes(summary)]
    if summary.get("caveat"):
        parts.append(f"> {summary['caveat']}")
    parts.append(f"The whole report, with its figures, is one file: `{page}`")
    return "\n\n".join(parts)


def _row(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
