"""Trained intrinsics of a run.

B training images, M other views.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from idr.geometry.cameras import corrected_intrinsics


@dataclass(frozen=True)
class IntrinsicsCorrections:
    """What training changed in the given intrinsics, see `corrected_intrinsics`; on the CPU.

    Attributes:
        log_focal: (B, 1) logarithm of the focal length's factor, 0 if focal lengths were fixed.
        principal_point: (B, 2) shift in given focal lengths, 0 if it was fixed.
    """

    log_focal: Tensor
    principal_point: Tensor

    def of_training_views(self, given: Tensor) -> Tensor:
        """Returns the trained K, (B, 4, 4), for the given K of the training views, (B, 4, 4)."""
        return corrected_intrinsics(given, self.log_focal, self.principal_point)

    def of_other_views(self, given: Tensor) -> Tensor:
        """Returns the given K of other views, (M, 4, 4), changed by the mean correction."""
        means = (table.mean(dim=0).expand(len(given), -1) for table in (self.log_focal, self.principal_point))
        return corrected_intrinsics(given, *means)
