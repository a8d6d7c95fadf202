"""A model card for the snapshot and a data card for the prepared set, in the Hugging Face format:
Markdown with YAML front matter, made of the report's summary alone.
"""

from __future__ import annotations

from typing import Any

import yaml

from gan_core.reporting.scores import is_learned
from gan_core.reporting.sentences import CHANCE


def cards(summary: dict[str, Any]) -> dict[str, str]:
    """File name to text: `data-card.md`, and `model-card.md` where a network was trained or
    imported.
    """
    found = {"data-card.md": data_card(summary)}
    if summary["training"]:
        found["model-card.md"] = model_card(summary)
    return found


def model_card(summary: dict[str, Any]) -> str:
    """What the networks are, what they were trained on, what their features reach against the
    baselines, and what they should not be used for.
    """
    training, sources = summary["training"], summary["sources"]
    network = training.get("network") or {}
    rows = [row for row in summary["scores"] if row["features"] != CHANCE]
    front = {
        "library_name": "discern-gan",
        "tags": ["gan", "feature-extraction", str(training.get("method", ""))],
        "datasets": sources["train"],
        "model-index": [_results(summary["title"], rows)],
    }
    facts = {
        "Method": training.get("method"),
        "Network": f"{network.get('name')}, width {network.get('width')}",
        "Image size": f"{network.get('image_size')} x {network.get('image_size')}",
        "Images shown": f"{training.get('kimg')} kimg",
        "Precision": training.get("precision"),
        "Seed": training.get("seed"),
        "Parameters": ", ".join(
            f"{role} {count:,}" for role, count in (training.get("weights") or {}).items()
        ),
        "Settings": _flat(training.get("settings") or {}),
    }
    saw = next((row["saw_labels"] for row in rows if row["saw_labels"]), "")
    labels = f"Labels of the {saw} split were used." if saw else "No labels were used in training."
    scores = ["| features | probe | labels per class | test accuracy, % |", "|---|---|---|---|"] + [
        f"| {row['features']} | {row['probe']} | {row['labels']} | "
        f"{100 * row['mean']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}] |"
        for row in rows
    ]
    return _page(
        front,
        f"# {summary['title']}",
        summary.get("sentence") or "",
        "## Networks\n\n" + _table(facts),
        f"## Training data\n\nSources: {', '.join(sources['train'])} (data-card.md). {labels}",
        "## Evaluation\n\nProbes on frozen features; brackets are 95 % intervals. Choices were "
        "made on a validation split of the training labels, the test split was read once.\n\n"
        + "\n".join(scores)
        if rows
        else "",
        "## Uses and limits\n\nThe features describe images like those of the training set. A "
        "generator can repeat training images: the report's memorisation check says whether it was "
        "found to. " + (summary.get("caveat") or ""),
    )


def _results(title: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """An entry of a model index (Hugging Face): the accuracy of each learned set of features."""
    return {
        "name": title,
        "results": [
            {
                "task": {"type": "image-classification", "name": f"{row['probe']} probe"},
                "dataset": {"name": row["source"], "type": row["source"], "split": "test"},
                "metrics": [
                    {
                        "type": "accuracy",
                        "name": f"{row['labels']} labels per class",
                        "value": round(row["mean"], 4),
                    }
                ],
            }
            for row in rows
            if is_learned(row["features"])
        ],
    }


def data_card(summary: dict[str, Any]) -> str:
    """Where the images come from, how many are in each split, and what preparation left out."""
    sources, flow = summary["sources"], summary["flow"]
    names = list(dict.fromkeys([*sources["train"], *sources["evaluate"]]))
    front = {
        "task_categories": ["image-classification", "unconditional-image-generation"],
        "pretty_name": ", ".join(names),
        "size_categories": [_size(sum(_count(flow, name) for name in names))],
    }
    parts = []
    for name in names:
        of_source = flow.get(name, {})
        images, crops = of_source.get("images") or {}, of_source.get("crops") or {}
        facts = {
            "Images": f"{images.get('in', 0):,}, {images.get('failed', 0):,} cannot be read",
            "Classes": images.get("classes"),
            "Formats": _flat(images.get("formats") or {}),
            "Splits": _flat(images.get("splits") or {}),
            "Usable crops": f"{crops.get('ok', 0):,}",
            "Crops left out": _flat(crops.get("reasons") or {}),
            "In the training set": of_source.get("packed"),
        }
        parts.append(f"## {name}\n\n" + _table(facts))
    if summary["dedup_mode"] == "off":
        duplicates = "Near-duplicates were not searched."
    else:
        kept = sum((flow.get(name, {}).get("duplicates") or {}).get("kept", 0) for name in names)
        duplicates = (
            f"Near-duplicates of the training split were searched (mode {summary['dedup_mode']}); "
            f"{kept:,} crops were kept for training."
        )
    return _page(
        front, f"# Prepared images: {', '.join(names)}", *parts, "## Duplicates\n\n" + duplicates
    )


def _count(flow: dict[str, Any], name: str) -> int:
    return int((flow.get(name, {}).get("images") or {}).get("in", 0))


def _size(count: int) -> str:
    """The Hugging Face name of a size, such as '10K<n<100K'."""
    edges = [
        (1_000, "n<1K"),
        (10_000, "1K<n<10K"),
        (100_000, "10K<n<100K"),
        (1_000_000, "100K<n<1M"),
    ]
    return next((name for edge, name in edges if count < edge), "n>1M")


def _flat(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _table(facts: dict[str, Any]) -> str:
    rows = [f"| {name} | {value} |" for name, value in facts.items() if value not in (None, "")]
    return "\n".join(["| | |", "|---|---|", *rows])


def _page(front: dict[str, Any], *parts: str) -> str:
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return (
        f"---\n{head}---\n\n" + "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"
    )
