"""DCGAN's weights after training are those of commit 053bc5b, bit for bit, with every option.

The digests were taken at that commit. They hold on any processor whose kernels give the recorded
fingerprint (plain PyTorch, no code of Discern); the test skips elsewhere and says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"}
FINGERPRINTS = {"float32": "ca47f3b86bb1c5eb", "bf16": "c365c936b394c6a8"}
DIGESTS = {
    "paper": "2398218b2057fb53",
    "paper, flip": "abad20fedefc41c4",
    "modern": "d358c80040c779d6",
    "modern, augment": "6f29fbc56d21e065",
    "modern, r1": "a0f5a8e90812ae26",
    "modern, spectral norm": "dd154af8c46e4a71",
    "paper, bf16": "69439a310f4931cc",
}


@pytest.fixture(scope="module")
def found() -> Any:
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    script = str(Path(__file__).with_name("golden_training.py"))
    command = [sys.executable, script, FINGERPRINTS["float32"], FINGERPRINTS["bf16"]]
    environment = {**os.environ, **AVX2, **threads}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", DIGESTS)
def test_weights_are_those_of_the_golden_commit(found: Any, case: str) -> None:
    precision = "bf16" if "bf16" in case else "float32"
    if found["fingerprints"][precision] != FINGERPRINTS[precision]:
        pytest.skip("this machine's kernels sum in another order than those of the golden digests")
    assert found["digests"][case] == DIGESTS[case]
