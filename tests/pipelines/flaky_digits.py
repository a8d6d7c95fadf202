"""A dataset from outside the project, with a planted fault: the digits, whose file cannot be had the first few times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gan_core.config import SourceConfig
from gan_core.datasets.base import Entry, Source, Stamp
from gan_core.datasets.digits import DigitsSource
from gan_core.errors import DataError, TransientError

ABOUT = "the digits, not at once"
NEEDS_LOCATION = False


def open_source(config: SourceConfig, location: Path | None) -> Source:
    return FlakyDigits(config)


class FlakyDigits(DigitsSource):
    """Fails `options.failures` times, counted in the file `options.counter`; kind 'data' fails for good."""

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config.model_copy(update={"options": {}}))
        self.counter = Path(config.options["counter"])
        self.failures = int(config.options["failures"])
        self.kind = str(config.options.get("kind", "transient"))

    def entries(self, stamp: Stamp) -> Iterator[Entry]:
        tried = int(self.counter.read_text()) if self.counter.exists() else 0
        self.counter.write_text(str(tried + 1))
        if tried < self.failures:
            if self.kind == "data":
                raise DataError("the file is wrong and stays wrong", remedy="another file")
            raise TransientError("the line was busy")
        yield from super().entries(stamp)
