"""``exp_runner.py`` through its command line, with valid input."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def three_threads():
    """Makes torch use three threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "flags, message",
    [
        ((), "on cpu (1 thread)"),
        (("--threads", "2"), "on cpu (2 threads)"),
        (("--set", "model.implicit_network.dims=[128,128]"), "on cpu (3 threads)"),
    ],
)
def test_a_narrow_network_gets_one_thread_by_default(project, three_threads, flags, message):
    outcome = project.train(*flags)
    assert outcome.status == 0
    assert message in outcome.out
    assert torch.get_num_threads() == 3
