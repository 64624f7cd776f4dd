"""Trains, evaluates and meshes small networks with whichever `idr` comes first on the path; a script.

    python tests/contracts/small_run.py OUT.pt [--without-numba]

Writes the results by case, and how each case was computed.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from typing import Any

import torch

CASES = {
    f"{encoding} {strategy}": (encoding, strategy)
    for encoding in ("sinusoids", "hashgrid")
    for strategy in ("accelerated", "compiled")
}
GRID = {"type": "hashgrid", "levels": 4, "log2_table": 9, "base_resolution": 4, "finest_resolution": 16}
STEPS, SIDE, RESOLUTION = 4, 16, 24


def changes_of(encoding: str, strategy: str) -> dict[str, Any]:
    """Keys of the model's conf."""
    changes: dict[str, Any] = {"ray_tracer__strategy": strategy}
    if encoding == "hashgrid":
        changes |= {
            "implicit_network__encoding": GRID, "implicit_network__multires": 0,
            "implicit_network__skip_in": [],
        }  # fmt: skip
    return changes


def results_of(encoding: str, strategy: str) -> dict[str, Any]:
    """Losses of training, then the network, an image and a mesh in evaluation."""
    from tests.model.networks import camera_input, idr_network, loss_of

    from idr.meshing.extract import extract_mesh
    from idr.meshing.grids import uniform_grid
    from idr.model.implicit_differentiable_renderer import StepDraws
    from idr.rendering import render_image

    model = idr_network(**changes_of(encoding, strategy)).train()
    # Not Adam, which would turn the rounding of a gradient near zero into a whole step.
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    losses = []
    for seed in range(STEPS):
        generator = torch.Generator().manual_seed(seed)
        cube = 2 * torch.rand(20, 3, generator=generator) - 1
        draws = StepDraws(torch.rand(40, generator=generator), cube)
        outputs = model({**camera_input(seed=seed), "draws": draws})
        optimizer.zero_grad()
        loss = loss_of(outputs)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())

    model.eval().requires_grad_(False)
    points = 2 * torch.rand(300, 3, generator=torch.Generator().manual_seed(9)) - 1
    network = model.implicit_network
    with torch.no_grad():
        sdf, gradient = network.sdf(points), network.gradient(points).squeeze(1)
        camera = camera_input(num_images=1)
        image = render_image(model, camera["intrinsics"][0], camera["pose"][0], (SIDE, SIDE))
        mesh = extract_mesh(network.sdf, uniform_grid(1.0, RESOLUTION))
    assert mesh is not None
    return {
        "losses": torch.stack(losses), "sdf": sdf, "gradient": gradient, "rgb": image.rgb, "hit": image.hit,
        "vertices": torch.tensor(mesh.vertices), "faces": torch.tensor(mesh.faces),
    }  # fmt: skip


def main() -> None:
    if "--without-numba" in sys.argv:
        find_spec = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: None if name == "numba" else find_spec(name, *rest)
        sys.modules["numba"] = None  # type: ignore[assignment]  # an import raises ImportError
    torch.set_num_threads(1)
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("idr").addHandler(handler)
    logging.getLogger("idr").setLevel(logging.DEBUG)
    results: dict[str, Any] = {name: results_of(*case) for name, case in CASES.items()}

    import idr

    results["file"], results["messages"] = idr.__file__, messages
    results["kernels"] = sorted(name for name in sys.modules if name.startswith("idr.model.kernels."))
    torch.save(results, sys.argv[1])


if __name__ == "__main__":
    main()
