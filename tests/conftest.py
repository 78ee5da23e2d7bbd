"""Fixtures for several test files."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """Small tensors gain nothing from threads, and on a busy machine lose much to waiting for them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
