"""Adapters between feature spaces."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spotkd import SpotkdError
from spotkd.adapters import ConvReg, connect


@pytest.mark.parametrize(
    ("shape_in", "shape_out", "kernel", "stride"),
    [
        ((4, 8, 8), (6, 8, 8), 1, 1),
        ((4, 8, 8), (6, 4, 4), 3, 2),
        ((4, 4, 4), (6, 8, 8), 4, 2),
        ((4, 32, 32), (6, 8, 8), 1, 1),  # the author code would take a 25x25 kernel
        ((4, 7, 7), (6, 14, 28), 1, 1),
    ],
)
def test_convolution_fits_the_sizes(
    shape_in: tuple[int, int, int], shape_out: tuple[int, int, int], kernel: int, stride: int
) -> None:
    adapter = connect(shape_in, shape_out)
    assert isinstance(adapter, ConvReg)
    assert adapter.conv.kernel_size == (kernel, kernel)
    assert adapter.conv.stride == (stride, stride)
    assert adapter.conv.bias is not None
    out = adapter(torch.randn(3, *shape_in))
    assert out.shape == (3, *shape_out)
    assert out.min() == 0  # ends in a ReLU


def test_vectors_take_a_linear_layer() -> None:
    adapter = connect((4,), (7,))
    assert isinstance(adapter, nn.Linear)
    assert adapter.bias is not None


def test_a_map_and_a_vector_do_not_join() -> None:
    with pytest.raises(SpotkdError, match=r"no adapter joins"):
        connect((4, 8, 8), (4,))
