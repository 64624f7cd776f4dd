"""Triton's kernels in its interpreter on a CPU, against plain torch and the compiled loops."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.model.encodings.test_hashgrid import BLOCK, DOUBLE, all_derivatives, grid, points
from tests.model.kernels import test_fused_field as fields
from tests.model.networks import camera_input, idr_network, loss_of
from tests.model.tracing import test_compiled as rays
from torch import Tensor
from torch.nn import functional

pytest.importorskip("triton", reason="Triton is not installed; it comes with torch on Linux")

from idr.errors import InputError
from idr.model.encodings import hashgrid as encoding_module
from idr.model.encodings import hashgrid_torch
from idr.model.encodings.hashgrid import HashGrid, HashGridConfig, grid_levels
from idr.model.kernels.gpu import hashgrid, softplus, support, tracing

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in divide:RuntimeWarning")  # in idle lanes
BACKENDS = ("triton", "triton_atomic")
BETA = 100.0


@pytest.fixture(autouse=True)
def _large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's time is one per block; still more than one block in each test."""
    monkeypatch.setattr(hashgrid, "BLOCK", 256)
    monkeypatch.setattr(tracing, "BLOCK", 64)


@pytest.mark.parametrize("levels", [BLOCK, {"levels": 6, "log2_table": 22, "finest_resolution": 2**16}])
def test_rows_are_exactly_those_of_torch(levels: dict[str, int]) -> None:
    config = HashGridConfig(**{**levels, "bound": 1.25})
    grids = grid_levels(config)
    x = torch.cat((points(280, reach=1.6), torch.tensor([[1.25, -1.25, 1.25], [0.0, 0.625, -1.25]])))
    none = torch.zeros(len(x), len(grids))
    rows = torch.empty(len(grids) * len(x) * 8, dtype=torch.int64)
    outputs = (torch.empty(len(rows), 1), rows)
    hashgrid._run(hashgrid._scatter, (x, none, none, x), grids, 1.25, outputs, 1, ATOMIC=False)

    numbers = torch.tensor([(level.resolution, level.offset, level.size) for level in grids]).T
    place = (x.clamp(-1.25, 1.25) + 1.25).unsqueeze(1) * (numbers[0].float().view(1, -1, 1) / 2.5)
    cell = torch.minimum(place.floor(), numbers[0].view(1, -1, 1) - 1).long()
    corners = [(i, j, k) for k in (0, 1) for j in (0, 1) for i in (0, 1)]
    expected = torch.stack([hashgrid_torch._rows(cell, corner, numbers) for corner in corners], dim=2)
    assert torch.equal(rows.view(len(grids), len(x), 8), expected.transpose(0, 1))


@pytest.mark.parametrize(("backend", "features"), [("triton", 1), ("triton", 3), ("triton_atomic", 2)])
def test_derivatives_equal_those_of_torch(backend: str, features: int) -> None:
    ours, oracle = grid(backend, features=features), grid(features=features).double()
    ours.open_levels = oracle.open_levels = 2.3
    x = points(300, reach=1.5)
    results = zip(all_derivatives(ours, x), all_derivatives(oracle, x.double()), strict=True)
    for name, (one, two) in zip(("value", "x", "T", "x'", "T'", "dy'"), results, strict=True):
        # float32's positions up to 16 have errors of 1e-6.
        assert (one - two).abs().max() <= 5e-6 * two.abs().max(), name


def test_no_points_and_nan() -> None:
    encoding = grid("triton")
    assert encoding(torch.zeros(0, 3)).shape == (0, 11)
    assert encoding(torch.full((1, 3), torch.nan)).isnan().all()
    net = fields.network("triton")
    output, gradient = net.value_and_gradient(torch.zeros(0, 3))
    (output.sum() + gradient.sum()).backward()
    assert output.shape == (0, 6) and gradient.shape == (0, 3)
    assert net.value_and_gradient(torch.full((1, 3), torch.nan))[1].isnan().all()


def test_softplus_and_its_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = 0.02 * torch.randn(90, 17, generator=generator)
    hidden[0, :3] = torch.tensor([-30.0, 0.0, 30.0])
    bias, u, by_v = (torch.randn(size, generator=generator) for size in ((17,), (90, 17), (90, 17)))
    bias[:3] = 0
    bias *= 0.01
    h, w = (hidden + bias).double().requires_grad_(), u.double().requires_grad_()
    expected = torch.sigmoid(BETA * h)
    (expected * w * by_v).sum().backward()
    values, by_u = hidden.clone(), by_v.clone()
    slope = softplus.softplus_and_slope(values, bias, BETA)
    by_hidden = softplus.gradients_of_scaled(by_u, u * slope, slope, BETA)
    assert (values - functional.softplus(h, BETA)).abs().max() < 1e-7  # float32 below 1, and at 30 exactly
    assert (slope - expected).abs().max() < 1e-6
    assert (by_hidden - h.grad).abs().max() < 2e-6 * h.grad.abs().max()
    assert (by_u - w.grad).abs().max() < 2e-6 * w.grad.abs().max()


@pytest.mark.parametrize(
    ("backend", "dims", "open_levels"), [("triton", (16, 12), 2.3), ("triton_atomic", (9,), 4.0)]
)
def test_networks_equal_plain_torch(backend: str, dims: tuple[int, ...], open_levels: float) -> None:
    ours, oracle = fields.network(backend, dims), fields.network("torch", dims).double()
    oracle.load_state_dict(ours.state_dict())
    ours.encoding.open_levels = oracle.encoding.open_levels = open_levels
    fields.assert_equal_results(ours, oracle, fields.some_points())


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(("features", "dims"), [(2, (32, 30)), (3, (17,)), (1, (16, 16, 16))])
def test_traces_as_the_compiled_loops(
    features: int, dims: tuple[int, ...], inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal hits and depths: of hits, of the smallest f of other rays, and of rays past the sphere."""
    monkeypatch.setattr(rays, "NUM_RAYS", 100)
    results = []
    for backend in ("triton", "numba"):
        network = rays.bumpy_ball(backend, features, dims)
        network.encoding.open_levels = 2.4
        network.encoding.get_parameter("table").data.mul_(3)  # so steep that relaxed steps go too far
        results.append(rays.traced(network, torch.full((100,), inside))[0])
    ours, theirs = results
    assert 10 < int(ours.hit.sum()) < 90 and torch.equal(ours.hit, theirs.hit)
    assert (ours.depth - theirs.depth).abs().max() < rays.CONFIG.sdf_threshold


def test_a_camera_inside_the_object_hits_at_depth_zero() -> None:
    network = rays.bumpy_ball("triton")
    at_center = rays.Rays(torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]]))
    inside = torch.ones(1, dtype=torch.bool)
    crossing = rays.SphereCrossing(torch.zeros(1), torch.ones(1), inside)
    request = rays.TraceRequest.for_training(network.sdf, at_center, crossing, inside, torch.rand(5))
    depth, hit = tracing.trace(network, request, rays.CONFIG)
    assert hit.all() and depth.item() == 0.0


def test_wide_networks_are_traced_by_the_accelerated_tracer() -> None:
    x = torch.zeros(1, 3)
    for width, features, has_tracer in ((64, 16, True), (65, 2, False)):
        twin = rays.bumpy_ball("triton", features, (16, width)).twin(x)
        assert twin is not None and (twin.first_hits is not None) == has_tracer


def test_a_training_step_equals_that_of_the_compiled_loops() -> None:
    results = []
    for backend in ("triton", "numba"):
        block = {**BLOCK, "bound": 1.0, "backend": backend}
        keys = {"encoding": block, "dims": [16, 16], "skip_in": [], "multires": 0}
        changes = {f"implicit_network__{key}": value for key, value in keys.items()}
        model = idr_network(ray_tracer__strategy="compiled", **changes).train()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            loss = loss_of(model(camera_input()))["loss"]
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for one, two in zip(*results, strict=True):
        assert (one - two).abs().max() <= 1e-3 * two.abs().max().clamp_min(1e-4)


def refusal(encoding: HashGrid, x: Tensor) -> str:
    with pytest.raises(InputError) as caught:
        encoding(x)
    return str(caught.value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_devices_and_dtypes_are_refused(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = grid(backend)
    start = f"model.implicit_network.encoding.backend = {backend}: points are torch."
    remedy = "; it computes torch.float32 on a GPU; set backend = auto"
    assert f"{start}float64 on cpu{remedy}" in refusal(encoding, points(3, DOUBLE))
    monkeypatch.setattr(support, "INTERPRETED", False)
    monkeypatch.setattr(support, "_device_type", lambda: None)
    message = refusal(encoding, points(3))
    assert f"{start}float32 on cpu{remedy}" in message and "TRITON_INTERPRET=1" in message
    monkeypatch.setattr(encoding_module, "find_kernel", lambda name: None)
    with pytest.raises(InputError, match=f"backend = {backend}: Triton is not installed .*backend = auto"):
        grid(backend)


def test_auto_does_not_choose_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(encoding_module, "find_kernel", lambda name: asked.append(name))
    grid("auto")(points(3))
    assert asked == ["hashgrid_numba"]


COMPILE = Path(__file__).with_name("compile_for_gpu.py")


@pytest.mark.skipif(
    importlib.util.find_spec("triton.backends.nvidia") is None, reason="Triton has no compiler for NVIDIA"
)
@pytest.mark.parametrize("capability", [80, 90])
def test_all_kernels_compile_for_a_gpu(capability: int, tmp_path: Path) -> None:
    """The compiler checks types and shapes that the interpreter does not."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, COMPILE, str(capability)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    usage = json.loads(done.stdout)
    kernels = {"_value", "_scatter", "_bend", "_value_and_slope", "_gradients_of_scaled", "_trace"}
    assert set(usage) == kernels
    for name, (shared, stack) in usage.items():
        assert shared <= 48 * 1024, name  # that of every GPU
        assert stack <= 64, name  # more are registers that did not suffice
