"""Compiles Triton's kernels for an NVIDIA GPU of the given compute capability, without one.

Prints shared memory and stack of each kernel in bytes, as JSON.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from idr.geometry.spheres import SphereCrossing
from idr.model.implicit_network import ImplicitNetwork, ImplicitNetworkConfig
from idr.model.kernels.gpu import tracing
from idr.model.tracing import Rays, TracerConfig, TraceRequest

CPU = torch.device("cpu")
CUOBJDUMP = Path(next(iter(triton.backends.nvidia.__path__))) / "bin" / "cuobjdump"
USAGE: dict[str, tuple[int, int]] = {}
run = JITFunction.run


def compile_only(kernel, *arguments, grid, warmup, **constants):
    compiled = run(kernel, *arguments, grid=grid, warmup=True, **constants)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.check_output([CUOBJDUMP, "-res-usage", file.name], text=True)
    found = (compiled.metadata.shared, int(re.search(r"STACK:(\d+)", usage).group(1)))
    USAGE[kernel.__name__] = max(found, USAGE.get(kernel.__name__, found))
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
        block = {"type": "hashgrid", "levels": 8, "log2_table": 8, "backend": backend}
        config = ImplicitNetworkConfig(3, 1, (64, 64), encoding=block)
        network, x = ImplicitNetwork(3, config), torch.zeros(100, 3)
        output, gradient = network.value_and_gradient(x.requires_grad_())
        (output.sum() + gradient.sum()).backward()
        network.sdf(x.detach())
    crosses = torch.ones(100, dtype=torch.bool)
    crossing = SphereCrossing(torch.zeros(100), torch.ones(100), crosses)
    request = TraceRequest.for_training(network.sdf, Rays(x, x), crossing, crosses, torch.zeros(4))
    tracing.trace(network, request, TracerConfig(1.0))
    sys.stdout.write(json.dumps(USAGE))


if __name__ == "__main__":
    main()
