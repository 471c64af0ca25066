import os

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test waits for a network


@pytest.fixture(autouse=True)
def same_random_numbers_in_every_test():
    torch.manual_seed(0)
