"""Compiles Triton's kernels for an NVIDIA GPU of the given compute capability, without one.

Prints the shared memory of each kernel in bytes, as JSON.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from idr.geometry.spheres import SphereCrossing
from idr.model.implicit_network import ImplicitNetwork, ImplicitNetworkConfig
from idr.model.kernels.gpu import tracing
from idr.model.tracing import Rays, TracerConfig, TraceRequest

CPU = torch.device("cpu")
SHARED: dict[str, int] = {}
run = JITFunction.run


def compile_only(kernel, *arguments, grid, warmup, **constants):
    compiled = run(kernel, *arguments, grid=grid, warmup=True, **constants)
    SHARED[kernel.__name__] = max(compiled.metadata.shared, SHARED.get(kernel.__name__, 0))
    assert compiled.asm["cubin"]
    return compiled


def main() -> None:
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: target,
            get_current_device=lambda: 0,
            get_current_stream=lambda device: 0,
            get_active_torch_device=lambda: CPU,
        )
    )
    JITFunction.run = compile_only
    torch.ops.aten.embedding_dense_backward = lambda terms, rows, count, *_: terms.new_zeros(
        count, terms.shape[1]
    )
    for backend in ("triton", "triton_atomic"):
        block = {
            "type": "hashgrid",
            "levels": 4,
            "log2_table": 8,
            "base_resolution": 3,
            "finest_resolution": 12,
        }
        config = ImplicitNetworkConfig(3, 1, (16, 32), encoding={**block, "backend": backend})
        network, x = ImplicitNetwork(3, config), torch.zeros(100, 3)
        output, gradient = network.value_and_gradient(x.requires_grad_())
        (output.sum() + gradient.sum()).backward()
        network.sdf(x.detach())
    crosses = torch.ones(100, dtype=torch.bool)
    crossing = SphereCrossing(torch.zeros(100), torch.ones(100), crosses)
    request = TraceRequest.for_training(network.sdf, Rays(x, x), crossing, crosses, torch.zeros(4))
    tracing.trace(network, request, TracerConfig(1.0))
    sys.stdout.write(json.dumps(SHARED))


if __name__ == "__main__":
    main()
