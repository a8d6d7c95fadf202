"""Reads what the other stages wrote into counts and small tables: everything here comes from
content files, nothing from a clock.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import safe_open

from gan_core.contract import StageRequest
from gan_core.reporting.sentences import EXTERNAL
from gan_core.specs import REPORT_ROLES

FAILURES_SHOWN = 20


@dataclass(frozen=True)
class ReportInputs:
    """The folders of the artifacts that a report is about, by role; any of them may be missing.

    Attributes:
        recipe: the resolved recipe as JSON values.
        report: its report section.
    """

    recipe: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    images: tuple[Path, ...] = ()
    crops: tuple[Path, ...] = ()
    codes: tuple[Path, ...] = ()
    duplicates: tuple[Path, ...] = ()
    pack: tuple[Path, ...] = ()
    snapshot: tuple[Path, ...] = ()
    features: tuple[Path, ...] = ()
    cells: tuple[Path, ...] = ()
    inspect: tuple[Path, ...] = ()

    @staticmethod
    def of(request: StageRequest) -> ReportInputs:
        """From the request of the report stage."""
        folders = {
            role: tuple(entry.path for entry in request.inputs.get(role, []))
            for role in REPORT_ROLES.values()
        }
        recipe = dict(request.part.get("recipe") or {})
        return ReportInputs(
            recipe, dict(request.part.get("report") or recipe.get("report") or {}), **folders
        )

    def sources(self, role: str) -> list[str]:
        """Names of the sources in a role ('train' or 'evaluate'; none to evaluate means the
        training sources).
        """
        named = self.recipe.get("sources", {})
        found = named.get(role) or (named.get("train", []) if role == "evaluate" else [])
        return [str(source["name"]) for source in found]


def read_tables(
    folders: Iterable[Path], name: str, columns: list[str] | None = None
) -> pa.Table | None:
    """The tables `name` of several artifacts as one; None when none of them has it."""
    tables = []
    for folder in folders:
        path = folder / name
        if path.is_file():
            there = pq.read_schema(path).names
            tables.append(
                pq.read_table(path, columns=[c for c in columns if c in there] if columns else None)
            )
    return pa.concat_tables(tables, promote_options="default") if tables else None


def tally(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value occurs, most frequent first, equal counts by name; null counts as ''."""
    counts = Counter(
        {
            str(row["values"] or ""): int(row["counts"])
            for row in pc.value_counts(column).to_pylist()
        }
    )
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def by_source(table: pa.Table) -> dict[str, pa.Table]:
    """The rows of each source."""
    names = tally(table["source"])
    return {source: table.filter(pc.equal(table["source"], source)) for source in names}


def code_of(reason: str) -> str:
    """The code that a reason starts with: 'truncated: ...' gives 'truncated'."""
    return reason.split(":", 1)[0].strip() or "no reason given"


def reasons(table: pa.Table) -> dict[str, int]:
    """Rows by the code of their reason, most frequent first."""
    counts: Counter[str] = Counter()
    for reason, count in tally(table["reason"]).items():
        counts[code_of(reason)] += count
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def flow_of_images(inputs: ReportInputs) -> dict[str, dict[str, Any]]:
    """Per source: rows in, readable, failed by reason, splits, formats, labels."""
    table = read_tables(
        inputs.images,
        "images.parquet",
        ["source", "status", "reason", "split", "format", "label", "width", "height"],
    )
    found: dict[str, dict[str, Any]] = {}
    if table is None:
        return found
    for source, rows in by_source(table).items():
        bad = rows.filter(pc.not_equal(rows["status"], "ok"))
        good = rows.filter(pc.equal(rows["status"], "ok"))
        labels = (
            pc.drop_null(good["label"])
            if "label" in good.column_names
            else pa.chunked_array([], pa.int32())
        )
        found[source] = {
            "in": rows.num_rows,
            "ok": good.num_rows,
            "failed": bad.num_rows,
            "reasons": reasons(bad),
            "splits": tally(good["split"]),
            "formats": tally(good["format"]),
            "sizes": _sizes(good),
            "labelled": len(labels),
            "classes": len(pc.unique(labels)),
        }
    return found


def _sizes(rows: pa.Table) -> dict[str, int]:
    if not rows.num_rows:
        return {}
    names = ("width", "height")
    ends = {name: pc.min_max(rows[name]).as_py() for name in names}
    return {f"{end}_{name}": int(ends[name][end] or 0) for name in names for end in ("min", "max")}


def flow_of_crops(inputs: ReportInputs) -> dict[str, dict[str, Any]]:
    """Per source: rows of the crop table by status, usable ones by split, reasons of the others,
    images without a crop.
    """
    table = read_tables(
        inputs.crops, "crops.parquet", ["image_id", "source", "status", "reason", "split"]
    )
    found: dict[str, dict[str, Any]] = {}
    if table is None:
        return found
    for source, rows in by_source(table).items():
        good = rows.filter(pc.equal(rows["status"], "ok"))
        bad = rows.filter(pc.not_equal(rows["status"], "ok"))
        found[source] = {
            "rows": rows.num_rows,
            "images": pc.count_distinct(rows["image_id"]).as_py(),
            "ok": good.num_rows,
            "status": tally(rows["status"]),
            "reasons": reasons(bad),
            "splits": tally(good["split"]),
        }
    return found


def flow_of_duplicates(inputs: ReportInputs) -> dict[str, dict[str, Any]]:
    """Per source: training rows that dedup read, removed and kept."""
    table = read_tables(inputs.duplicates, "duplicates.parquet", ["source", "keep"])
    if table is None:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for source, rows in by_source(table).items():
        kept = pc.sum(rows["keep"]).as_py() or 0
        found[source] = {"rows": rows.num_rows, "kept": kept, "removed": rows.num_rows - kept}
    return found


def flow_of_pack(inputs: ReportInputs) -> dict[str, int]:
    """Images in the training set, by source."""
    table = read_tables(inputs.pack, "crops.parquet", ["source", "status"])
    return (
        tally(table.filter(pc.equal(table["status"], "ok"))["source"]) if table is not None else {}
    )


def feature_sets(inputs: ReportInputs) -> list[dict[str, Any]]:
    """Each features artifact: source, name, rows, splits, kept, layers with shapes, values per
    image, lineage.
    """
    found = []
    for folder in inputs.features:
        files = sorted(folder.glob("features-*.parquet"))
        if not files:
            continue
        schema = pq.read_schema(files[0])
        lineage = json.loads((schema.metadata or {}).get(b"discern", b"{}"))
        layers = {
            entry.name: list(entry.type.shape)
            for entry in schema
            if isinstance(entry.type, pa.FixedShapeTensorType)
        }
        columns = [name for name in ("source", "split", "kept") if name in schema.names]
        rows = pa.concat_tables([pq.read_table(path, columns=columns) for path in files])
        found.append(
            {
                "source": next(iter(tally(rows["source"])), ""),
                "features": str(
                    lineage.get("features")
                    or ("pixels" if list(layers) == ["pixels"] else folder.name)
                ),
                "rows": rows.num_rows,
                "splits": tally(rows["split"]),
                "layers": layers,
                "values": sum(math.prod(shape) for shape in layers.values()),
                "bytes": sum(path.stat().st_size for path in files),
                "lineage": lineage,
            }
        )
    return found


def outside_network(features: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The external network that features were extracted from, from their lineage; {} where a GAN of
    ours was.

    Args: features: as `feature_sets` gives them.
    Returns: name; weights, their SHA-256 or '' where none were given; images and crelu_images: the
        training images that its batch-norm statistics, or those of mode bn_crelu, were measured
        over.
    """
    for entry in features:
        network = entry["lineage"].get("network") or {}
        if entry["features"] == EXTERNAL and "sources" in network:
            weights, statistics = (
                str(network.get("weights") or ""),
                entry["lineage"].get("statistics") or {},
            )
            return {
                "name": str(network["name"]),
                "weights": "" if weights.startswith("random") else weights,
                **{name: int(statistics.get(name) or 0) for name in ("images", "crelu_images")},
            }
    return {}


def failures(inputs: ReportInputs) -> dict[str, Any]:
    """The first rows that failed (at reading or at cropping), and how many there are in all."""
    names = ["source", "address", "member", "status", "reason"]
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for stage, folders, file in (
        ("ingest", inputs.images, "images.parquet"),
        ("crop", inputs.crops, "crops.parquet"),
    ):
        table = read_tables(folders, file, names)
        if table is None:
            continue
        bad = table.filter(pc.not_equal(table["status"], "ok"))
        for row in bad.sort_by([(name, "ascending") for name in names[:3]]).to_pylist():
            text = {name: str(row[name] or "") for name in names}
            member = text.pop("member")
            place = (text["source"], text["address"], member)
            text["address"] += f" #{member}" if member else ""
            # crop hands on the rows that ingest could not read: the first one counts
            found.setdefault(place, {**text, "stage": stage})
    return {"total": len(found), "shown": list(found.values())[:FAILURES_SHOWN]}


def label_names(inputs: ReportInputs) -> dict[str, dict[int, str]]:
    """Per source: the name of each label; the number itself where there is none."""
    name = "crops.parquet" if inputs.crops else "images.parquet"
    table = read_tables(inputs.crops or inputs.images, name, ["source", "label", "label_name"])
    found: dict[str, dict[int, str]] = {}
    if table is None:
        return found
    pairs = (
        table.filter(pc.is_valid(table["label"]))
        .group_by(["source", "label", "label_name"])
        .aggregate([])
    )
    for row in pairs.sort_by([("source", "ascending"), ("label", "ascending")]).to_pylist():
        found.setdefault(str(row["source"]), {})[int(row["label"])] = str(
            row["label_name"] or row["label"]
        )
    return found


def training_record(inputs: ReportInputs) -> dict[str, Any]:
    """What the snapshot that gives the features says of its training (its metadata; the weights
    are not read).
    """
    for folder in inputs.snapshot:
        found = sorted(folder.glob("snapshot-*.safetensors"))
        if found:
            used = next((path for path in found if path.stem == "snapshot-chosen"), found[-1])
            return {"file": used.name, "snapshots": len(found), **_safetensors_record(used)}
    return {}


def _safetensors_record(path: Path) -> dict[str, Any]:
    """The file's metadata, and the number of weights of each role; torch is not imported."""
    weights: Counter[str] = Counter()
    with safe_open(path, framework="numpy") as file:
        record: dict[str, Any] = json.loads((file.metadata() or {}).get("discern", "{}"))
        for name in file.keys():  # noqa: SIM118 - not a dictionary
            role, dot, rest = name.partition(".")
            if dot and not rest.endswith(("running_mean", "running_var", "num_batches_tracked")):
                weights[role] += math.prod(file.get_slice(name).get_shape())
    return {**record, "weights": dict(sorted(weights.items()))}


def read_inspections(inputs: ReportInputs) -> list[tuple[Path, dict[str, Any]]]:
    """The folder and the content of `inspection.json` of each inspect artifact, in order."""
    paths = [folder / "inspection.json" for folder in inputs.inspect]
    return [(path.parent, json.loads(path.read_bytes())) for path in paths if path.is_file()]


def inspection_numbers(inputs: ReportInputs) -> dict[str, Any]:
    """Inspection to its sentence and numbers."""
    return {
        content["name"]: {"sentence": content["sentence"], **content["numbers"]}
        for _, content in read_inspections(inputs)
    }
