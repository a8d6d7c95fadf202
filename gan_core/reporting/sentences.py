"""Sentences made of numbers: what a person would say of a run, computed, so that it cannot be
kinder than the figures.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from gan_core import registry
from gan_core.errors import RequestError

CHANCE = "chance"
EXTERNAL = "network"  # features of an external network (gan_core.pipeline.plan)
SAW_LABELS = {
    "training": "trained on labels",
    "validation": (
        "the snapshot was chosen by a probe on validation labels, cut from the training "
        "images; test labels had no part in it"
    ),
}


def saw_labels_note(kinds: Iterable[str]) -> str:
    """What the dagger after some features means; '' where none saw labels."""
    found = sorted({str(kind) for kind in kinds if kind})
    return f"† {listed(SAW_LABELS.get(kind, kind) for kind in found)}." if found else ""


def probe_name(probe: str) -> str:
    """A probe's title, such as 'linear SVM', and what is done before: 'linear SVM, sqrt'."""
    name, *prepared = probe.split("+")
    return ", ".join([_title("probes", name), *prepared])


def method_name(method: str) -> str:
    """A training method's title, such as 'DCGAN'."""
    return _title("methods", method)


def _title(kind: str, name: str) -> str:
    try:
        return registry.title(kind, name)
    except RequestError:  # a report made where the plug-in was
        return name.replace("_", " ")


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def chosen_values(rows: Iterable[dict[str, Any]]) -> str:
    """What was chosen on validation in the cells of one line: 'C 1e-4, 5e-4', once where it is the
    same; '' for a probe that chooses nothing.
    """
    rows = list(rows)
    values = [small_number(value) for row in rows for value in row.get("chosen", [])]
    setting = "value"
    with contextlib.suppress(RequestError):
        setting = registry.literal("probes", rows[0]["probe"].split("+")[0], "SETTING", setting)
    if not values or not setting:
        return ""
    return f"{setting} {', '.join(values if len(set(values)) > 1 else values[:1])}"


def small_number(value: float) -> str:
    """'5e-4', '0.5', '25'."""
    if 0.01 <= abs(value) < 1e5 or value == 0:
        return f"{value:g}"
    digits, _, power = f"{value:.6e}".partition("e")
    return f"{float(digits):g}e{int(power)}"


def is_baseline(features: str) -> bool:
    """Whether features are a baseline's: a file of `baselines/` or a dotted path."""
    return registry.is_name("baselines", features)


def short_name(features: str) -> str:
    """A feature set inside a sentence or a chart: 'random weights', 'discriminator'."""
    if features == EXTERNAL:
        return "given network"
    return _title("baselines", features) if is_baseline(features) else features.replace("_", " ")


def features_name(features: str) -> str:
    """A feature set as a row's title."""
    if features == EXTERNAL:
        return "Features of the given network"
    learned = features != CHANCE and not is_baseline(features)
    return capital(short_name(features)) + " features" * learned


def labels_words(labels: str) -> str:
    """'10' is '10 labels per class', 'all' is 'all labels'."""
    return (
        f"{int(labels):,} {'label' if labels == '1' else 'labels'} per class"
        if labels.isdigit()
        else f"{labels} labels"
    )


def percent(share: float, digits: int = 1) -> str:
    """0.971 is '97.1 %'."""
    return f"{100 * share:.{digits}f} %"


# the largest distance between the interval's middle and the mean at which ± is still shown, as a
# share of the half-width
UNEVEN = 0.15


def even(row: Mapping[str, Any], least: float = 0.0) -> bool:
    """Whether 'mean ± half' names the interval that was computed, and nothing beyond the possible
    (`least` to 100 %).

    Args:
        row: mean, low, high and half as shares.
        least: the smallest possible value, -1 for differences.
    """
    off = abs((row["low"] + row["high"]) / 2 - row["mean"])
    if off > max(0.001, UNEVEN * row["half"]):
        return False
    shown, width = round(100 * row["mean"], 1), round(100 * row["half"], 1)  # as printed
    return bool(100 * least - 1e-9 <= shown - width and shown + width <= 100 + 1e-9)


def around(row: Mapping[str, Any], *, gap: bool = False, signed: bool = False) -> str:
    """The interval about a mean, in percent or points: '± 0.9', or '0.0 to 65.8' where it is not
    even.

    Args:
        gap: the row is a difference. signed: its ends are given with their signs.
    """
    if even(row, -1.0 if gap else 0.0):
        return f"± {100 * row['half']:.1f}"
    low, high = (f"{100 * row[end]:{'+' if signed else ''}.1f}" for end in ("low", "high"))
    return f"{low} to {high}".replace("-", "\u2212")


def plus_minus(row: Mapping[str, Any], *, gap: bool = False, signed: bool = False) -> str:
    """As `around`, to follow the mean: '± 0.9', or '(0.0 to 65.8)'."""
    text = around(row, gap=gap, signed=signed)
    return text if text.startswith("±") else f"({text})"


def score_words(row: Mapping[str, Any]) -> str:
    """A score in percent with its interval: '97.1 ± 0.9', '0.0 (0.0 to 65.8)'."""
    return f"{100 * row['mean']:.1f} {plus_minus(row)}"


def uneven_note(rows: Iterable[Mapping[str, Any]], gaps: Iterable[Mapping[str, Any]] = ()) -> str:
    """What brackets after a mean, or after a difference of `gaps`, are; '' where there are none."""
    if all(map(even, rows)) and all(even(gap, -1.0) for gap in gaps):
        return ""
    return (
        "Where the interval is not even about the mean, its two ends are given in brackets instead."
    )


def one_draw_note(rows: Iterable[Mapping[str, Any]]) -> str:
    """That one draw of labels says nothing of others, with the columns that it is so for; '' where
    there are none.

    With all labels nothing is drawn.
    """
    draws: dict[str, int] = {}
    for row in rows:
        if row["labels"].isdigit():
            draws[row["labels"]] = max(draws.get(row["labels"], 0), int(row["draws"]))
    single = listed(f"{int(labels):,}" for labels in sorted(draws, key=int) if draws[labels] == 1)
    if not single:
        return ""
    return (
        f"There is one draw of labels at {single} per class: how far others would be from it is "
        "not known, and the interval counts the "
        "test images alone."
    )


def listed(parts: Iterable[str], last: str = "and") -> str:
    """'a', 'a and b', 'a, b and c'."""
    found = list(parts)
    return (
        found[0]
        if len(found) == 1
        else f"{', '.join(found[:-1])} {last} {found[-1]}"
        if found
        else ""
    )


def count(n: int, one: str, many: str = "") -> str:
    """'1 image', '2,000 images'."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def result_sentence(summary: dict[str, Any]) -> str:
    """The report's first sentence: the leading score, with its interval, and its baselines."""
    best = summary.get("headline")
    if best is None:
        return f"{features_sentence(summary)} {nothing_to_evaluate(summary)}".strip()
    where = (
        f" of {best['source']}"
        if len(summary["sources"]["evaluate"]) > 1 or summary["transfer"]
        else ""
    )
    how = f"with {probe_name(best['probe'])} on {labels_words(best['labels'])}"
    first = (
        f"{features_name(best['features'])} reach {percent(best['mean'])} ({around(best)}) "
        f"{how}{where}"
    )
    others = [
        f"{short_name(row['features'])} {percent(row['mean'])}"
        for row in compared_rows(summary)
        if is_baseline(row["features"])
    ]
    return f"{first}; {listed(others, ',').replace(' , ', ', ')}." if others else f"{first}."


def compared_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The score rows at the headline's source, probe and labels: itself, its baselines, and chance
    at the same labels.
    """
    best = summary.get("headline")
    if best is None:
        return []
    same = [
        row
        for row in summary["scores"]
        if row["source"] == best["source"] and row["labels"] == best["labels"]
    ]
    rows = [row for row in same if row["probe"] in (best["probe"], CHANCE)]
    return sorted(rows, key=lambda row: row["features"] != best["features"])


def verdict_sentence(summary: dict[str, Any]) -> str:
    """Whether the leading score beats its baselines, by how much, and where the interval does not
    tell.
    """
    best = summary.get("headline")
    if best is None:
        return ""
    gaps = [
        gap
        for gap in summary["differences"]
        if all(gap[name] == best[name] for name in ("source", "features", "probe", "labels"))
    ]
    if not gaps:
        return "There is no baseline to compare with, so this number says little on its own."
    above = [gap for gap in gaps if gap["verdict"] == "above"]
    below = [gap for gap in gaps if gap["verdict"] == "below"]
    level = [gap for gap in gaps if gap["verdict"] == "level"]
    parts = []
    if above:
        parts.append(
            "beat " + listed(f"{short_name(gap['baseline'])} by {_by(gap)}" for gap in above)
        )
    if level:
        many = "the differences are" if len(level) > 1 else "the difference is"
        named = listed((f"{short_name(gap['baseline'])} ({_signed(gap)})" for gap in level), "or")
        parts.append(f"do not beat {named}: {many} within the interval")
    if below:
        parts.append(
            "fall short of "
            + listed(f"{short_name(gap['baseline'])} by {_by(gap)}" for gap in below)
        )
    text = (
        f"{parts[0]}, but {'; they '.join(parts[1:])}"
        if above and len(parts) > 1
        else "; they ".join(parts)
    )
    return " ".join(
        filter(None, [f"{features_name(best['features'])} {text}.", _one_draw_behind(best)])
    )


def _one_draw_behind(best: dict[str, Any]) -> str:
    if not best["labels"].isdigit() or best.get("draws") != 1:
        return ""
    return "This is of one draw of labels: how far others would be from it is not known."


def leaks_sentence(summary: dict[str, Any]) -> str:
    """The leading score without the test images that are in the training split too; '' if they
    were not counted.
    """
    best = summary.get("headline")
    if best is None or best["without_leaked"] is None:
        return ""
    rest = best["without_leaked"]
    leaked = best["test_rows"] - rest["test_rows"]
    if not leaked:
        return (
            f"None of the {count(best['test_rows'], 'test image')} was found in the training split."
        )
    verb = "is" if leaked == 1 else "are"
    return (
        f"{leaked:,} of the {count(best['test_rows'], 'test image')} {verb} also in the training "
        "split; without them the score is "
        f"{percent(rest['mean'])} ({around(rest)}) instead of {percent(best['mean'])}."
    )


def _by(gap: dict[str, Any]) -> str:
    size = (
        gap
        if gap["mean"] >= 0
        else {**gap, "mean": -gap["mean"], "low": -gap["high"], "high": -gap["low"]}
    )
    return f"{100 * size['mean']:.1f} {plus_minus(size, gap=True)} points"


def _signed(gap: dict[str, Any]) -> str:
    mean, text = f"{100 * gap['mean']:+.1f}", around(gap, gap=True, signed=True)
    shown = f"{mean} {text} points" if text.startswith("±") else f"{mean} points, {text}"
    return shown.replace("-", "\u2212")


def nothing_to_evaluate(summary: dict[str, Any]) -> str:
    """Why there are no scores, in a sentence."""
    flow, names = summary["flow"], summary["sources"]["evaluate"]
    images = [flow[name]["images"] for name in names if "images" in flow.get(name, {})]
    if images and not any(entry["labelled"] for entry in images):
        return f"There is nothing to evaluate: the images of {listed(names)} carry no labels."
    if images and max(entry["classes"] for entry in images) == 1:
        return f"There is nothing to evaluate: all labels of {listed(names)} are the same."
    return "There is nothing to evaluate: no scores were made in this run."


def features_sentence(summary: dict[str, Any]) -> str:
    """What was written, for a run without scores; '' where no features were."""
    made = summary["features"]
    if not made:
        return ""
    rows = sum(int(entry["rows"]) for entry in made)
    return f"Features of {count(rows, 'image')} were written, {made[0]['values']:,} values each."


def outside_words(outside: dict[str, Any]) -> str:
    """An external network, with what is known of its weights, and what is not."""
    weights = (
        f"with weights {outside['weights'][:12]}"
        if outside["weights"]
        else "no weights were given: as its code makes it"
    )
    return (
        f"{outside['name']}, from outside, {weights}; not trained here, and whether its weights "
        "have seen these images or their labels "
        "is not known"
    )


def outside_use(outside: dict[str, Any]) -> str:
    """What the training images are to an external network."""
    uses = []
    if outside["images"]:
        uses.append(
            f"its batch-norm statistics were measured over {count(outside['images'], 'image')} of "
            "them"
        )
    if outside["crelu_images"]:
        uses.append(
            f"its pooled values were normalised over {count(outside['crelu_images'], 'image')} of "
            "them"
        )
    return f"{listed(uses)}, labels unused" if uses else "nothing of the network depends on them"


def duplicates_sentence(summary: dict[str, Any]) -> str:
    """What dedup found, in words."""
    found = summary["duplicates"]
    if not found:
        return "Near-duplicates were not searched for in this run."
    if summary.get("dedup_mode") == "off":
        return "Near-duplicates were not searched for: dedup is off in this recipe."
    if not found["removed"]:
        return (
            f"No near-duplicates were found among the {count(found['rows'], 'training crop')}; "
            "all of them were kept."
        )
    share = percent(found["removed"] / found["rows"]) if found["rows"] else ""
    return (
        f"{count(found['removed'], 'near-duplicate')} of {count(found['rows'], 'training crop')} "
        f"({share}) in "
        f"{count(found['groups'], 'group')} {'was' if found['removed'] == 1 else 'were'} left out "
        "of the training set, "
        "one representative for each group; the largest group has "
        f"{count(found['largest'], 'member')}. "
        "Nothing is deleted"
        + ("." if summary.get("outside") else ": only the GAN is not shown them.")
    )
