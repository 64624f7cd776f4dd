"""Attempts of a reconstruction: where features may lie, how many there are, and how strict the mapper is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

FULL_SIDE, USUAL_SIDE = 3200, 2000
"""Pixels to which larger photographs are reduced for feature extraction, which then doubles them."""
BYTES_PER_PIXEL = 1100
"""Memory of a thread that extracts features, per pixel of the reduced photograph."""
EVERYWHERE, BACKDROP, MASKS = "everywhere", "off the still backdrop", "inside the masks"


@dataclass(frozen=True)
class _Thorough:
    """Constants of the second attempt; COLMAP's own values in parentheses."""

    num_features: int = 16384  # (8192)
    peak_threshold: float = 0.002  # (0.0067) contrast of a feature; keeps those of blurred photographs
    verified_matches: int = 12  # (15) of a pair
    initial_matches: int = 40  # (100) of the first pair
    initial_angle: float = 4.0  # (16) degrees between the rays of the first pair
    resected_points: int = 15  # (30) that a registered photograph must see
    resected_share: float = 0.15  # (0.25) of its matched points
    trials: int = 6  # (3) of registering a photograph


THOROUGH = _Thorough()


@dataclass(frozen=True)
class Attempt:
    """One way to reconstruct.

    Attributes:
        folder: Name of its folder in the work folder; empty for the work folder itself.
        region: Where features may lie, one of `EVERYWHERE`, `BACKDROP`, `MASKS`.
        side: Longest side in pixels of the photographs in which features are found.
        many_features: Whether weak features count, each described over several scales.
        guided: Whether matches are searched again along epipolar lines.
        relaxed: Whether the mapper accepts few matches and small angles.
        global_mapper: Whether all cameras are found at once, instead of one after the other.
        base: Folder of the attempt whose features and matches it starts from; None to begin anew.
    """

    folder: str
    region: str
    side: int
    many_features: bool
    guided: bool
    relaxed: bool
    global_mapper: bool
    base: str | None = None

    @property
    def title(self) -> str:
        """What it does, for the user."""
        words = [] if self.region == EVERYWHERE else [f"features {self.region}"]
        words += ["many features"] * self.many_features + ["guided matching"] * self.guided
        words += ["relaxed mapper"] * self.relaxed + ["global mapper"] * self.global_mapper
        return ", ".join(words) or "as usual"

    def extraction(self, pycolmap: Any, threads: int, longest: int) -> Any:
        """COLMAP's options of feature extraction, for photographs whose longest side has `longest` pixels."""
        options = pycolmap.FeatureExtractionOptions()
        options.use_gpu, options.max_image_size = False, self.side
        options.num_threads = _limited(threads, BYTES_PER_PIXEL * min(self.side, longest) ** 2 * 3 // 4)
        options.sift.estimate_affine_shape = True  # registers more photographs that are far apart
        if self.many_features:
            options.sift.max_num_features = THOROUGH.num_features
            options.sift.peak_threshold = THOROUGH.peak_threshold
        return options

    def matching(self, pycolmap: Any, threads: int) -> Any:
        """COLMAP's options of matching."""
        options = pycolmap.FeatureMatchingOptions()
        options.use_gpu, options.num_threads, options.guided_matching = False, threads, self.guided
        return options

    def verification(self, pycolmap: Any, seed: int) -> Any:
        """COLMAP's options of geometric verification."""
        options = pycolmap.TwoViewGeometryOptions()
        options.ransac.random_seed = seed
        options.filter_stationary_matches = self.region == BACKDROP
        if self.relaxed:
            options.min_num_inliers = THOROUGH.verified_matches
        return options

    def mapping(self, pycolmap: Any, threads: int, seed: int, smallest: int) -> Any:
        """COLMAP's options of the mapper, for models of at least `smallest` photographs."""
        one = pycolmap.GlobalPipelineOptions if self.global_mapper else pycolmap.IncrementalPipelineOptions
        options = one()
        options.num_threads, options.random_seed, options.min_model_size = threads, seed, smallest
        mapper = options.mapper
        if self.global_mapper:
            mapper.random_seed = mapper.rotation_averaging.random_seed = seed
            mapper.global_positioning.random_seed = mapper.retriangulation.random_seed = seed
            mapper.num_threads = threads
            mapper.global_positioning.use_gpu = mapper.bundle_adjustment.ceres.use_gpu = False
            return options
        mapper.random_seed = options.triangulation.random_seed = seed
        if self.relaxed:
            options.min_num_matches = THOROUGH.verified_matches
            mapper.init_min_num_inliers = THOROUGH.initial_matches
            mapper.init_min_tri_angle = THOROUGH.initial_angle
            mapper.abs_pose_min_num_inliers = THOROUGH.resected_points
            mapper.abs_pose_min_inlier_ratio = THOROUGH.resected_share
            mapper.max_reg_trials = THOROUGH.trials
        return options


def _limited(threads: int, memory: int) -> int:
    """As many of the threads, -1 for one per core, as half of the machine has `memory` bytes for."""
    count = threads if threads > 0 else os.cpu_count() or 1
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not every system says
        return threads
    return max(1, min(count, total // 2 // memory))
