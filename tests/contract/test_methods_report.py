"""Every method from recipe to report: `gan_core.run` on a few of scikit-learn's digits."""

from __future__ import annotations

from pathlib import Path

import pytest

import gan_core
from gan_core import registry
from gan_core.files import read_json
from tests.contract.test_methods_contract import network_for

pytestmark = pytest.mark.slow
SMALL = [
    "sources.train.digits.limit=300",
    "train.network.width=0.0625",
    "train.kimg=0.5",
    "train.log_kimg=0.25",
    "evaluate={labels_per_class: [5], draws: 1, baselines: [random]}",
    "inspect=[samples]",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for all methods: what comes before the training is made once."""
    return tmp_path_factory.mktemp("home")


def run(home: Path, method: str, *overrides: str) -> gan_core.RunOutcome:
    network = network_for(method)
    named = [f"train.method={method}", f"train.network.name={network}", *overrides]
    return gan_core.run("digits", home=home, scale="debug", overrides=[*SMALL, *named])


@pytest.mark.parametrize("method", registry.names("methods"))
def test_a_run_of_every_method_ends_with_a_report(home: Path, method: str) -> None:
    roles = registry.literal("methods", method, "FEATURES", ())
    also = [f"extract.also=[{', '.join(roles[1:])}]"] if roles[1:] else []
    if registry.literal("methods", method, "STARTS_FROM", ()):
        trained = run(home, "dcgan").snapshot
        assert trained is not None
        also.append(f"train.start={next(trained.glob('snapshot-*.safetensors'))}")
    done = run(home, method, *also)
    assert done.report is not None
    summary = read_json(done.report.with_name("summary.json"))
    scored = {row["features"] for row in summary["scores"]}
    assert scored == {*roles, "random", "chance"}
    uses_labels = registry.literal("methods", method, "USES_LABELS", False)
    for row in summary["scores"]:
        assert bool(row["saw_labels"]) == (uses_labels and row["features"] in roles)
    assert registry.title("methods", method) in done.report.read_text()
