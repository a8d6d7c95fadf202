"""A dataset from outside the project, with a planted fault: the digits, whose file cannot be had
the first few times.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from gan_core.config import Section, SourceConfig
from gan_core.datasets.base import Entry, Source, Stamp
from gan_core.datasets.digits import DigitsSource
from gan_core.errors import DataError, TransientError

ABOUT = "the digits, not at once"
NEEDS_LOCATION = False


class Options(Section):
    """How it fails."""

    counter: str = ""
    failures: int = 0
    kind: str = "transient"


def open_source(config: SourceConfig, location: Path | None) -> Source:
    source = FlakyDigits(config)
    if source.kind == "crop" and sys._getframe(1).f_globals["__name__"] == "gan_core.stages.crop":
        source.fail()
    return source


class FlakyDigits(DigitsSource):
    """Fails `options.failures` times, counted in the file `options.counter`.

    Kind 'transient' fails at ingest as what may pass, 'data' at ingest for good, 'crop' at crop for
    good.
    """

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config.model_copy(update={"options": {}}))
        options = Options.model_validate(config.options)
        self.counter = Path(options.counter)
        self.failures = options.failures
        self.kind = options.kind

    def entries(self, stamp: Stamp) -> Iterator[Entry]:
        if self.kind != "crop":
            self.fail()
        yield from super().entries(stamp)

    def fail(self) -> None:
        tried = int(self.counter.read_text()) if self.counter.exists() else 0
        self.counter.write_text(str(tried + 1))
        if tried < self.failures:
            if self.kind == "transient":
                raise TransientError("the line was busy")
            raise DataError("the file is wrong and stays wrong", remedy="another file")
