"""Parity must notice: each misreading of the method, planted, misses at least one golden array.

Every fault names the comparison that is to notice it. That the comparisons pass without a fault is what
`test_golden` shows.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from idr.model.implicit_differentiable_renderer import IDRNetwork
from tests.parity import comparisons, faults_networks, faults_training, golden
from tests.parity.comparisons import Violation

Fault = Callable[[pytest.MonkeyPatch], None]
Run = Callable[[str], list[Violation]]


def noticed(violations: list[Violation]) -> None:
    assert violations, "every golden array is matched in spite of the fault"


def evaluation_of_view_7(name: str) -> list[Violation]:
    return comparisons.evaluation(name, "eval7")


NETWORK_FAULTS: tuple[tuple[Fault, str], ...] = (
    (faults_networks.softplus_of_beta_one, "b"),
    (faults_networks.relu_for_softplus, "b"),
    (faults_networks.skip_not_divided_by_root_two, "b"),
    (faults_networks.skip_concatenated_the_other_way_round, "b"),
    (faults_networks.cosine_before_sine, "b"),
    (faults_networks.octaves_times_pi, "b"),
    (faults_networks.last_layer_not_weight_normalized, "a"),
    (faults_networks.weight_normalized_by_one_norm_of_the_matrix, "a"),
    (faults_networks.colors_clipped, "b"),
    (faults_networks.sigmoid_for_tanh, "b"),
    (faults_networks.normals_of_length_one, "b"),
)


@pytest.mark.parametrize(
    ("fault", "name"), NETWORK_FAULTS, ids=lambda value: getattr(value, "__name__", value)
)
def test_networks_notice(fault: Fault, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    noticed(comparisons.networks(name))


@pytest.mark.parametrize("skip_in", [1, 3, 4])
def test_another_skip_layer_does_not_even_load(skip_in: int) -> None:
    conf = golden.load_conf(
        golden.FOLDER / "a" / "model.conf", (f"model.implicit_network.skip_in=[{skip_in}]",)
    )
    checkpoint = torch.load(golden.FOLDER / "a" / "checkpoint.pth", weights_only=True)
    with pytest.raises(RuntimeError, match="size mismatch for implicit_network.lin"):
        IDRNetwork(conf["model"]).load_state_dict(checkpoint["model_state_dict"])


RUN_FAULTS: tuple[tuple[Fault, Run, str], ...] = (
    (faults_networks.half_pixel_shift, comparisons.training, "b"),
    (faults_networks.world_to_camera_used_as_camera_to_world, comparisons.training, "b"),
    (faults_networks.view_direction_not_negated, comparisons.training, "a"),
    (faults_networks.view_direction_not_negated, comparisons.evaluation, "c"),
    (faults_networks.black_background, comparisons.evaluation, "b"),
    (faults_networks.true_secant_for_regula_falsi, evaluation_of_view_7, "b"),
    (faults_networks.bisection_for_regula_falsi, comparisons.training, "b"),
    (faults_networks.end_sample_left_out, comparisons.whole_step, "b"),
    (faults_networks.sampler_over_the_whole_chord, comparisons.evaluation, "a"),
    (faults_networks.mask_decides_hits_in_evaluation, comparisons.evaluation, "b"),
    (faults_networks.smallest_magnitude_for_smallest_f, comparisons.whole_step, "b"),
    (faults_networks.smallest_f_from_the_sphere_for_hits_too, comparisons.whole_step, "b"),
    (faults_networks.closest_to_origin_for_smallest_f, comparisons.whole_step, "b"),
    (faults_training.norm_of_the_quaternion_outside_the_graph, comparisons.trained_cameras, "a"),
    (faults_training.normal_detached, comparisons.training, "b"),
    (faults_training.feature_detached, comparisons.training, "a"),
    (faults_training.view_direction_detached, comparisons.trained_cameras, "a"),
    (faults_training.intersection_not_differentiated, comparisons.training, "b"),
    (faults_training.intersection_with_fixed_camera, comparisons.trained_cameras, "b"),
    (faults_training.intersection_moved_the_wrong_way, comparisons.training, "b"),
    (faults_training.mask_loss_without_camera_gradient, comparisons.trained_cameras, "b"),
    (faults_training.mask_loss_without_camera_gradient, comparisons.whole_step, "b"),
    (faults_training.squares_for_l1, comparisons.training, "b"),
    (faults_networks.colors_clipped, comparisons.training, "b"),
    (faults_training.rgb_loss_divided_by_hits, comparisons.training, "b"),
    (faults_training.mask_loss_not_divided_by_alpha, comparisons.whole_step, "b"),
    (faults_training.mask_loss_over_all_rays, comparisons.whole_step, "b"),
    (faults_training.mask_loss_with_the_other_sign, comparisons.training, "b"),
    (faults_training.eikonal_at_the_cube_alone, comparisons.whole_step, "b"),
    (faults_training.eikonal_without_square, comparisons.whole_step, "b"),
)


@pytest.mark.parametrize(
    ("fault", "run", "name"),
    RUN_FAULTS,
    ids=[f"{fault.__name__}-{run.__name__}" for fault, run, _ in RUN_FAULTS],
)
def test_runs_notice(fault: Fault, run: Run, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    noticed(run(name))
