"""Keeping freed memory: what it changes in the process that asks for it."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from eclipse.compute.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def step():
    return float(np.ones(10_000_000).sum())  # 80 MB: more than glibc keeps by itself
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(what: str) -> int:
    """Pages that a new process asks the system for in five steps with the same large array."""
    done = subprocess.run([sys.executable, "-c", FAULTS, what], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this setting")
def test_a_process_that_keeps_freed_memory_asks_for_none_in_its_next_steps() -> None:
    assert faults("keep") < 100 < faults("give back")
