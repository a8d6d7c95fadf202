"""Makes the images that pipelines meet in the wild, and those made to break them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def photo(seed: int, width: int = 48, height: int = 40) -> Image.Image:
    """A smooth random image, different for every seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_that_declares(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header declares a huge image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def hostile_folder(root: Path) -> tuple[set[str], set[str]]:
    """Fills `root`; returns (names that must be readable, names that must fail with a reason)."""
    root.mkdir(parents=True, exist_ok=True)
    grey16 = Image.fromarray(np.asarray(photo(1).convert("L")).astype(np.uint16) * 257)
    rotated = photo(2)
    exif = rotated.getexif()
    exif[0x0112] = 6
    frames = [photo(seed) for seed in (30, 31)]
    jpeg = encoded(photo(4), "JPEG", quality=90)
    png = encoded(photo(5), "PNG")
    good = {
        "plain.jpg": jpeg,
        "grey16.png": encoded(grey16, "PNG"),
        "cmyk.jpg": encoded(photo(6).convert("CMYK"), "JPEG"),
        "palette.png": encoded(photo(7).convert("P"), "PNG"),
        "alpha.png": encoded(photo(8).convert("RGBA"), "PNG"),
        "animated.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "rotated.jpg": encoded(rotated, "JPEG", exif=exif),
        "a png named.jpg": encoded(photo(9), "PNG"),
        "sub/ünïcode 名.png": encoded(photo(10), "PNG"),
        "webp.webp": encoded(photo(11), "WEBP"),
        "grey.jpg": encoded(photo(12).convert("L"), "JPEG"),
    }
    bad = {
        "empty.jpg": b"",
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "truncated.png": png[: len(png) // 2],
        "text.jpg": b"This is not an image at all, whatever its name says.\n" * 5,
        "bomb.png": png_that_declares(50_000, 50_000),
    }
    for name, data in {**good, **bad}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "sub" / "loop").symlink_to(root, target_is_directory=True)
    (root / "dangling.png").symlink_to(root / "nowhere.png")
    (root / "notes.txt").write_text("no image, and not named like one")
    return set(good), set(bad)


def mutated_header(data: bytes, rng: np.random.Generator) -> bytes:
    """The file with a few fields of its first 64 bytes set to extreme values; PNG chunks keep a
    right checksum, so that the values are believed.
    """
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        extreme = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
        width = int(rng.choice([1, 2, 4]))
        if data.startswith(b"\x89PNG"):
            at = int(rng.choice([16, 20, 24, 25, 28]))
        else:
            at = int(rng.integers(2, max(3, min(64, len(data) - 4))))
        changed[at : at + width] = bytes([extreme]) + bytes([0xFF if extreme else 0]) * (width - 1)
    if data.startswith(b"\x89PNG"):
        changed[29:33] = struct.pack(">I", zlib.crc32(changed[12:29]))
    return bytes(changed)


def png_with_frames(frames: int, width: int = 4, height: int = 4) -> bytes:
    """An animated PNG whose acTL chunk declares so many frames."""
    plain = encoded(photo(3, width, height), "PNG")
    body = b"acTL" + struct.pack(">II", frames, 0)
    control = struct.pack(">I", 8) + body + struct.pack(">I", zlib.crc32(body))
    return plain[:33] + control + plain[33:]
