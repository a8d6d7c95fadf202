"""Writes the report: summary.json (content), report.html and its figures (by-products)."""

from __future__ import annotations

import logging

from gan_core.contract import StageOutcome, StageRequest
from gan_core.files import atomic_write_bytes, write_json
from gan_core.progress import Progress

log = logging.getLogger(__name__)


def run(request: StageRequest, progress: Progress) -> StageOutcome:
    """Reads every artifact of the run; it states what is missing (labels, duplicates, a
    GAN).
    """
    from gan_core.reporting.cards import cards
    from gan_core.reporting.inputs import ReportInputs
    from gan_core.reporting.page import figure_files, render
    from gan_core.reporting.run_info import RunFacts
    from gan_core.reporting.summary import summarise

    inputs = ReportInputs.of(request)
    summary = summarise(inputs)
    request.work.mkdir(parents=True, exist_ok=True)
    write_json(request.work / "summary.json", summary)
    progress(1, 3, "parts")
    for name, data in figure_files(summary, inputs).items():
        atomic_write_bytes(request.work / name, data)
    for name, text in cards(summary).items():
        atomic_write_bytes(request.work / name, text.encode())
    progress(2, 3, "parts")
    page = render(summary, inputs, RunFacts.of(request.context))
    atomic_write_bytes(request.work / "report.html", page.encode())
    progress(3, 3, "parts")
    log.info("report of %d kB", len(page) // 1024)
    return StageOutcome(
        counts={"scores": len(summary["scores"]), "failures": summary["failures"]["total"]},
        summary={
            "title": summary["title"],
            "sentence": summary["sentence"],
            "verdict": summary["verdict"],
            "leaks": summary["leaks"],
            "page": "report.html",
        },
        warnings=list(summary["checks"]),
    )
