"""Overlaps of boxes, in pairs and of all with all."""

import numpy as np

from unmask.faces.boxes import area, intersection, iou, squares


def test_iou_is_shared_area_over_joint_area() -> None:
    a = squares([0, 0], [0, 0], [10, 100])
    b = squares([0, 5, 10, 25], [0, 0, 10, 25], [10, 10, 10, 50])
    expected = [[1, 1 / 3, 0, 0], [0.01, 0.01, 0.01, 0.25]]
    np.testing.assert_allclose(iou(a[:, None], b), expected)
    np.testing.assert_allclose(iou(a, b[[0, 3]]), [1, 0.25])
    np.testing.assert_array_equal(intersection(a[0], b), [100, 50, 0, 0])
    np.testing.assert_array_equal(area(b), [100, 100, 100, 2500])
    assert iou(a[:, None], b[:0]).shape == (2, 0)
