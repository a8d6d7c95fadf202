"""Any folder of images: class subfolders are labels, train/val/test folders above them are
splits.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from gan_core.config import Section, SourceConfig
from gan_core.datasets.base import (
    Blob,
    Entry,
    Source,
    Stamp,
    existing,
    nothing_found,
    safe_text,
    split_of,
)
from gan_core.errors import RequestError

ABOUT = (
    "any folder of images; subfolders are classes, folders called train, val or test above "
    "them are splits"
)
TITLE = "images in folders"
VERSION = 1

_IMAGES = (
    ".jpg .jpeg .jpe .jfif .png .apng .webp .gif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm "
    ".avif .jp2 .j2k .jpx .jpf"
)
_OTHERS = (
    ".txt .csv .tsv .json .jsonl .xml .md .rst .html .htm .yaml .yml .toml .ini .cfg .log .py "
    ".ipynb .sh .m .c .h .js .css"
    " .db .sqlite .zip .tar .gz .tgz .bz2 .xz .7z .rar .parquet .arrow .feather .npy .npz .mat "
    ".h5 .hdf5 .pkl .pickle .pt .pth"
    " .safetensors .onnx .bin .pdf .doc .docx .ppt .pptx .xls .xlsx .mp4 .mov .avi .mkv .webm "
    ".mp3 .wav .flac .ogg .exe .dll"
    " .so .tfrecord .lmdb .mdb .idx .sha256 .md5 .tmp .part .crdownload .lock .url .lnk .svg"
)
# Images that nothing here decodes: a row that says so, never opened (raw files would pass for the
# small TIFF within them).
_UNREAD = (
    ".heic .heif .hif .jxl .3fr .arw .cr2 .cr3 .crw .dng .erf .iiq .kdc .mef .mos .mrw .nef .nrw "
    ".orf .pef .raf .raw .rw2 .sr2"
    " .srf .srw .x3f"
)
UNREAD_ENDINGS = frozenset(_UNREAD.split())
IMAGE_ENDINGS = frozenset(_IMAGES.split())
# Files that are never opened to see whether they are images. A file with any other ending, or with
# none, is.
OTHER_ENDINGS = frozenset(_OTHERS.split())


class Options(Section):
    """How a folder of images is read."""

    masks: str = Field(
        "",
        description=(
            "subfolder with a mask for each image, under the same path and name, whatever its "
            "ending"
        ),
    )
    labels: bool = Field(True, description="subfolders are classes; false: they are mere order")
    splits: bool = Field(
        True, description="folders called train or test are splits; false: they are classes"
    )


def open_source(config: SourceConfig, location: Path | None) -> Source:
    """A folder of images.

    Raises:
        RequestError: no location, or nothing there, or it is no folder.
    """
    place = existing(config, location)
    if not place.is_dir():
        kind = {".parquet": "parquet", ".pq": "parquet", ".tar": "tar"}.get(place.suffix.lower())
        raise RequestError(
            f"{str(place)!r} is a file, and the dataset 'folder' reads folders of images.",
            expected="a folder",
            remedy=_set_dataset(config, kind) if kind else "name the folder that holds it",
        )
    return FolderSource(config, place)


class FolderSource:
    """Images in a folder and its subfolders, links followed once."""

    def __init__(self, config: SourceConfig, root: Path) -> None:
        self._config = config
        self._root = root
        self._options = Options.model_validate(config.options)
        self._masks_under = self._options.masks.strip("/")
        self.has_masks = bool(self._masks_under)
        self.ignored: dict[str, int] = {}
        self.warnings: list[str] = []
        self._stamps: list[Stamp] | None = None
        self._odd: dict[str, str] = {}
        self._problems: dict[str, str] = {}
        self._uncertain: set[str] = set()
        self._masks: dict[str, str] = {}
        self._split_folders: dict[str, str] = {}

    def stamps(self) -> list[Stamp]:
        if self._stamps is None:
            self._stamps = self._list()
        return self._stamps

    def entries(self, stamp: Stamp) -> Iterator[Entry]:
        self.stamps()
        address = stamp.address
        parts = address.split("/")
        split = self._split_folders.get(parts[0], "") if len(parts) > 1 else ""
        folders = parts[1:-1] if split else parts[:-1]
        yield Entry(
            address=address,
            label_name=folders[0] if folders and self._options.labels else "",
            split=split,
            certain=address not in self._uncertain,
            problem=self._problems.get(address, ""),
        )

    def read_many(self, requests: Sequence[tuple[str, str]]) -> Iterator[Blob]:
        if self._masks_under:
            self.stamps()
        for address, member in requests:
            path = self.path(address)
            mask = self._masks.get(_stem(address))
            yield Blob(
                address,
                member,
                path=path,
                mask_path=self.path(mask) if mask else None,
                problem=self._problems.get(address, ""),
            )

    def path(self, address: str) -> str:
        """The file behind an address."""
        if "\\x" in address:
            self.stamps()
        # a Path would cost as much as opening the file
        return f"{self._root}/{self._odd.get(address, address)}"

    def _list(self) -> list[Stamp]:
        ignored: Counter[str] = Counter()
        found: list[Stamp] = []
        masks: dict[str, Stamp] = {}
        for address, item in self._walk(ignored):
            listed = self._stamp(address, item, ignored)
            if listed is None:
                continue
            if self._masks_under and address.startswith(self._masks_under + "/"):
                masks[_stem(address[len(self._masks_under) + 1 :])] = listed
            else:
                found.append(listed)
        if masks:
            found = [self._with_mask(listed, masks) for listed in found]
        found.sort(key=lambda listed: listed.address)
        self.ignored = dict(ignored)
        if not found:
            remedy = ""
            if ignored[".parquet files"]:
                remedy = f"these are Parquet files: {_set_dataset(self._config, 'parquet')}"
                if not _may_hold_images(self._root):
                    remedy = (
                        "correct --data: the Parquet files there have no column of images either"
                    )
            elif ignored[".tar files"]:
                remedy = f"these are tar shards: {_set_dataset(self._config, 'tar')}"
            raise nothing_found(self._config, self._root, "images", ignored, remedy)
        self._find_splits(found)
        return found

    def _walk(self, ignored: Counter[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Every file that is not hidden, real folders before linked ones; each folder once, so that
        loops end.
        """
        seen: set[tuple[int, int]] = set()
        folders: list[tuple[str, str]] = [(str(self._root), "")]
        links: list[tuple[str, str]] = []
        while folders or links:
            path, prefix = folders.pop() if folders else links.pop(0)
            try:
                place = os.stat(path)
                if (place.st_dev, place.st_ino) in seen:
                    ignored["folders linked a second time"] += 1
                    continue
                seen.add((place.st_dev, place.st_ino))
                with os.scandir(path) as listing:
                    items = sorted(listing, key=lambda item: item.name)
            except OSError as error:
                self._unlistable(prefix, error)
                continue
            for item in items:
                address = prefix + self._text(item.name, prefix)
                if item.name.startswith(".") or item.name in (
                    "__MACOSX",
                    "Thumbs.db",
                    "desktop.ini",
                ):
                    ignored["hidden files"] += 1
                elif _is_folder(item):
                    (links if item.is_symlink() else folders).append((item.path, address + "/"))
                else:
                    yield address, item
            links.sort(key=lambda link: link[1])

    def _text(self, name: str, prefix: str) -> str:
        """The name as text; what had to be rewritten (or lies below it) is remembered with its real
        path.
        """
        text = safe_text(name)
        parent = self._odd.get(prefix.rstrip("/"))
        if text != name or parent:
            self._odd[prefix + text] = f"{parent}/{name}" if parent else prefix + name
        return text

    def _unlistable(self, prefix: str, error: OSError) -> None:
        if not prefix:
            raise RequestError(
                f"The folder {str(self._root)!r} may not be listed: {error.strerror}.",
                expected="a folder that this user may read",
                remedy="change its permissions (chmod u+rx) or run as a user who may",
            )
        self._problems[prefix] = f"unreadable: the folder may not be listed ({error.strerror})"
        self.warnings.append(
            f"the folder {prefix!r} may not be listed: {error.strerror}; its images are not known"
        )

    def _stamp(self, address: str, item: os.DirEntry[str], ignored: Counter[str]) -> Stamp | None:
        ending = os.path.splitext(item.name)[1].lower()
        image = ending in IMAGE_ENDINGS or ending in UNREAD_ENDINGS
        if not image and ending in OTHER_ENDINGS:
            ignored[f"{ending} files"] += 1
            return None
        try:
            status = item.stat()
        except OSError as error:
            problem = f"unreadable: {error.strerror}"
            status = item.stat(follow_symlinks=False)
        else:
            problem = "" if stat.S_ISREG(status.st_mode) else "unreadable: it is no regular file"
        if problem and not image:
            ignored["links and special files without an image's ending"] += 1
            return None
        if problem:
            self._problems[address] = problem
            return Stamp(address, 0, status.st_mtime_ns)
        if ending in UNREAD_ENDINGS:
            self._problems[address] = (
                f"unsupported: {ending[1:].upper()} files are not read; convert them to JPEG or PNG"
            )
        elif not image:
            self._uncertain.add(address)
        return Stamp(address, status.st_size, status.st_mtime_ns)

    def _with_mask(self, listed: Stamp, masks: dict[str, Stamp]) -> Stamp:
        mask = masks.get(_stem(listed.address))
        if mask is None:
            return listed
        self._masks[_stem(listed.address)] = mask.address
        return Stamp(
            listed.address, listed.bytes, listed.mtime_ns, f"mask {mask.bytes} {mask.mtime_ns}"
        )

    def _find_splits(self, found: list[Stamp]) -> None:
        """Top folders with a split's name are splits when one is the training split or all have
        such names.
        """
        tops = sorted(
            {listed.address.partition("/")[0] for listed in found if "/" in listed.address}
        )
        splits = {top: split_of(top) for top in tops if split_of(top)}
        if (
            not self._options.splits
            or not splits
            or not ("train" in splits.values() or len(splits) == len(tops))
        ):
            return
        self._split_folders = splits
        others = [top for top in tops if top not in splits]
        if others:
            self.warnings.append(
                f"next to the splits {', '.join(sorted(splits))} there are the folders "
                f"{', '.join(others[:5])}, taken for classes"
            )


def _set_dataset(config: SourceConfig, kind: str) -> str:
    return (
        f"--set sources.train.{config.name}.dataset={kind} (sources.evaluate.{config.name} "
        "where it is only evaluated)"
    )


def _may_hold_images(folder: Path, most: int = 5) -> bool:
    """Whether one of the first Parquet files has a column of images, or cannot be read to
    see it.
    """
    from gan_core.datasets.parquet import holds_images, parquet_files

    return any(holds_images(path) is not False for _, path in parquet_files(folder)[:most])


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link to itself
        return False


def _stem(address: str) -> str:
    return os.path.splitext(address)[0]
