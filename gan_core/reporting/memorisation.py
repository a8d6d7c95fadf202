"""Whether the generator draws its training pictures: the collision rate in a sentence, near samples beside their training pictures."""

from __future__ import annotations

from typing import Any

from gan_core.reporting.facts import RunFacts
from gan_core.reporting.gather import ReportInputs
from gan_core.reporting.intervals import wilson
from gan_core.reporting.pictures import Picture, sheet_picture
from gan_core.reporting.words import count, listed, percent


def memorisation(inputs: ReportInputs, facts: RunFacts, size: int | None) -> dict[str, Any] | None:
    """{sentence, picture, caption} of the trained generator; None where nothing was looked up. Args: size: side of a picture in pixels."""
    found = next(
        (said for entry in facts.of_stage("train") if (said := (entry.get("summary") or {}).get("memorisation"))), None
    )
    if not found:
        return None
    picture: Picture | None = None
    bits = [int(value) for value in found.get("near_bits") or []]
    paths = [folder / "near.png" for folder in inputs.snapshot if (folder / "near.png").is_file()]
    if bits and paths:
        picture = sheet_picture(paths[0], size, alt="samples above, the training pictures nearest to them below")
    return {"sentence": sentence(found), "picture": picture, "caption": caption(bits)}


def sentence(found: dict[str, Any]) -> str:
    """The collision rate with its interval, and the yardsticks: what training pictures do among themselves."""
    samples, collisions = int(found["samples"]), int(found["collisions"])
    low, high = wilson(float(found["collision_rate"]), samples)
    first = "None" if not collisions else f"{collisions:,}"
    verb = "has" if collisions == 1 else "have"
    return (
        f"{first} of {count(samples, 'sample')} ({percent(found['collision_rate'], 2)}, 95 % interval {100 * low:.2f} to "
        f"{percent(high, 2)}) {verb} the code of a training picture; {percent(found['real_collision_rate'], 2)} of the training pictures "
        f"have the code of another one. Half of the samples are within {found['nearest_median']:g} of 128 bits of a training picture, half "
        f"of the training pictures within {found['real_nearest_median']:g} of another."
    )


def caption(bits: list[int]) -> str:
    """What stands under the pairs."""
    told = listed(str(value) for value in bits)
    return f"Samples (above) and the training pictures nearest to them (below), {told} bits apart."
