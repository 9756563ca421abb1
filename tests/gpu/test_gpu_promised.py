"""TOKENREDUCE_REQUIRE_GPU=1 turns a skip of a test marked gpu into a failure, and no other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Light, and beside a test that any machine can run.
WITH_GPU = "tests/cost/test_memory.py::test_the_device_peak_counts_a_tensor_and_can_start_again"
WITHOUT = "tests/cost/test_memory.py::test_a_cpu_has_no_device_peak"


def test_a_promised_gpu_that_is_not_there_is_a_failure() -> None:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TOKENREDUCE_REQUIRE_GPU": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", WITH_GPU, WITHOUT]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 passed, 1 error" in done.stdout  # it was to be skipped before it began
    assert "TOKENREDUCE_REQUIRE_GPU is set" in done.stdout
    assert "needs a CUDA device" in done.stdout
