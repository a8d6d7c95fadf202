"""Whether the generator draws its training images: the collision rate in a sentence, near samples
beside their training images.
"""

from __future__ import annotations

from typing import Any

from gan_core.metrics.intervals import wilson
from gan_core.reporting.images import Image, sheet_image
from gan_core.reporting.inputs import ReportInputs
from gan_core.reporting.run_info import RunFacts
from gan_core.reporting.sentences import count, listed, percent


def memorisation(inputs: ReportInputs, facts: RunFacts, size: int | None) -> dict[str, Any] | None:
    """{sentence, image, caption} of the trained generator; None where nothing was looked up. Args:
    size: side of an image in pixels.
    """
    found = next(
        (
            said
            for entry in facts.of_stage("train")
            if (said := (entry.get("summary") or {}).get("memorisation"))
        ),
        None,
    )
    if not found:
        return None
    image: Image | None = None
    bits = [int(value) for value in found.get("near_bits") or []]
    paths = [folder / "near.png" for folder in inputs.snapshot if (folder / "near.png").is_file()]
    if bits and paths:
        image = sheet_image(
            paths[0], size, alt="samples above, the training images nearest to them below"
        )
    return {"sentence": sentence(found), "image": image, "caption": caption(bits)}


def sentence(found: dict[str, Any]) -> str:
    """The collision rate with its interval, and the yardsticks: what training images do among
    themselves.
    """
    samples, collisions = int(found["samples"]), int(found["collisions"])
    low, high = wilson(float(found["collision_rate"]), samples)
    first = "None" if not collisions else f"{collisions:,}"
    verb = "has" if collisions == 1 else "have"
    return (
        f"{first} of {count(samples, 'sample')} ({percent(found['collision_rate'], 2)}, 95 % "
        f"interval {100 * low:.2f} to "
        f"{percent(high, 2)}) {verb} the code of a training image; "
        f"{percent(found['real_collision_rate'], 2)} of the training images "
        "have the code of another one. Half of the samples are within "
        f"{found['nearest_median']:g} of 128 bits of a training image, half "
        f"of the training images within {found['real_nearest_median']:g} of another."
    )


def caption(bits: list[int]) -> str:
    """What stands under the pairs."""
    told = listed(str(value) for value in bits)
    return f"Samples (above) and the training images nearest to them (below), {told} bits apart."
