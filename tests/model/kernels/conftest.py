"""Triton's kernels run in its interpreter, on a CPU; Triton reads this variable at its import."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
