import os
import sys
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line does, before torch is imported

import pytest
import torch

import oodattack  # noqa: F401  (before the root is on the path: the installed one is what is tested)

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/ and docs/ are no part of the package


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)
