"""The plots and camera errors of training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from idr.training.trainer import Trainer


def draw_plots(trainer: Trainer, epoch: int, config: Any) -> None:
    """Draws the plots of an epoch with the current cameras."""
    import torch

    from idr.pictures.plots import PlotView, choose_views, write_plots
    from idr.training.rays.randomness import Stream, generator_for

    state, dataset = trainer.state, trainer.dataset
    generator = generator_for(state.seed, Stream.PLOT, epoch)
    height, width = dataset.img_res
    views = []
    dataset.change_sampling_idx(-1)
    for index in choose_views(len(dataset), config, generator):
        _, sample, truth = dataset[index]
        pose = sample["pose"] if state.poses is None else state.poses.vectors()[index]
        intrinsics = sample["intrinsics"] if state.intrinsics is None else state.intrinsics.matrices()[index]
        photo = (truth["rgb"] + 1).reshape(height, width, 3) / 2
        intrinsics, pose, mask = (x.to(trainer.device) for x in (intrinsics, pose, sample["object_mask"]))
        views.append(PlotView(intrinsics, pose, photo, mask))
    state.model.eval()
    with torch.no_grad():
        sdf: Any = state.model.implicit_network
        write_plots(
            trainer.outputs.run / "plots", epoch, state.model, lambda x: sdf(x)[:, 0], views, config,
            getattr(state.model, "object_bounding_sphere", 1.0), generator,
        )  # fmt: skip
    state.model.train()


def camera_monitor(dataset: Any) -> Any:
    """Returns the function that measures trained cameras against the scene's exact ones after each epoch.

    Its numbers are the mean errors of the poses (degrees, world units) and, with trained intrinsics, the mean
    ratio of trained to initial focal lengths.
    """
    from idr.evaluation.camera_error import mean_camera_errors
    from idr.geometry.cameras import pose_matrix

    truth = dataset.get_gt_pose(scaled=False).double().numpy()

    def measure(trainer: Trainer) -> dict[str, float]:
        assert trainer.state.poses is not None
        poses = pose_matrix(trainer.state.poses.vectors().double().cpu()).numpy()
        rotation, center = mean_camera_errors(poses, truth)
        numbers = {"camera_rotation_degrees": rotation, "camera_center": center}
        if trainer.state.intrinsics is not None:
            trained, given = trainer.state.intrinsics.matrices(), trainer.state.intrinsics.given
            numbers["focal_factor"] = float((trained[:, 0, 0] / given[:, 0, 0]).mean())
        return numbers

    return measure
