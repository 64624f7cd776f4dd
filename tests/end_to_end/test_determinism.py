"""Equal seeds and numbers of threads give equal bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.training import tiny

from idr.checkpoints.manifests import read_manifest
from idr.cli.train import main


def trained(root: Path, exps: Path, *flags: object, nepoch: int = 2) -> Path:
    """Trains through the command line and returns the run's folder."""
    assert main(tiny.command(root, *flags, nepoch=nepoch, exps=str(exps))) == 0
    return tiny.only_run(exps)


@pytest.mark.parametrize("flags", [[], ["--train_cameras", "--batch_size", 2]], ids=["fixed", "trained"])
def test_equal_seeds_give_equal_bits_and_other_seeds_others(
    scene_root: Path, tmp_path: Path, flags: list[object]
) -> None:
    first = trained(scene_root, tmp_path / "first", *flags)
    torch.rand(7)  # earlier draws of the process must not matter
    second = trained(scene_root, tmp_path / "second", *flags, "--seed", 0)
    other = trained(scene_root, tmp_path / "other", *flags, "--seed", 1)
    for name in ("0", "1", "2", "latest"):
        assert tiny.same(tiny.parts_of(first, name), tiny.parts_of(second, name))
        assert tiny.checkpoint_digests(first, name) == tiny.checkpoint_digests(second, name)
        weights = [tiny.parts_of(run, name)["ModelParameters"]["model_state_dict"] for run in (first, other)]
        lin0 = [
            state["implicit_network.lin0.weight_v"] for state in weights
        ]  # at epoch 0: the initial weights differ too
        assert not tiny.same(*lin0)
    manifests = [read_manifest(run / "checkpoints", "2") for run in (first, second)]
    assert manifests[0] is not None and manifests[1] is not None
    same = ("name", "epoch", "step", "serial", "staged")  # bytes, and so digests, of the files may differ
    assert all(getattr(manifests[0], key) == getattr(manifests[1], key) for key in same)
    assert manifests[0].files.keys() == manifests[1].files.keys()


def test_the_seed_decides_image_order_and_pixels(scene_root: Path, tmp_path: Path) -> None:
    """From equal weights, another seed gives another run."""
    run = trained(scene_root, tmp_path / "exps", nepoch=1)
    again = ["--is_continue", "--checkpoint", 0, "--new_run", "--timestamp", run.name]
    trained_again = []
    for seed in (0, 1):
        assert (
            main(tiny.command(scene_root, *again, "--seed", seed, nepoch=1, exps=str(tmp_path / "exps"))) == 0
        )
        trained_again.append(max(run.parent.iterdir()))
    same_seed, other_seed = (tiny.checkpoint_digests(folder)["ModelParameters"] for folder in trained_again)
    assert same_seed == tiny.checkpoint_digests(run)["ModelParameters"] != other_seed


def test_two_threads_are_reproducible_bit_by_bit(scene_root: Path, tmp_path: Path) -> None:
    """Layers large enough for torch to split (from 32768 elements on), with gradients of cameras."""
    torch.set_num_threads(2)
    conf = tiny.conf_text("num_pixels = 100, checkpoint_freq = 100", dims=(64, 64, 64))
    runs = [tmp_path / "first", tmp_path / "second"]
    for run in runs:
        assert tiny.make_trainer(scene_root, run, nepoch=2, cameras=True, batch_size=5, conf=conf).train()
    assert tiny.checkpoint_digests(runs[0]) == tiny.checkpoint_digests(runs[1])
