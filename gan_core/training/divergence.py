"""Signs that a training has failed, checked at every line of statistics.

    nan          losses or weights are not finite
    certain      score of real minus score of generated images, mean over the interval: above 0.997;
                 above 0.99 three intervals in a row
    constant     standard deviation over the 64 fixed latents, mean over pixels: below 2 % of the
                 real images'
    few          median distance of these 64 samples to the nearest other, over that to any other:
                 below a quarter of the real images'
    oscillating  share of the variation within images in one fine stripe common to all latents:
                 above 20 % and twice the least so far
    spike        largest singular value of each layer's weights: over twice the value before

One interval is enough once the first five are over: a young training may be `certain` (three
intervals in a row count there) or `constant` (two) and recover; `few`, `oscillating` and `spike` do
not count there. docs/training.md has what healthy trainings of the recipes show. `oscillating` is
the failure that the DCGAN paper names: with longer training a subset of filters collapses to a
single oscillating mode; what to measure is ours: in the authors' SVHN generator and in our own
healthy ones the share is below 0.6 %; young weights draw checks too, up to 27 %. `spike`: the
BigGAN paper saw the largest singular values of G jump before a collapse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gan_core.config import Section
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import Block

CERTAIN, CERTAIN_AT_ONCE = 0.99, 0.997  # losses of 0.01 and 0.003
CONSTANT = 0.02
FEW = 0.25
OSCILLATING = 0.2
SPIKE = 2.0
WARM_UP = 5  # intervals: young weights grow fast
SENTENCES = {
    "nan": "a loss or a weight is no finite number ({name})",
    "certain": (
        "the discriminator is certain of everything (score of real images minus score of "
        "generated ones: {value:.4f})"
    ),
    "constant": (
        "the generator gives the same image for every latent ({value:.2%} of the real "
        "images' variation)"
    ),
    "few": (
        "the generator draws a few images over and over (a sample's nearest is {value:.1%} as "
        "far as others; {name} among real ones)"
    ),
    "oscillating": (
        "the generator draws one fine stripe pattern into every image ({value:.1%} of "
        "their variation)"
    ),
    "spike": (
        "the largest singular value of {name} jumped to {value:.1f} times what it was one "
        "interval before"
    ),
}
# what ends a training under `on_divergence: stop`; the others are warnings there
STOPPING = {"nan", "certain", "constant"}
_SLOWER, _AUGMENTED, _MODERN = (
    "a lower train.learning_rate",
    "train.options.augment=[color,translation,cutout]",
    "train.options.mode=modern",
)
REMEDIES = {
    "nan": (_SLOWER, "train.precision=float32"),
    "certain": ("more images", _AUGMENTED, "a narrower network"),
    "constant": (_SLOWER, _MODERN),
    "few": ("more images", _AUGMENTED, _SLOWER),
    "oscillating": ("an earlier snapshot (train.snapshot_kimg)", _SLOWER),
    "spike": (_SLOWER, "train.options.spectral_norm=true"),
}


def remedy(sign: str, options: Section) -> str:
    """What to try: options that the method lacks are left out, and what its mode paper refuses goes
    with the other mode. Args: options: the method's.
    """
    known, mode = type(options).model_fields, getattr(options, "mode", "")
    tried = []
    for text in REMEDIES[sign]:
        option = text.removeprefix("train.options.").split("=")[0]
        ours = text.startswith("train.options.")
        if ours and (option not in known or (text == _MODERN and mode == "modern")):
            continue
        tried.append(
            f"{_MODERN} with {text}" if ours and mode == "paper" and text != _MODERN else text
        )
    return f"{', '.join(tried[:-1])}, or {tried[-1]}" if len(tried) > 1 else tried[0]


@dataclass(frozen=True)
class Finding:
    """A sign seen at a place of the training."""

    kimg: float
    sign: str
    sentence: str

    def as_json(self) -> dict[str, Any]:
        return {"kimg": self.kimg, "sign": self.sign, "sentence": self.sentence}


@dataclass
class Monitor:
    """Remembers what it needs from one line of statistics to the next; `state` is plain JSON, part
    of the state.
    """

    real_variation: float
    real_spacing: float = 1.0
    real_contrast: float = 1.0
    consecutive: dict[str, int] = field(default_factory=dict)
    sigmas: dict[str, float] = field(default_factory=dict)
    reported: list[str] = field(default_factory=list)
    least_oscillation: float = 1.0
    intervals: int = 0

    def state(self) -> dict[str, Any]:
        return {
            "consecutive": dict(self.consecutive),
            "sigmas": dict(self.sigmas),
            "reported": list(self.reported),
            "least_oscillation": self.least_oscillation,
            "intervals": self.intervals,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` gave."""
        self.consecutive, self.sigmas = dict(state["consecutive"]), dict(state["sigmas"])
        self.reported = list(state["reported"])
        self.least_oscillation, self.intervals = (
            float(state["least_oscillation"]),
            int(state["intervals"]),
        )

    @property
    def clean(self) -> bool:
        """Whether the last check found nothing, not even a sign that is still given time."""
        return not self.consecutive

    def check(self, line: Mapping[str, Any]) -> list[Finding]:
        """Signs in a line of statistics that count from this line on: each is reported once for as
        long as it lasts.
        """
        seen, young = self._signs(line), self.intervals < WARM_UP
        self.consecutive = {sign: self.consecutive.get(sign, 0) + 1 for sign in seen}
        self.intervals += 1
        counts = {
            sign
            for sign, (_, value) in seen.items()
            if self.consecutive[sign] >= patience(sign, value, young)
        }
        new = counts - set(self.reported)
        self.reported = sorted(counts | (set(self.reported) & set(seen)))
        if math.isfinite(line.get("oscillation", math.nan)):
            self.least_oscillation = min(self.least_oscillation, float(line["oscillation"]))
        sigmas = {name: value for name, value in line.items() if name.startswith("sigma_")}
        self.sigmas = {name: float(value) for name, value in sigmas.items() if math.isfinite(value)}
        return [
            Finding(float(line["kimg"]), sign, SENTENCES[sign].format(name=name, value=value))
            for sign, (name, value) in seen.items()
            if sign in new
        ]

    def _signs(self, line: Mapping[str, Any]) -> dict[str, tuple[str, float]]:
        broken = [
            name
            for name, value in line.items()
            if isinstance(value, float) and not math.isfinite(value)
        ]
        if broken:
            return {"nan": (broken[0], math.nan)}
        seen: dict[str, tuple[str, float]] = {}
        gap = line.get("score_real", 0.5) - line.get("score_fake", 0.5)
        if gap > CERTAIN:
            seen["certain"] = ("", gap)
        variation = line.get("variation", self.real_variation) / max(self.real_variation, 1e-6)
        if variation < CONSTANT and self.real_variation > 1e-3:
            seen["constant"] = ("", variation)
        elif self.intervals >= WARM_UP and line.get("spacing", 1.0) < FEW * self.real_spacing:
            seen["few"] = (f"{self.real_spacing:.1%}", line["spacing"])
        if self.intervals >= WARM_UP and line.get("oscillation", 0.0) > max(
            OSCILLATING, 2 * self.least_oscillation
        ):
            seen["oscillating"] = ("", line["oscillation"])
        jumps = {
            name: line[name] / before
            for name, before in self.sigmas.items()
            if name in line and before > 0
        }
        if jumps and self.intervals >= WARM_UP:
            name = max(jumps, key=lambda key: jumps[key])
            if jumps[name] > SPIKE:
                seen["spike"] = (name.removeprefix("sigma_").replace("_", " "), jumps[name])
        return seen


def patience(sign: str, value: float, young: bool) -> int:
    """How many intervals running a sign must be seen to count."""
    if sign == "certain":
        return 3 if young or value <= CERTAIN_AT_ONCE else 1
    return 2 if sign == "constant" and young else 1


def variation(images: Tensor) -> Tensor:
    """Standard deviation over images [N, C, S, S], mean over pixels and channels: scalar
    float32.
    """
    spread: Tensor = images.float().std(0, correction=0)
    return spread.mean()


def contrast(images: Tensor) -> Tensor:
    """Standard deviation within an image of [N, C, S, S], mean over images: scalar float32. A
    discriminator that cannot see contrast lets a generator's drift.
    """
    within: Tensor = images.float().flatten(1).std(1, correction=0)
    return within.mean()


def spacing(images: Tensor) -> Tensor:
    """How far an image of [N, C, S, S] is from its nearest other one, as a share of how far it is
    from any: medians over images, scalar float32. Near 0 where a few images come again and again.
    Images are halved first: noise is no difference."""
    x = torch.nn.functional.avg_pool2d(images.float(), 2).flatten(1)
    count = len(x)
    distance = torch.cdist(x, x)
    # all but the diagonal, by shapes alone: picking by a mask would make the host wait for the
    # device
    others = distance.flatten()[1:].view(count - 1, count + 1)[:, :-1].reshape(count, count - 1)
    share: Tensor = others.min(1).values.median() / others.median().clamp_min(1e-9)
    return share


def oscillation(images: Tensor) -> Tensor:
    """Largest share of the variation within images [N, C, S, S] that lies in one spatial frequency
    of at least a quarter cycle per pixel with the same phase in every image: scalar in 0..1, the
    largest over channels."""
    x = images.float()
    x = x - x.mean((2, 3), keepdim=True)
    height, width = x.shape[2:]
    spectrum = torch.fft.rfft2(x)
    # rfft2 leaves out the mirrored half: its columns count twice, the first and a middle one once
    weight = torch.full((width // 2 + 1,), 2.0, device=x.device)
    weight[0] = 1.0
    if width % 2 == 0:
        weight[-1] = 1.0
    total = (spectrum.abs().square() * weight).sum((2, 3)).mean(0)
    common = spectrum.mean(0).abs().square() * weight
    rows = torch.fft.fftfreq(height, device=x.device).abs()[:, None]
    columns = torch.fft.rfftfreq(width, device=x.device)[None]
    fine = (
        torch.maximum(rows.expand(height, width // 2 + 1), columns.expand(height, width // 2 + 1))
        >= 0.25
    )
    share: Tensor = (common * fine).flatten(1).max(1).values / total.clamp_min(1e-9)
    return share.max()


def largest_singular_value(weight: Tensor, rounds: int = 8) -> Tensor:
    """Largest singular value of [out, ...] as a matrix [out, rest], by power iteration from a fixed
    start: a lower bound, within a few per cent after 8 rounds."""
    matrix = weight.detach().flatten(1).float()
    vector = torch.ones(matrix.shape[0], device=matrix.device) + 0.1 * torch.cos(
        torch.arange(matrix.shape[0], device=matrix.device, dtype=torch.float32)
    )
    length: Tensor = vector.norm()
    for _ in range(rounds):
        across = matrix.T @ vector
        vector = matrix @ (across / across.norm().clamp_min(1e-30))
        length = vector.norm()
        vector = vector / length.clamp_min(1e-30)
    return length


def weight_matrices(layer: Block) -> dict[str, Tensor]:
    """A layer's weights with outputs first, by the name within it; under spectral norm those before
    the division.
    """
    found = {}
    for name, module in layer.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            # reading .weight of a parametrised module would iterate
            normed = getattr(module, "parametrizations", None)
            weight = module.weight if normed is None else normed["weight"].original
            turned = isinstance(module, nn.ConvTranspose2d)
            found[name] = weight.transpose(0, 1) if turned else weight
    return found


def layer_sigmas(networks: Mapping[str, LayeredNetwork]) -> dict[str, Tensor]:
    """Largest singular value of every layer's weights, by 'sigma_<role>_<layer>', with the name
    within the layer where it has several.
    """
    found = {}
    for role, network in networks.items():
        for info in network.layers():
            weights = weight_matrices(network.layer(info.name))
            for name, weight in weights.items():
                within = f"_{name}" if len(weights) > 1 else ""
                found[f"sigma_{role}_{info.name}{within}"] = largest_singular_value(weight)
    return found
