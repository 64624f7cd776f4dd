"""The frame that a surface was learned in, compared with the scene's."""

import numpy as np
import pytest
import torch

from idr.errors import InputError
from idr.geometry.frames import check_frame, frame_of


def similarity(center=(1.0, 2.0, 3.0), radius=2.0):
    matrix = torch.eye(4, dtype=torch.float64) * radius
    matrix[:3, 3] = torch.tensor(center)
    matrix[3, 3] = 1
    return matrix


def test_the_same_frame_up_to_rounding_is_accepted():
    check_frame(similarity(), similarity().float().double() * (1 + 1e-7), "checkpoint 5")


@pytest.mark.parametrize("changed", [similarity(radius=2.01), similarity(center=(1.0, 2.0, 3.01))])
def test_another_frame_is_refused_with_both_spheres_and_a_remedy(changed):
    with pytest.raises(InputError) as refusal:
        check_frame(similarity(), changed, "checkpoint 5")
    words = str(refusal.value)
    assert "checkpoint 5" in words and "(1, 2, 3), radius 2;" in words
    assert "preprocess_cameras.py" in words and "cameras_backup.npz" in words


@pytest.mark.parametrize("pair", [(None, similarity()), (similarity(), None)])
def test_an_unknown_frame_is_not_compared(pair):
    check_frame(*pair, "checkpoint 5")


def test_a_data_set_without_scale_matrices_has_no_frame():
    class WithFrame:
        def get_scale_mat(self):
            return np.eye(4, dtype=np.float32)

    assert frame_of(object()) is None
    assert frame_of(WithFrame()).dtype == torch.float64
