"""A run whose stages are all cached notices bytes that have changed since they were written."""

from __future__ import annotations

import os
from pathlib import Path

from gan_core.artifacts.store import Store
from gan_core.pipeline.request import RunRequest, as_typed, prepare
from tests.faults.hostile import encoded, photo
from tests.faults.test_hostile_images import prepare_folder


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_flipped_byte_is_noticed_and_its_artifact_made_again(tmp_path: Path) -> None:
    data, home = tmp_path / "images", tmp_path / "home"
    data.mkdir()
    for number in range(8):
        (data / f"{number}.png").write_bytes(encoded(photo(number), "PNG"))
    prepare_folder(data, home)
    store = Store(home)
    request = RunRequest(
        recipe="folder",
        scale="debug",
        overrides=["threads=2"],
        data=[str(data)],
        home=str(home),
        device="cpu",
        until="crop",
    )

    def to_do(*, verify: bool = False) -> dict[str, str]:
        prepared = prepare(request.model_copy(update={"verify": verify}), store)
        assert not prepared.request.verify and not prepared.settings.verify
        return {status.node.id: status.why for status in prepared.to_do}

    assert to_do() == {}
    (pixels, *_) = sorted((home / "artifacts" / "crop").rglob("pixels-*.npy"))
    before, status = pixels.read_bytes(), pixels.stat()
    flip(pixels)
    assert to_do() == {"crop:folder": "its artifact is gone or damaged"}
    assert not prepare_folder(data, home)["crop:folder"].cached
    assert pixels.read_bytes() == before and to_do() == {}

    # Damage of the disk leaves no trace in the time of change.
    status = pixels.stat()
    flip(pixels)
    os.utime(pixels, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert to_do() == {}
    why = f"damaged: {pixels.name} has other content than when it was written"
    assert to_do(verify=True) == {"crop:folder": why}
    assert to_do() == {"crop:folder": "its artifact is gone or damaged"}
    assert not prepare_folder(data, home)["crop:folder"].cached
    assert pixels.read_bytes() == before and to_do(verify=True) == {}


def test_verify_is_part_of_what_was_typed() -> None:
    request = RunRequest(recipe="digits", home="/h", verify=True)
    assert as_typed(request) == "discern run digits --verify"
