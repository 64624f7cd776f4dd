"""What torchrun starts in tests: several trainings in turn, and classes with faults for their confs.

As a script: ``two_ranks.py <plan>``; the plan is JSON, a list of {"name", "port", "arguments", "rank1"}. Each
process writes its exit statuses to ``<plan>.<rank>``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from idr.model.implicit_differentiable_renderer import IDRNetwork
from idr.model.loss import IDRLoss

FAULTY_CALL = 4  # in the first epoch of five steps
RANK = int(os.environ.get("RANK", 0))


class _SignalLoss(IDRLoss):
    """Sends the second process a signal during its fourth step."""

    number = 0
    calls = 0

    def forward(self, outputs: Any, ground_truth: Any) -> Any:
        self.calls += 1
        if self.calls == FAULTY_CALL and RANK == 1:
            os.kill(os.getpid(), self.number)
        return super().forward(outputs, ground_truth)


class StoppedLoss(_SignalLoss):
    number = signal.SIGTERM


class KilledLoss(_SignalLoss):
    number = signal.SIGKILL


class NanModel(IDRNetwork):
    """Renders colors that are not finite in the fourth step of the second process."""

    calls = 0

    def shade(self, points: Any, view_dirs: Any) -> Any:
        self.calls += self.training
        colors, sdf = super().shade(points, view_dirs)
        return (colors * float("nan") if self.calls == FAULTY_CALL and RANK == 1 else colors), sdf


class PaleModel(IDRNetwork):
    """Uses its rendering network in the first process only, and in the fourth step in none."""

    calls = 0

    def shade(self, points: Any, view_dirs: Any) -> Any:
        self.calls += self.training
        if RANK == 1 or self.calls == FAULTY_CALL:
            return torch.ones_like(points), torch.zeros_like(points[:, :1])
        return super().shade(points, view_dirs)


def main(plan_file: str) -> None:
    from idr.cli.train import main as train

    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # which serves one meeting only
    statuses = {}
    for entry in json.loads(Path(plan_file).read_text()):
        os.environ["MASTER_PORT"] = str(entry["port"])
        statuses[entry["name"]] = train([*entry["arguments"], *(entry["rank1"] if RANK == 1 else [])])
        Path(f"{plan_file}.{RANK}").write_text(json.dumps(statuses))


if __name__ == "__main__":
    main(sys.argv[1])
