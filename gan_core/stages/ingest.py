"""ingest: one row per source image, the ones that cannot be read too; splits are fixed here.

Files are known by their stamps: only what is new since the last time is read. Splits are the
publisher's, else rows are divided by content, so that identical files never straddle splits.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_core import registry
from gan_core.config import SourceConfig
from gan_core.config.sources import SplitConfig
from gan_core.contract import IngestRequest, StageOutcome, StageRequest
from gan_core.datasets.base import Blob, Entry, Source
from gan_core.errors import DataError
from gan_core.files import canonical_json, sha256_text, write_table
from gan_core.progress import Progress, Throttled
from gan_core.randomness import unit_interval
from gan_core.specs import spec_of
from gan_core.vision.headers import probe
from gan_core.vision.image_files import Header, UnreadableImage

if TYPE_CHECKING:
    import pyarrow as pa

    from gan_core.datasets._memory import Facts, Memory


def run(request: StageRequest, progress: Progress) -> StageOutcome:
    """Writes images.parquet (schemas.IMAGES), rows in the source's order.

    Raises:
        RequestError: the location is missing or of another kind.
        DataError: nothing there can be used.
    """
    from gan_core.datasets._memory import Memory

    job = IngestRequest.of(request)
    config = job.settings
    source: Source = registry.load("datasets", config.dataset).open_source(config, job.location)
    memory = Memory(_memory_folder(job), forget=job.rehash)
    ingest = _Ingest(source, config, memory, job.execution.workers, Throttled(progress))
    rows = ingest.rows()
    table = ingest.table(rows)
    memory.close(set(ingest.keys))
    if not ingest.statuses(rows).get("ok"):
        raise _nothing_usable(config, ingest, rows)
    write_table(table, request.work / "images.parquet")
    return _outcome(ingest, rows, table)


def _memory_folder(job: IngestRequest) -> Path | None:
    """A folder named by what decides an image's facts apart from its bytes: the kind of source,
    its options, this code's version.
    """
    config = job.settings
    if job.memory is None:
        return None
    what = canonical_json([config.dataset, config.options, spec_of("ingest").version])
    folder = job.memory / f"{config.name}-{sha256_text(what)[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class _Ingest:
    """One pass over a source.

    Attributes:
        entries: every image that the source lists.
        keys: their keys in the memory.
        facts: what is known of each; None where it was not wanted (limit, splits).
        read_now: images whose bytes were read in this run.
    """

    def __init__(
        self, source: Source, config: SourceConfig, memory: Memory, workers: int, progress: Progress
    ) -> None:
        from gan_core.datasets._memory import memory_key
        from gan_core.schemas import image_id

        self.source = source
        self.config = config
        self._memory = memory
        self._workers = workers
        self._progress = progress
        self.entries: list[Entry] = []
        self.keys: list[str] = []
        for stamp in source.stamps():
            for entry in source.entries(stamp):
                self.entries.append(_storable(entry))
                self.keys.append(memory_key(stamp, entry.member))
        self.ids = [image_id(config.name, entry.address, entry.member) for entry in self.entries]
        self.facts: list[Facts | None] = [None] * len(self.entries)
        self.read_now = 0
        self.has_masks = source.has_masks

    def rows(self) -> list[int]:
        """Indices of the entries that become rows, in order, with their facts known."""
        splits = self.config.splits
        wanted = [
            index
            for index in range(len(self.entries))
            if not splits or self._published(index) in ("", *splits)
        ]
        if self.config.limit is None:
            self._learn(wanted)
            return [index for index in wanted if self._is_row(index)]
        return self._limited(wanted, self.config.limit)

    def _limited(self, wanted: list[int], limit: int) -> list[int]:
        """The first `limit` rows of each split in the order of the hashes of their ids.

        Where the split depends on the content, images are read in that order until every split is
        full: the outcome is that of reading everything.
        """
        ranks = {index: unit_interval("limit", self.ids[index]) for index in wanted}
        groups: dict[str, list[int]] = {}
        for index in sorted(wanted, key=lambda index: (ranks[index], index)):
            groups.setdefault(self._published(index), []).append(index)
        undecided = groups.pop("", [])
        chosen: list[int] = []
        for split, group in groups.items():
            chosen += self._fill(group, {split}, limit)
        parts = {"train", "test"} if self.config.split.test else {"train"}
        chosen += self._fill(undecided, parts & set(self.config.splits or parts), limit)
        # A published split and a divided one may bear the same name: the limit holds for both
        # together.
        taken: Counter[str] = Counter()
        rows = []
        for index in sorted(chosen, key=lambda index: (ranks[index], index)):
            split = self.split(index)
            taken[split] += 1
            if taken[split] <= limit:
                rows.append(index)
        return sorted(rows)

    def _fill(self, group: list[int], splits: set[str], limit: int) -> list[int]:
        """Rows of a group in its order, read until each of `splits` has `limit` or the group
        ends.
        """
        rows: list[int] = []
        position = 0
        while position < len(group):
            counts = Counter(self.split(index) for index in rows)
            if all(counts[split] >= limit for split in splits):
                break
            piece = sorted(group[position : position + max(limit, 64)])
            position += len(piece)
            self._learn(piece)
            rows += [index for index in piece if self._is_row(index)]
        return rows

    def _is_row(self, index: int) -> bool:
        facts = self.facts[index]
        if facts is None or not facts.image:
            return False
        return not self.config.splits or self.split(index) in self.config.splits

    def _published(self, index: int) -> str:
        return self.entries[index].split if self.config.split.use == "published" else ""

    def split(self, index: int) -> str:
        """The publisher's split, else one by content (by place, for a file that cannot be read)."""
        facts = self.facts[index]
        what = (facts.content_sha256 if facts else "") or self.ids[index]
        return self._published(index) or split_by_content(what, self.config.split)

    def _learn(self, indices: Sequence[int]) -> None:
        """Facts for the given entries: from the memory, else by reading."""
        from gan_core.datasets._reading import read_ordered

        unknown = []
        for index in indices:
            self.facts[index] = self._memory.get(self.keys[index])
            if self.facts[index] is None:
                unknown.append(index)
        requests = [(self.entries[index].address, self.entries[index].member) for index in unknown]

        def work(position: int, blob: Blob) -> Facts:
            return _examine(self.entries[unknown[position]], blob)

        for index, facts in zip(
            unknown, read_ordered(self.source, requests, work, self._workers), strict=True
        ):
            self.facts[index] = facts
            self._memory.add(self.keys[index], facts)
            self.read_now += 1
            self._progress(self.read_now, 0 if self.config.limit else len(unknown), "images")

    def statuses(self, rows: Sequence[int]) -> Counter[str]:
        """Rows by status."""
        return Counter(facts.status for facts in map(self.facts.__getitem__, rows) if facts)

    def class_numbers(self) -> dict[str, int]:
        """Numbers for class names that come without: their place among the sorted names, as
        ImageFolder counts.
        """
        if any(entry.label is not None for entry in self.entries):
            return {}
        names = sorted({entry.label_name for entry in self.entries if entry.label_name})
        return {name: number for number, name in enumerate(names)}

    def table(self, rows: Sequence[int]) -> pa.Table:
        """schemas.IMAGES."""
        import pyarrow as pa

        from gan_core.schemas import IMAGES

        numbers = self.class_numbers()
        columns: dict[str, list[Any]] = {name: [] for name in IMAGES.names}
        for index in rows:
            entry, facts = self.entries[index], self.facts[index]
            if facts is None:
                continue
            attributes = dict(entry.attributes)
            if facts.mask_sha256:
                attributes["mask_sha256"] = facts.mask_sha256
            label = numbers.get(entry.label_name) if entry.label is None else entry.label
            columns["image_id"].append(self.ids[index])
            columns["source"].append(self.config.name)
            columns["address"].append(entry.address)
            columns["member"].append(entry.member)
            for name, value in zip(_FACT_COLUMNS, facts, strict=False):
                columns[name].append(value)
            columns["split"].append(self.split(index))
            columns["label"].append(label)
            columns["label_name"].append(None if label is None else entry.label_name or str(label))
            columns["attributes"].append(_unicode(canonical_json(attributes)) if attributes else "")
        return pa.Table.from_pydict(columns, schema=IMAGES)


_FACT_COLUMNS = (
    "content_sha256",
    "bytes",
    "format",
    "width",
    "height",
    "mode",
    "frames",
    "status",
    "reason",
)


def _storable(entry: Entry) -> Entry:
    """The entry with a label and a class name that their columns can hold (int32, UTF-8)."""
    label, name = entry.label, _unicode(entry.label_name)
    if label is not None and not 0 <= label < 1 << 31:
        label, name = None, name or str(label)
    if (label, name) == (entry.label, entry.label_name):
        return entry
    return entry._replace(label=label, label_name=name)


def _unicode(text: str) -> str:
    """The text with lone surrogates, which no UTF-8 holds, written as \\udcNN."""
    return text.encode("utf-8", "backslashreplace").decode()


def split_by_content(content: str, split: SplitConfig) -> str:
    """train or test, the same for equal content. Args: content: SHA-256 of the image's bytes (or
    another stable text).
    """
    return "test" if unit_interval("split", split.seed, content) < split.test else "train"


def _examine(entry: Entry, blob: Blob) -> Facts:
    """Reads one image as far as its header."""
    from gan_core.datasets._memory import Facts

    if entry.problem:
        return Facts("", 0, "", None, None, "", None, "failed", entry.problem, "", True)
    if not entry.certain and not blob.is_image():
        return Facts("", 0, "", None, None, "", None, "ignored", "", "", False)
    data, sha, mask, status, reason = b"", "", "", "ok", ""
    try:
        data = blob.read()
        sha = hashlib.sha256(data).hexdigest()
        stored = blob.read_mask()
        mask = hashlib.sha256(stored).hexdigest() if stored is not None else ""
        header: Header | None = probe(data)
    except UnreadableImage as error:
        header, status, reason = error.header, "failed", error.reason
    described: tuple[str, int | None, int | None, str, int | None] = (
        (header.format, header.width, header.height, header.mode, header.frames)
        if header
        else ("", None, None, "", None)
    )
    return Facts(sha, len(data), *described, status, reason, mask, True)


def _reasons(ingest: _Ingest, rows: Sequence[int]) -> Counter[str]:
    """Failed rows by code."""
    facts = (ingest.facts[index] for index in rows)
    return Counter(
        known.reason.partition(":")[0] for known in facts if known and known.status == "failed"
    )


def _nothing_usable(config: SourceConfig, ingest: _Ingest, rows: Sequence[int]) -> DataError:
    first = next((ingest.facts[index] for index in rows), None)
    what = f"{len(rows)} images were read and none can be used" if rows else "there is no image"
    if config.splits and not rows:
        there = sorted({ingest.split(index) for index in range(len(ingest.entries))})
        return DataError(
            f"The source {config.name!r} has no image in the splits {', '.join(config.splits)}.",
            expected=f"one of its splits: {', '.join(there)}" if there else "images",
            remedy=f"correct `splits` of the source {config.name!r}",
        )
    return DataError(
        f"Nothing of the source {config.name!r} can be used: {what}"
        + (f" (the first: {first.reason})." if first else "."),
        expected=f"at least one image that can be read by dataset {config.dataset!r}",
        remedy=(
            "check the files, or name another kind of source as `dataset` (`discern list datasets`)"
        ),
    )


def _not_evaluable(table: pa.Table) -> str:
    """Why features of this source cannot be scored, '' when they can: reported before hours of
    training, not after.
    """
    import pyarrow.compute as pc

    rows = table.filter(pc.and_(pc.equal(table["status"], "ok"), pc.is_valid(table["label"])))
    if not rows.num_rows:
        return "there are no labels"
    train = pc.unique(rows.filter(pc.equal(rows["split"], "train"))["label"])
    if len(pc.unique(rows["label"])) < 2:
        return f"there is one class only ({rows['label_name'][0].as_py()})"
    if not len(train):
        return "no training row has a label"
    if len(train) < 2:
        return "the training rows are of one class only"
    if not pc.any(pc.equal(rows["split"], "test")).as_py():
        return (
            "no row is in the test split; with split.use: content in the source, one is divided off"
        )
    return ""


def _outcome(ingest: _Ingest, rows: Sequence[int], table: pa.Table) -> StageOutcome:
    statuses = ingest.statuses(rows)
    ignored = dict(ingest.source.ignored)
    other = sum(1 for facts in ingest.facts if facts is not None and not facts.image)
    if other:
        ignored["files of unknown ending that are no images"] = other
    total = len(ingest.entries) - other
    reasons = _reasons(ingest, rows)
    splits = Counter(table["split"].to_pylist())
    labels = Counter(name for name in table["label_name"].to_pylist() if name)
    warnings = list(ingest.source.warnings)
    if statuses["failed"]:
        listed = ", ".join(f"{count} {code}" for code, count in reasons.most_common())
        warnings.append(
            f"{statuses['failed']} of {len(rows)} images cannot be used ({listed}); each is a row "
            "with its reason"
        )
    why_not = _not_evaluable(table)
    summary: dict[str, Any] = {
        "splits": dict(sorted(splits.items())),
        "labelled": not why_not,
        "not_evaluable": why_not,
        "classes": len(labels),
        "class_counts": dict(sorted(labels.items())) if len(labels) <= 1000 else {},
        "formats": dict(sorted(Counter(table["format"].to_pylist()).items())),
        "reasons": dict(sorted(reasons.items())),
        "ignored": dict(sorted(ignored.items())),
        "read": ingest.read_now,
        "remembered": len([facts for facts in ingest.facts if facts is not None]) - ingest.read_now,
        "has_masks": ingest.has_masks,
    }
    counts = {
        "in": total,
        "ok": statuses["ok"],
        "failed": statuses["failed"],
        "left_out": total - len(rows),
    }
    return StageOutcome(counts=counts, summary=summary, warnings=warnings)
