"""Options of a probe reach its `fit`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from gan_core.config import EvaluateConfig, ProbeConfig
from gan_core.evaluation.scoring import evaluate_arrays

SOURCE = '''
from pydantic import Field
from gan_core.config import Section
from gan_core.probes import chance
ABOUT, VERSION, SETTING, GRID = "answers one class", 1, "", [0.0]
class Options(Section):
    """The class."""
    answer: int = Field(0, ge=0)
def fit(features, labels, values, *, seed, device, options):
    model = chance.fit(features, labels, values)[0]
    model.answer = options.answer
    return [model] * len(values)
'''


@pytest.mark.parametrize("answer", [0, 1])
def test_options_reach_fit(answer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_probes").mkdir()
    (tmp_path / "own_probes" / "one_class.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_probes", "own_probes.one_class"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    labels = np.array([0, 1, 1, 1] * 10)
    split = ["train"] * 20 + ["test"] * 20
    probe = ProbeConfig(name="own_probes.one_class", options={"answer": answer})
    protocol = EvaluateConfig(labels_per_class=["all"])
    found = evaluate_arrays(np.zeros((40, 2), np.float32), labels, split, protocol, probe)
    assert found["all"]["mean"] == pytest.approx(np.mean(labels[20:] == answer))
