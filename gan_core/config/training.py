"""Section `train`: the method, the network and their schedule."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gan_core.config.plugins import Method, MethodOptions, Network, NetworkOptions
from gan_core.validation import Section

Processes = Annotated[int, Field(ge=1, le=1024)] | Literal["auto"]


class NetworkConfig(Section):
    """An architecture and its width."""

    name: Network = Field(
        "dcgan32_svhn", description="file name in gan_core/networks, or a dotted path"
    )
    width: float = Field(1.0, gt=0, le=8, description="factor on every layer's number of maps")
    latent_dim: int | None = Field(None, ge=1, description="None: the network's own")
    options: NetworkOptions = Field(default_factory=dict, description="settings of the network")


class ScheduleConfig(Section):
    """The learning rate over a training: a factor on it, as a function of kimg."""

    kind: Literal["constant", "linear", "cosine", "exponential"] = "constant"
    warmup_kimg: float = Field(0.0, ge=0, description="linear rise from 0 at the beginning")
    from_kimg: float = Field(0.0, ge=0, description="the factor is 1 until here, then it falls")
    until_kimg: float | None = Field(
        None, gt=0, description="`final` is reached here; None: at train.kimg"
    )
    final: float = Field(0.0, ge=0, le=1, description="last factor; exponential: above 0")

    @model_validator(mode="after")
    def _exponential_ends_above_zero(self) -> ScheduleConfig:
        if self.kind == "exponential" and self.final == 0:
            raise ValueError("an exponential schedule needs `final` above 0, such as 0.01")
        return self

    def factor(self, kimg: float, length: float) -> float:
        """The factor on the rate at `kimg`. Args: length: train.kimg."""
        warm = min(1.0, kimg / self.warmup_kimg) if self.warmup_kimg else 1.0
        if self.kind == "constant":
            return warm
        until = self.until_kimg or length
        t = min(1.0, max(0.0, kimg - self.from_kimg) / max(until - self.from_kimg, 1e-9))
        if self.kind == "exponential":
            return float(warm * self.final**t)
        falling = 1 - t if self.kind == "linear" else (1 + math.cos(math.pi * t)) / 2
        return warm * (self.final + (1 - self.final) * falling)


class TrainConfig(Section):
    """How the GAN is trained. Lengths are in kimg: thousands of real images shown to the
    discriminator.
    """

    method: Method = Field("dcgan", description="file name in gan_core/methods, or a dotted path")
    options: MethodOptions = Field(default_factory=dict, description="settings of the method")
    network: NetworkConfig = NetworkConfig()
    snapshot: str | None = Field(
        None,
        description="name of an imported snapshot to use instead of training (`discern import`)",
    )
    start: str | None = Field(
        None,
        description=(
            "the snapshot of another training to start from: its file, or the address of a train "
            "artifact; its digest is in the key"
        ),
    )
    kimg: float = Field(1000.0, gt=0)
    batch: int = Field(128, ge=2)
    accumulate: int = Field(
        1,
        ge=1,
        description="gradient accumulation: parts that a batch is split into, to save memory",
    )
    learning_rate: float = Field(2e-4, gt=0)
    schedule: ScheduleConfig = ScheduleConfig()
    beta1: float = Field(0.5, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    weight_decay: float = Field(
        1e-5, ge=0, description="added to the gradient before Adam's moments, as the authors do"
    )
    ema_kimg: float = Field(
        10.0, ge=0, description="half-life of the averaged generator (modern); 0 is off"
    )
    flip: bool = Field(False, description="mirror each real image with probability one half")
    processes: Processes = Field(
        1,
        description=(
            "training processes on this machine, each with its share of a batch; auto: "
            "one for each GPU"
        ),
    )
    synchronise_norms: bool = Field(
        True,
        description=(
            "with several processes: batch norm over all of them, or each over its own share"
        ),
    )
    probe_kimg: float = Field(
        0.0,
        ge=0,
        description=(
            "kimg between two fits of a linear probe, scored on validation labels of the training "
            "images; 0: no probe"
        ),
    )
    choose: Literal["last", "best_probe"] = Field(
        "last",
        description=(
            "the snapshot whose features are extracted; best_probe: the one with the best accuracy "
            "of that probe (stated in every result)"
        ),
    )
    precision: Literal["auto", "float32", "bf16"] = Field(
        "float32", description="auto: bf16 where the processor has units for it"
    )
    compile: Literal["auto", "off", "graphs"] = Field(
        "auto",
        description=(
            "graphs: each step as one CUDA graph; auto: graphs on a GPU where training is long "
            "enough to pay, off on a CPU (docs/benchmarks.md)"
        ),
    )
    log_kimg: float = Field(2.0, gt=0, description="kimg between two lines of statistics")
    grid_kimg: float = Field(
        0.0, ge=0, description="kimg between two sample grids; 0: six over the training"
    )
    snapshot_kimg: float = Field(
        0.0, ge=0, description="kimg between two snapshots; 0: only the last one"
    )
    state_kimg: float = Field(
        10.0,
        gt=0,
        description="kimg between two checkpoints to resume from, each after a line of statistics",
    )
    on_divergence: Literal["stop", "rollback", "warn"] = Field(
        "stop",
        description=(
            "rollback: continue from the last good checkpoint with half the learning rate, at most "
            "three times; warn: continue with a warning"
        ),
    )
    on_new_data: Literal["ignore", "retrain", "continue"] = Field(
        "retrain",
        description=(
            "a training set that has grown: keep the present snapshot, train again, or "
            "continue from its last checkpoint"
        ),
    )
    min_new_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="retrain, continue: below this share of new images the present snapshot stays",
    )
    continue_kimg: float = Field(
        0.0, ge=0, description="continue: further kimg on the grown set; 0: `kimg` again"
    )

    @model_validator(mode="after")
    def _choice_has_a_probe(self) -> TrainConfig:
        if self.choose == "best_probe" and not self.probe_kimg:
            raise ValueError(
                "choose best_probe needs a probe: give train.probe_kimg, the kimg between two fits"
            )
        return self
