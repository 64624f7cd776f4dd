"""How often a training step makes an accelerator wait for the host: at most four times."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import idr.model.tracing.accelerated.network_search as network_search
from idr.training.trainer import Trainer
from tests.reads import ReadCounter
from tests.training import tiny

MOST_READS = 4
NUM_STEPS = 20


def step(trainer: Trainer, index: int) -> list[str]:
    """Does one training step; returns the reads in it."""
    batch = next(iter(trainer.rays.batches(0, index, 0)))
    trainer.state.model.train()
    with ReadCounter() as counter:
        trainer._train_step(batch)
    return counter.places


@pytest.mark.parametrize("cameras", [False, True])
def test_a_step_reads_at_most_four_times(
    scene_root: Path, tmp_path: Path, reads_cost: None, cameras: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(network_search.SEARCH, searched_share=0.02)
    monkeypatch.setattr(network_search, "SEARCH", few)  # the published tracer gets what is beyond
    trainer = tiny.make_trainer(scene_root, tmp_path, cameras=cameras)
    tracer, steps, builds, fallbacks = trainer.state.model.ray_tracer, [], 0, []
    trace = tracer._published.trace
    monkeypatch.setattr(tracer._published, "trace", lambda request: fallbacks.append(1) or trace(request))
    for index in range(NUM_STEPS):
        grid = tracer._tracker._grid
        places = step(trainer, index)
        carried_on = grid is not None and tracer._tracker._age > 0
        builds += not carried_on
        if carried_on:
            steps.append(places)
    assert builds < NUM_STEPS / 2 and fallbacks  # steps in which the published tracer decides count, too
    assert max(map(len, steps)) <= MOST_READS, max(steps, key=len)


def test_the_counter_sees_what_waits() -> None:
    flags, values = torch.tensor([True, False]), torch.arange(2.0)
    with ReadCounter() as counter:
        flags.nonzero()
        values[flags]
        values.sum().item()
        values[torch.tensor([1])]
        values.repeat_interleave(2)
        assert values.tolist() == [0.0, 1.0]
    names = [place.split(" ")[0] for place in counter.places]
    assert names == ["nonzero", "index", "_local_scalar_dense", "tolist"]
