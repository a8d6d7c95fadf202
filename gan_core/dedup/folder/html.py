"""A page that shows the groups that dedup found: one HTML file with its images inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gan_core.dedup.folder.output import GENERATOR
from gan_core.dedup.folder.read import Images
from gan_core.dedup.folder.run import FolderResult
from gan_core.vision.sheets import encode_jpeg

GROUPS = 300
MEMBERS = 12
SIDE = 112

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; 
  max-width: 1160px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; }
.note { opacity: .75; }
main { display: flex; flex-wrap: wrap; gap: 0 2rem; }
section { border-top: 1px solid #8884; padding: 1rem 0 .8rem;
  display: flex; flex-wrap: wrap; gap: .8rem; flex: 0 1 auto; }
figure { margin: 0; width: 150px; font-size: 12px; }
figure img { width: 112px; height: 112px; object-fit: contain; background: #8882; display: block; }
figure.kept img { outline: 3px solid #2a7; }
figcaption { overflow-wrap: anywhere; margin-top: .35rem; }
figcaption span { opacity: .75; }
details { margin: 0 0 1rem; }
.more { align-self: center; opacity: .75; }
"""


def page(result: FolderResult, title: str = "Near-duplicates", most: int = GROUPS) -> str:
    """The page: groups with the least certain pair first (those are the ones to check), the kept
    image framed.

    Args:
        result: of `dedup_images`.
        most: groups shown; the table holds them all.
    """
    groups = _groups(result.table)
    order = sorted(groups, key=lambda name: (groups[name][0][1]["score"], name))
    parts = [_head(result, title, len(groups), min(len(groups), most))]
    shown = order[:most]
    theirs = result.against or result.images
    representatives = {identity: number for number, identity in enumerate(theirs.ids)}
    views = _views(result.images, [at for name in shown for at, _ in groups[name][:MEMBERS]])
    representative_views = views if result.against is None else {}
    if result.against is not None:
        representative_views = _views(theirs, [representatives[name] for name in shown])
    elif shown:
        representative_views = views | _views(
            theirs, [representatives[name] for name in shown if representatives[name] not in views]
        )
    for name in shown:
        members, at = groups[name], representatives[name]
        parts.append("<section>")
        kept = ("kept" if result.against is None else "already there") + _size(theirs, at)
        parts.append(
            _figure(
                representative_views.get(at, ""),
                _place(theirs.addresses[at], theirs.members[at]),
                kept,
                True,
            )
        )
        for number, row in members[:MEMBERS]:
            text = row["reason"] + _size(result.images, number)
            parts.append(
                _figure(views.get(number, ""), _place(row["address"], row["member"]), text, False)
            )
        if len(members) > MEMBERS:
            parts.append(f'<div class="more">and {len(members) - MEMBERS:,} more</div>')
        parts.append("</section>")
    parts.append("</main></body></html>\n")
    return "\n".join(parts)


def _groups(table: pa.Table) -> dict[str, list[tuple[int, dict[str, Any]]]]:
    """The duplicates of each group with their row numbers, the least certain first."""
    rows = np.flatnonzero(
        pc.and_(pc.not_equal(table["group"], ""), pc.invert(table["keep"])).to_numpy()
    )
    chosen = table.select(["address", "member", "group", "score", "reason"]).take(pa.array(rows))
    groups: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for number, row in zip(rows.tolist(), chosen.to_pylist(), strict=True):
        groups.setdefault(row["group"], []).append((number, row))
    for members in groups.values():
        members.sort(key=lambda item: (item[1]["score"], item[0]))
    return groups


def _head(result: FolderResult, title: str, groups: int, shown: int) -> str:
    counts = result.counts
    if result.against is None:
        lines = [
            f"{counts['in']:,} images, {counts['duplicates']:,} of them duplicates in {groups:,} "
            f"groups; {counts['kept']:,} are kept. "
            "The framed image of a group is the one that is kept."
        ]
    else:
        lines = [
            f"{counts['in']:,} images, {counts['duplicates']:,} of them are already in the "
            f"other set; {counts['kept']:,} do not. "
            "The framed image of a group is the one in the other set."
        ]
    if shown < groups:
        lines.append(
            f"The {shown:,} groups with the least certain pairs are shown; the table holds all."
        )
    lines += result.warnings
    notes = "".join(f'<p class="note">{escape(line)}</p>' for line in lines)
    return (
        '<!doctype html><html lang="en"><head><meta '
        f'charset="utf-8">{GENERATOR}<title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1>{notes}{_unread(result.images)}<main>"
    )


def _unread(images: Images, most: int = 50) -> str:
    """The files that could not be read, folded away; '' when there are none."""
    bad = [number for number, problem in enumerate(images.problems) if problem]
    if not bad:
        return ""
    items = "".join(
        f"<li>{escape(_place(images.addresses[number], images.members[number]))}: "
        f"{escape(images.problems[number])}</li>"
        for number in bad[:most]
    )
    more = f"<li>and {len(bad) - most:,} more</li>" if len(bad) > most else ""
    return (
        f"<details><summary>Files that could not be read</summary><ul>{items}{more}</ul></details>"
    )


def _size(images: Images, number: int) -> str:
    width, height = images.sizes[number].tolist()
    return f", {width}\u00a0\u00d7\u00a0{height}"


def _place(address: str, member: str) -> str:
    return f"{address} #{member}" if member else address


def _figure(image: str, address: str, text: str, kept: bool) -> str:
    kind = ' class="kept"' if kept else ""
    return (
        f'<figure{kind}><img src="{image}" alt="{escape(address)}" loading="lazy">'
        f"<figcaption>{escape(address)}<br><span>{escape(text)}</span></figcaption></figure>"
    )


def _views(images: Images, wanted: Sequence[int]) -> dict[int, str]:
    """Data addresses of small JPEGs, read from the source again; the thumbnail where that fails."""
    from gan_core.vision.decode import decode
    from gan_core.vision.image_files import UnreadableImage

    numbers = sorted(set(wanted))
    requests = [(images.addresses[number], images.members[number]) for number in numbers]
    out = {}
    for number, blob in zip(numbers, images.source.read_many(requests), strict=True):
        try:
            image = decode(blob.read())
        except UnreadableImage:
            image = np.asarray(images.thumbnails[number])
        out[number] = (
            "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(_fit(image), 80)).decode()
        )
    return out


def _fit(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=how), np.uint8)
