"""Runs a golden model as the published code was run and measures by how much its arrays are missed.

Each comparison returns its violations, none for a faithful model: the tests of parity expect none, the
planted faults for at least one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from idr.model import loss as loss_module
from idr.model.implicit_differentiable_renderer import IDRNetwork, StepDraws
from tests.parity import golden
from tests.parity.golden import COLORS, GRADIENTS, LOSSES, VALUES, ZERO_LOSS, difference

LEAST_AGREEMENT = 0.999  # share of a boolean array that must be equal
SAME_POINT = 1e-3
# Tracing stops where |f| <= 5e-5. A float32 f is known to about 2e-7 here, so when a ray ends that close to
# the limit, the machine's rounding decides whether it takes one more step of up to 5e-5.
STOPS_AT, ROUNDING = 5e-5, 2e-7


@dataclass(frozen=True)
class Violation:
    """An array that is missed.

    Attributes:
        array: Its name.
        measured: Its largest difference over its largest magnitude, or the share of equal entries.
        bound: What was allowed.
    """

    array: str
    measured: float
    bound: float


class Comparison:
    """Collects the violations of one run."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def close(self, array: str, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
        """Notes two arrays that differ by more than a tolerance; a NaN is such a difference."""
        measured = difference(ours, theirs)
        if not measured < tolerance:
            self.violations.append(Violation(array, measured, tolerance))

    def most(self, array: str, kept: Tensor, of: Tensor) -> None:
        """Notes a selection that leaves out more than one entry in a hundred, or than one at all of few."""
        left_out = (of & ~kept).sum().item()
        if left_out > max(1, of.sum().item() // 100):
            self.violations.append(Violation(array, left_out, of.sum().item() // 100))

    def agree(self, array: str, equal: Tensor) -> None:
        """Notes boolean arrays that agree on too few entries."""
        share = equal.float().mean().item()
        if not share >= LEAST_AGREEMENT:
            self.violations.append(Violation(array, share, LEAST_AGREEMENT))

    def outputs(self, ours: Mapping, theirs: Mapping[str, Tensor]) -> None:
        """Compares what the network returned: points where both hit, colors, f where points agree."""
        hit, golden_hit = ours["network_object_mask"], theirs["network_object_mask"].bool()
        self.agree("network_object_mask", hit == golden_hit)
        both = hit & golden_hit & ~(stopped_by_rounding(ours) | stopped_by_rounding(theirs))
        self.most("hits compared", both, hit & golden_hit)
        self.close("points", ours["points"][both], theirs["points"][both], VALUES)
        shaded = both & theirs["object_mask"].bool() if ours["grad_theta"] is not None else both
        self.close("rgb_values", ours["rgb_values"][shaded], theirs["rgb_values"][shaded], COLORS)
        unshaded = ~hit & ~golden_hit if ours["grad_theta"] is None else ~shaded & (hit == golden_hit)
        self.close(
            "rgb_values elsewhere", ours["rgb_values"][unshaded], theirs["rgb_values"][unshaded], COLORS
        )
        same = same_points(ours, theirs)
        self.agree("points of all rays", same)
        self.close("sdf_output", ours["sdf_output"][same], theirs["sdf_output"][same], VALUES)
        self.agree("object_mask", ours["object_mask"] == theirs["object_mask"].bool())

    def losses(
        self, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], names: tuple[str, ...]
    ) -> None:
        """Compares loss terms; one that the published code found to be zero must be so here."""
        for name in names:
            value, expected = ours[name], theirs[name]
            if expected.abs().item() >= ZERO_LOSS:
                self.close(name, value, expected, LOSSES)
            elif not value.abs().item() < ZERO_LOSS:
                self.violations.append(Violation(name, value.abs().item(), ZERO_LOSS))

    def gradients(self, network: torch.nn.Module, theirs: Mapping[str, Tensor]) -> None:
        """Compares the gradient of every parameter."""
        parameters = dict(network.named_parameters())
        assert set(theirs) - {"pose"} == set(parameters)
        for name, parameter in parameters.items():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            self.close(f"gradient of {name}", gradient, theirs[name], GRADIENTS)

    def pose_gradient(self, pose: Tensor, theirs: Tensor) -> None:
        """Compares the gradient of the cameras."""
        gradient = torch.zeros_like(pose) if pose.grad is None else pose.grad
        self.close("gradient of pose", gradient, theirs.reshape(pose.shape), GRADIENTS)


def same_points(ours: Mapping, theirs: Mapping[str, Tensor]) -> Tensor:
    """Rays (R,) whose point is the published one."""
    return (ours["points"] - theirs["points"]).norm(dim=1) < SAME_POINT


def stopped_by_rounding(outputs: Mapping) -> Tensor:
    """Rays (R,) that ended where rounding decides about one more step."""
    return (outputs["sdf_output"].flatten().abs() - STOPS_AT).abs() < ROUNDING


def inputs(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's inputs of one run."""
    return dict(golden.section(dict(arrays), "in"))


Make = Callable[[str], IDRNetwork]


def networks(name: str, make: Make = golden.model) -> list[Violation]:
    """Compares both networks at the same points."""
    comparison = Comparison()
    network, arrays = make(name), golden.section(golden.arrays(name), "net")
    x = arrays["x"]
    out = network.implicit_network(x)
    gradient = network.implicit_network.gradient(x).squeeze(1)
    rgb = network.rendering_network(x, gradient, arrays["view_dirs"], out[:, 1:])
    comparison.close("out", out, arrays["out"], VALUES)
    comparison.close("sdf", network.implicit_network.sdf(x), arrays["out"][:, 0], VALUES)
    comparison.close("grad", gradient, arrays["grad"].reshape(gradient.shape), VALUES)
    comparison.close("rgb", rgb, arrays["rgb"], COLORS)
    return comparison.violations


def evaluation(name: str, view: str = "eval0", make: Make = golden.model) -> list[Violation]:
    """Compares a view in evaluation mode."""
    comparison = Comparison()
    network, arrays = make(name).eval(), golden.section(golden.arrays(name), view)
    comparison.outputs(network(inputs(arrays)), golden.section(arrays, "out"))
    return comparison.violations


def training(name: str, make: Make = golden.model) -> list[Violation]:
    """Compares a step on rays without random draws, exact cameras."""
    return _step_without_draws(name, "train", make)


def trained_cameras(name: str, make: Make = golden.model) -> list[Violation]:
    """Compares a step on rays without random draws, trained cameras."""
    return _step_without_draws(name, "traincam", make)


def _step_without_draws(name: str, run: str, make: Make) -> list[Violation]:
    comparison = Comparison()
    network, arrays = make(name).train(), golden.section(golden.arrays(name), run)
    batch = inputs(arrays)
    gradients = golden.section(arrays, "grad")
    if "pose" in gradients:
        batch["pose"] = batch["pose"].clone().requires_grad_(True)
    outputs = network(batch)
    losses = loss_module.IDRLoss(0.0, 100.0, 50.0)(outputs, {"rgb": arrays["gt.rgb"]})
    losses["loss"].backward()
    comparison.outputs(outputs, golden.section(arrays, "out"))
    comparison.losses(losses, golden.section(arrays, "loss"), ("loss", "rgb_loss", "mask_loss"))
    comparison.gradients(network, gradients)
    if "pose" in gradients:
        comparison.pose_gradient(batch["pose"], gradients["pose"])
    return comparison.violations


def whole_step(name: str, make: Make = golden.model) -> list[Violation]:
    """Compares a whole training step with the published draws, nothing left out."""
    comparison = Comparison()
    network, arrays = make(name).train(), golden.section(golden.arrays(name, "step.npz"), "full")
    network.load_state_dict(golden.section(arrays, "param"))
    batch = inputs(arrays)
    batch["pose"] = batch["pose"].clone().requires_grad_(True)
    draws = StepDraws(arrays["draw.depths"], arrays["draw.eikonal"])
    outputs = network({**batch, "draws": draws})
    losses = loss_module.IDRLoss(0.1, 100.0, 200.0)(outputs, {"rgb": arrays["gt.rgb"]})
    losses["loss"].backward()

    theirs = golden.section(arrays, "out")
    comparison.outputs(outputs, theirs)
    at_cube = torch.ones(draws.eikonal_points.shape[0], dtype=torch.bool)
    same = torch.cat((at_cube, same_points(outputs, theirs)))
    comparison.close("grad_theta", outputs["grad_theta"][same], theirs["grad_theta"][same], GRADIENTS)
    names = ("loss", "rgb_loss", "mask_loss", "eikonal_loss")
    comparison.losses(losses, golden.section(arrays, "loss"), names)
    gradients = golden.section(arrays, "grad")
    comparison.gradients(network, gradients)
    comparison.pose_gradient(batch["pose"], gradients["pose"])
    return comparison.violations
