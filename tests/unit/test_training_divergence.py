"""Every sign of divergence: provoked in a real training, and not seen in a healthy one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from gan_core import registry
from gan_core.config import TrainConfig
from gan_core.errors import TrainingDiverged
from gan_core.training import divergence, hooks, loop
from gan_core.training.context import Context, Trained
from gan_core.training.data import ArrayImages
from gan_core.training.divergence import Monitor
from gan_core.training.loop import train
from gan_core.training.trainer_state import TrainerState, build

BASE: dict[str, Any] = {
    "network": {"width": 0.125},
    "batch": 16,
    "kimg": 0.8,
    "log_kimg": 0.032,
    "state_kimg": 0.064,
}


def images() -> ArrayImages:
    return ArrayImages(np.random.default_rng(0).integers(0, 256, (128, 32, 32, 3), np.uint8))


def run(folder: Path, after_log: Any = None, **changed: Any) -> Trained:
    return train(
        images(), Context(TrainConfig(**{**BASE, **changed}), folder, 32), each_log=after_log
    )


def spoil_weights(state: TrainerState) -> None:
    with torch.no_grad():
        state.networks["generator"].layer("deconv1").operation.weight.mul_(torch.nan)


def spoil_projection(state: TrainerState) -> None:
    """Latents no longer reach the images."""
    with torch.no_grad():
        norm = state.networks["generator"].layer("project").norm
        assert norm is not None and norm.weight is not None and norm.bias is not None
        norm.weight.zero_()
        norm.bias.uniform_(0, 1, generator=torch.Generator().manual_seed(0))


def spoil_filters(state: TrainerState) -> None:
    """A subset of the last filters collapses to one oscillating pattern: high everywhere, drawn as
    a fine check.
    """
    generator = state.networks["generator"]
    last, image = generator.layer("deconv2"), generator.layer("image")
    assert last.norm is not None and last.norm.bias is not None
    check = torch.tensor([(-1.0) ** (i + j) for i in range(5) for j in range(5)]).view(5, 5)
    with torch.no_grad():
        last.norm.bias[:2] = 1.0
        image.operation.weight[:2] = 0.03 * check


def spoil_scale(state: TrainerState) -> None:
    with torch.no_grad():
        state.networks["discriminator"].layer("conv2").operation.weight.mul_(3.0)


def spoil_discriminator(state: TrainerState) -> None:
    """A generator that no longer learns before a discriminator that learns fast."""
    state.optimisers["generator"].base_rate = 0.0
    state.optimisers["discriminator"].base_rate = 1e-2


def spoil_latents(state: TrainerState) -> None:
    """Of each latent only two signs still matter: four images."""

    def rounded(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (torch.cat([given[0][:, :2].sign(), 0 * given[0][:, 2:]], 1), *given[1:])

    state.networks["generator"].layer("project").register_forward_pre_hook(rounded)


SPOILS = {
    "nan": spoil_weights,
    "constant": spoil_projection,
    "few": spoil_latents,
    "oscillating": spoil_filters,
    "spike": spoil_scale,
    "certain": spoil_discriminator,
}


def once_at(place: float, spoil: Any, sign: str) -> Any:
    """Spoils the networks after the first log line past `place` kimg, in the first attempt only."""

    def after(state: TrainerState, line: dict[str, Any]) -> None:
        due = line["kimg"] >= place and state.position.attempt == 0
        if due and not done:
            done.append(line["kimg"])
            spoil(state)

    done: list[float] = []
    after.done = done  # type: ignore[attr-defined]
    return after


@pytest.mark.parametrize("sign", SPOILS)
def test_each_sign_is_noticed_within_one_interval_and_rolled_back(
    tmp_path: Path, sign: str
) -> None:
    hook = once_at(0.4, SPOILS[sign], sign)
    seen: list[dict[str, Any]] = []

    def after(state: TrainerState, line: dict[str, Any]) -> None:
        seen.append({**line, "attempt": state.position.attempt})
        hook(state, line)

    trained = run(tmp_path, after, on_divergence="rollback", kimg=3.2 if sign == "certain" else 0.8)
    assert trained.complete
    signs = [finding["sign"] for finding in trained.findings]
    assert sign in signs, trained.findings
    first = next(f for f in trained.findings if f["sign"] == sign)
    if (
        sign == "certain"
        # it takes the discriminator a while; from then on one line is enough, or three that are
        # less
        # clear
    ):
        gaps = certain_gaps(seen, first["kimg"])
        assert gaps[-1] > divergence.CERTAIN_AT_ONCE or len(gaps) == 3
        assert max(gaps[:-1], default=0.0) <= divergence.CERTAIN_AT_ONCE
    else:
        assert first["kimg"] - hook.done[0] <= BASE["log_kimg"] + 1e-9
    assert trained.state.position.attempt >= 1
    rate = float(trained.state.optimisers["generator"].rate)
    assert rate == pytest.approx(2e-4 * 0.5**trained.state.position.attempt)
    assert all(
        torch.isfinite(p).all()
        for network in trained.state.networks.values()
        for p in network.parameters()
    )


def certain_gaps(seen: list[dict[str, Any]], until: float) -> list[float]:
    """Of the first attempt's lines up to a place, those above the limit that end there."""
    lines = [line for line in seen if line["attempt"] == 0 and line["kimg"] <= until]
    gaps = [line["score_real"] - line["score_fake"] for line in lines]
    calm = max((n for n, gap in enumerate(gaps) if gap <= divergence.CERTAIN), default=-1)
    return gaps[calm + 1 :]


@pytest.mark.parametrize("sign", ["nan", "constant"])
def test_under_stop_the_message_names_the_sign_and_the_remedy(tmp_path: Path, sign: str) -> None:
    with pytest.raises(TrainingDiverged) as caught:
        run(tmp_path, once_at(0.2, SPOILS[sign], sign))
    assert divergence.REMEDIES[sign][0] in caught.value.remedy and "rollback" in caught.value.remedy
    assert "mode=modern" not in caught.value.remedy, "it is modern already"
    assert "kimg" in caught.value.message


@pytest.mark.parametrize("sign", ["oscillating", "spike"])
def test_under_stop_what_may_pass_is_a_warning(tmp_path: Path, sign: str) -> None:
    trained = run(tmp_path, once_at(0.3, SPOILS[sign], sign))
    assert trained.complete and sign in [f["sign"] for f in trained.findings]


def test_a_healthy_training_shows_no_sign(tmp_path: Path) -> None:
    assert run(tmp_path).findings == []


def test_a_nan_that_comes_back_ends_the_training_after_three_attempts(tmp_path: Path) -> None:
    def always(state: TrainerState, line: dict[str, Any]) -> None:
        if line["kimg"] >= 0.3:
            spoil_weights(state)

    with pytest.raises(TrainingDiverged, match="after going back 3 times"):
        run(tmp_path, always, on_divergence="rollback")


def test_what_breaks_between_two_checks_is_no_place_to_go_back_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A NaN arises after a check, time is over before the next one, so the broken weights are
    saved: going back passes them over.
    """
    real_step, ticks, stops = loop.step, [0.0], 3
    monkeypatch.setattr(loop.time, "monotonic", lambda: ticks[0])

    def step(state: TrainerState, context: Context, *batch: Any) -> None:
        real_step(state, context, *batch)
        if state.position.images == 416 and state.position.attempt == 0:
            spoil_weights(state)
        ticks[0] += 10.0 if 416 <= state.position.images < 416 + 16 * stops else 0.0

    monkeypatch.setattr(loop, "step", step)
    settings = TrainConfig(
        **{**BASE, "log_kimg": 0.1, "state_kimg": 0.1, "kimg": 0.6, "on_divergence": "rollback"}
    )
    for _ in range(stops):
        stopped = train(images(), Context(settings, tmp_path, 32, max_seconds=5.0))
        assert not stopped.complete and 416 <= stopped.state.position.images < 500
    places = sorted(int(path.name.split("-")[1]) for path in tmp_path.glob("state-*"))
    assert 400 in places and len(places) <= 3, "the last good one is kept with the newest two"
    trained = train(images(), Context(settings, tmp_path, 32))
    assert trained.complete and [finding["sign"] for finding in trained.findings] == ["nan"]
    assert trained.state.position.attempt == 1
    assert all(
        torch.isfinite(p).all()
        for network in trained.state.networks.values()
        for p in network.parameters()
    )


def test_a_rollback_is_as_reproducible_as_the_rest(tmp_path: Path) -> None:
    ends = []
    for name in ("a", "b"):
        run(tmp_path / name, once_at(0.4, spoil_weights, "nan"), on_divergence="rollback", kimg=0.6)
        ends.append(next((tmp_path / name / "products").glob("snapshot-*")).read_bytes())
    assert ends[0] == ends[1]


def test_oscillation_is_the_share_of_the_one_common_frequency() -> None:
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(64, 1, 32, 32, generator=random)
    x = torch.arange(32.0)
    stripe = torch.cos(2 * torch.pi * 12 / 32 * x).expand(1, 1, 32, 32)
    for share in (0.0, 0.3, 0.8):
        mixed = (
            noise * (1 - share) ** 0.5 + stripe * 2**0.5 * share**0.5
        )  # the stripe's own variance is one half
        assert float(divergence.oscillation(mixed)) == pytest.approx(share, abs=0.03)
    moving = torch.stack(
        [torch.cos(2 * torch.pi * (12 / 32 * x + p)) for p in torch.rand(64, generator=random)]
    )
    assert (
        float(divergence.oscillation(moving[:, None, None, :].expand(64, 1, 32, 32))) < 0.1
    )  # another phase in every image
    coarse = torch.cos(2 * torch.pi * 2 / 32 * x).expand(64, 1, 32, 32)
    assert float(divergence.oscillation(coarse)) < 1e-4


def test_power_iteration_finds_the_largest_singular_value() -> None:
    for seed in range(5):
        weight = torch.randn(24, 10, 3, 3, generator=torch.Generator().manual_seed(seed))
        exact = float(torch.linalg.matrix_norm(weight.flatten(1), 2))
        assert float(divergence.largest_singular_value(weight, 30)) == pytest.approx(
            exact, rel=0.03
        )


def test_spacing_is_the_nearest_over_the_usual_distance() -> None:
    images = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    small = np.asarray(
        [
            [
                p[c, y : y + 2, x : x + 2].mean()
                for c in range(3)
                for y in (0, 2, 4, 6)
                for x in (0, 2, 4, 6)
            ]
            for p in images
        ]
    )
    distances = [
        sorted(float(np.linalg.norm(a - b)) for b in np.delete(small, n, 0))
        for n, a in enumerate(small)
    ]
    lower = [
        sorted(values)[(len(values) - 1) // 2]
        for values in ([d[0] for d in distances], sum(distances, []))
    ]
    assert float(divergence.spacing(images)) == pytest.approx(lower[0] / lower[1], rel=1e-4)
    repeated = images[:4].repeat(5, 1, 1, 1) + 0.01 * images
    assert float(divergence.spacing(repeated)) < 0.05


def test_a_young_training_is_given_time_a_grown_one_little_and_each_sign_is_reported_once() -> None:
    gaps = {"sure": 0.998, "nearly": 0.993, "calm": 0.9}
    lines = [
        "sure",
        "sure",
        "calm",
        "sure",
        "sure",
        "sure",
        "sure",
        "calm",
        "nearly",
        "nearly",
        "nearly",
        "nearly",
        "sure",
    ]
    monitor, found = Monitor(0.5), []
    for place, name in enumerate(lines):
        line = {"kimg": float(place), "score_real": 0.999, "score_fake": 0.999 - gaps[name]}
        found += [(place, finding.sign) for finding in monitor.check(line)]
    # two lines, then calm: nothing; the next streak counts when the first five are over; a less
    # clear one after three
    assert found == [(5, "certain"), (10, "certain")]


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_every_layer_with_weights_is_monitored(spectral_norm: bool) -> None:
    """The conditional net's first convolution is inside a module that makes images grey."""
    settings = TrainConfig(
        network={"name": "dcgan28_mnist", "width": 0.125}, options={"spectral_norm": spectral_norm}
    )
    state = build(settings, seed=0, device="cpu", image_size=28, classes=10)
    found = divergence.layer_sigmas(state.networks)
    layers = [
        f"sigma_{role}_{info.name}"
        for role, network in state.networks.items()
        for info in network.layers()
    ]
    assert list(found) == layers
    inner = state.networks["discriminator"].layer("conv1").operation.convolution
    weight = inner.parametrizations["weight"].original if spectral_norm else inner.weight
    exact = float(torch.linalg.matrix_norm(weight.detach().flatten(1), 2))
    assert float(found["sigma_discriminator_conv1"]) == pytest.approx(exact, rel=0.05)


def test_memory_survives_json() -> None:
    import json

    monitor = Monitor(0.5)
    monitor.check(
        {"kimg": 1.0, "score_real": 0.9999, "score_fake": 0.0001, "sigma_generator_a": 1.5}
    )
    again = Monitor(0.5)
    again.load_state(json.loads(json.dumps(monitor.state())))
    assert again == monitor and not again.clean


@pytest.mark.parametrize("mode", ["paper", "modern"])
@pytest.mark.parametrize("sign", SPOILS)
def test_what_is_advised_is_what_the_settings_take(sign: str, mode: str) -> None:
    """Every setting=value in the sentence, together, in a recipe of that mode."""
    given = registry.options("methods", "dcgan", {"mode": mode})
    sentence = divergence.remedy(sign, given)
    found = re.findall(r"train\.([\w.]+)=(\[[^]]*\]|\w+)", sentence)
    assert found or sign in ("constant", "oscillating")
    options = {"mode": mode}
    for name, value in found:
        if name.startswith("options."):
            options[name.removeprefix("options.")] = yaml.safe_load(value)
        else:
            TrainConfig(**{name: yaml.safe_load(value)})
    registry.options("methods", "dcgan", options)


@pytest.mark.parametrize("how", ["stop", "rollback"])
def test_no_more_is_lost_than_some_minutes_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Of a training so slow that its next state is an hour away. A rollback comes back to states:
    theirs have their place in kimg.
    """
    monkeypatch.setattr(hooks, "CHECKPOINT_SECONDS", 0.0)
    trained = run(tmp_path, None, kimg=0.5, log_kimg=0.1, state_kimg=100, on_divergence=how)
    assert trained.complete
    places = sorted(int(path.name.split("-")[1]) for path in tmp_path.glob("state-*"))
    assert len(places) == (2 if how == "stop" else 1) and places[-1] == 512, places


def test_while_a_warning_lasts_there_are_states_to_resume_from(tmp_path: Path) -> None:
    """`few` is a warning under `stop`: no state counts as good from then on, and none is lost
    either.
    """
    trained = run(
        tmp_path, once_at(0.3, spoil_latents, "few"), kimg=1.2, log_kimg=0.1, state_kimg=0.2
    )
    assert trained.complete and "few" in [finding["sign"] for finding in trained.findings]
    assert not trained.state.monitor.clean
    kept = sorted(path.name for path in tmp_path.glob("state-*"))
    assert len(kept) == 3, (
        kept
    )  # the newest two, the end and one shortly before it, and the last good one
    assert int(kept[1].split("-")[1]) >= 900
