"""`discern similar IMAGE --features ARTIFACT`: a sheet of an image and its nearest neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from flows.commands import console
from flows.commands.options import HomeOption, JsonOption
from flows.home import open_store, resolve_home
from gan_core.artifacts.manifest import Manifest, read_manifest
from gan_core.artifacts.store import Store
from gan_core.contract import ArtifactRef
from gan_core.errors import MOST_NAMES, RequestError, nearest
from gan_core.features.parquet import read_rows
from gan_core.features.similar import most_similar
from gan_core.files import atomic_write_bytes
from gan_core.shards import PixelShards
from gan_core.vision.sheets import encode_png, sheet

SIDE = 96  # pixels of an image on the sheet, at least


def similar(
    image: Annotated[str, typer.Argument(help="an image id, or the end of an image's address")],
    features: Annotated[str, typer.Option("--features", help="extract artifact, by key or folder")],
    count: Annotated[int, typer.Option("-k", min=1, help="how many neighbours")] = 20,
    out: Annotated[Path, typer.Option("--out", help="the contact sheet to write")] = Path(
        "similar.png"
    ),
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> int:
    """Writes the sheet and prints the neighbours."""
    store = open_store(resolve_home(home))
    manifest, folder = _artifact(store, features)
    rows = read_rows(folder)
    row = _find(store, manifest, rows, image)
    found, cosines = most_similar(folder, row, count)
    (crops,) = manifest.inputs["crops"]
    shards = PixelShards(store.path(crops))
    shown = pa.concat_tables([rows.slice(row, 1), found.select(rows.column_names)])
    images = shards.pixels(shards.rows_of(shown["image_id"].to_pylist(), shown["box"].to_pylist()))
    images = images.repeat(-(-SIDE // images.shape[1]), 1).repeat(-(-SIDE // images.shape[2]), 2)
    labels = [str(label) if label is not None else "" for label in found["label"].to_pylist()]
    captions = ["query", *(f"{c:.2f} {label}" for c, label in zip(cosines, labels, strict=True))]
    atomic_write_bytes(out, encode_png(sheet(images, captions=captions)))
    neighbours: list[dict[str, Any]] = [
        {"image_id": name, "cosine": round(float(c), 6), "label": label, "split": split}
        for name, c, label, split in zip(
            found["image_id"].to_pylist(),
            cosines,
            found["label"].to_pylist(),
            found["split"].to_pylist(),
            strict=True,
        )
    ]
    if as_json:
        console.print_json(
            {"image_id": rows["image_id"][row].as_py(), "neighbours": neighbours, "sheet": str(out)}
        )
        return 0
    for one in neighbours:
        print(f"{one['cosine']:.3f}  {one['image_id']}  label {one['label']}, {one['split']}")
    print(f"sheet     {out}")
    return 0


def _artifact(store: Store, wanted: str) -> tuple[Manifest, Path]:
    """The extract artifact whose name begins so, or whose folder this is."""
    names = {f"{ref.stage}/{ref.key}/{ref.digest}": ref for ref in store.artifacts.refs()}
    names = {name: ref for name, ref in names.items() if ref.stage == "extract"}
    if Path(wanted).is_file():  # a features-*.parquet of it
        wanted = str(Path(wanted).parent)
    asked = wanted.removeprefix("extract/")
    for name, ref in names.items():
        folder = store.path(ref)
        named = name.removeprefix("extract/").startswith(asked)
        if (named or folder.resolve() == Path(wanted).resolve()) and (
            manifest := read_manifest(folder)
        ):
            return manifest, folder
    if other := read_manifest(Path(wanted)):
        raise RequestError(
            f"{wanted} is an artifact of stage {other.stage}.",
            expected="an artifact of stage extract of this home, such as "
            + next(iter(names), "HOME/artifacts/extract/KEY/DIGEST"),
            remedy="run.json of a run names its artifacts; `discern extract RECIPE` makes one",
        )
    here = sorted(f"extract/{ref.key[:12]} ({_node(store, ref)})" for ref in names.values())
    raise RequestError(
        f"There is no artifact of features called {wanted!r} in {store.home}.",
        expected=f"one of {', '.join(here[:MOST_NAMES])}"
        if here
        else "features: none are in this home",
        remedy="`discern extract RECIPE` makes one; --home names another home",
    )


def _node(store: Store, ref: ArtifactRef) -> str:
    manifest = store.find(ref.stage, ref.key)
    return manifest.node.removeprefix("extract:") if manifest else "replaced"


def _find(store: Store, manifest: Manifest, rows: pa.Table, image: str) -> int:
    """The row of an image: by its id, or by the end of its address in the source."""
    ids: list[str] = rows["image_id"].to_pylist()
    if image in ids:
        return ids.index(image)
    (crops,) = manifest.inputs["crops"]
    of_crops = read_manifest(store.path(crops))
    assert of_crops is not None
    (ingested,) = of_crops.inputs["images"]
    table = pq.read_table(store.path(ingested) / "images.parquet", columns=["image_id", "address"])
    ends = table.filter(pc.ends_with(table["address"], image))
    known = set(ids)
    having = [one for one in ends["image_id"].to_pylist() if one in known]
    if len(having) == 1:
        return ids.index(having[0])
    of_these = table.filter(pc.is_in(table["image_id"], pa.array(ids)))["address"].to_pylist()
    near = nearest(image, of_these)
    raise RequestError(
        f"{len(having)} images of these features have an address that ends in {image!r}"
        + (f"; did you mean {near!r}?" if near and not having else "."),
        expected=f"an image of these features: its id, such as {ids[0]}, or the end of its address "
        "in its source",
        remedy="columns image_id and address of the source's images.parquet name them all; "
        "`discern dedup FOLDER --against SET` finds near-duplicates of images from elsewhere",
    )
