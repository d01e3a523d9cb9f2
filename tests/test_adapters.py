"""Adapters between feature spaces."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spotkd.adapters import BatchNorm2d, ConvReg, CrossKindReg, TokenReg, as_map, make_adapter, map_shape

Shape = tuple[int, ...]

MAP, TOKENS, VECTOR = (4, 8, 8), (65, 6), (5,)
KINDS: list[Shape] = [MAP, (3, 2, 2), TOKENS, (17, 7), VECTOR, (9,)]


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
    adapter = make_adapter(shape_in, shape_out)
    assert isinstance(adapter, ConvReg)
    assert adapter.conv.kernel_size == (kernel, kernel)
    assert adapter.conv.stride == (stride, stride)
    assert adapter.conv.bias is not None
    out = adapter(torch.randn(3, *shape_in))
    assert out.shape == (3, *shape_out)
    assert out.min() == 0  # ends in a ReLU
    assert ConvReg(shape_in, shape_out, relu=False)(torch.randn(3, *shape_in)).min() < 0


@pytest.mark.parametrize("size", [8, 2, 20])
def test_a_map_is_resized_then_mixed_and_normalised(size: int) -> None:
    adapter = make_adapter(MAP, (6, size, size))
    assert isinstance(adapter, ConvReg)
    x = torch.randn(3, *MAP)
    resized = x if size == 8 else F.interpolate(x, (size, size), mode="bilinear")
    if size == 2:
        resized = x.view(3, 4, 2, 4, 2, 4).mean((3, 5))
    y = torch.einsum("oc,bchw->bohw", adapter.conv.weight[:, :, 0, 0], resized)
    mean, variance = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), keepdim=True, unbiased=False)
    torch.testing.assert_close(adapter(x), ((y - mean) / (variance + 1e-5).sqrt()).relu(), rtol=1e-4, atol=1e-5)


def test_one_value_a_channel_is_normalised_with_the_running_statistics() -> None:
    ours, usual = BatchNorm2d(4), nn.BatchNorm2d(4)
    for _ in range(3):
        x = torch.randn(5, 4, 1, 1)
        assert torch.equal(ours(x), usual(x))
    statistics = {key: value.clone() for key, value in ours.state_dict().items()}
    one = torch.randn(1, 4, 1, 1)
    assert torch.equal(ours(one), usual.eval()(one))  # in train mode the usual one raises an error
    assert all(torch.equal(value, statistics[key]) for key, value in ours.state_dict().items())
    assert torch.equal(ours.eval()(x), usual(x))


def test_vectors_take_a_linear_layer() -> None:
    adapter = make_adapter((4,), (7,))
    assert isinstance(adapter, nn.Linear)
    assert adapter.bias is not None


@pytest.mark.parametrize("length", [65, 17, 100])
def test_tokens_take_a_normalised_linear_layer(length: int) -> None:
    adapter = make_adapter(TOKENS, (length, 7))
    assert isinstance(adapter, TokenReg)
    x = 100 * torch.randn(3, *TOKENS) + 50
    grid = x[:, 1:].reshape(3, 8, 8, -1)  # behind the class token
    if length == 65:
        resampled = x
    elif length == 17:  # a class token and half of the grid's side
        halved = (grid[:, 0::2, 0::2] + grid[:, 1::2, 0::2] + grid[:, 0::2, 1::2] + grid[:, 1::2, 1::2]) / 4
        resampled = torch.cat([x[:, :1], halved.flatten(1, 2)], dim=1)
    else:  # a larger grid, and no class token
        larger = F.interpolate(grid.permute(0, 3, 1, 2), (10, 10), mode="bilinear")
        resampled = larger.flatten(2).transpose(1, 2)
    mean, variance = resampled.mean(2, keepdim=True), resampled.var(2, keepdim=True, unbiased=False)
    expected = (resampled - mean) / (variance + 1e-5).sqrt() @ adapter.linear.weight.T + adapter.linear.bias
    out = adapter(x)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    assert out.shape == (3, length, 7)
    assert out.min() < 0  # the stream is signed


@pytest.mark.parametrize(("shape_in", "shape_out"), list(itertools.product(KINDS, KINDS)), ids=str)
def test_every_kind_reaches_every_other(shape_in: Shape, shape_out: Shape) -> None:
    torch.manual_seed(0)
    adapter = make_adapter(shape_in, shape_out)
    assert isinstance(adapter, CrossKindReg) == (len(shape_in) != len(shape_out))
    x = torch.randn(6, *shape_in, requires_grad=True)
    out = adapter(x)
    assert out.shape == (6, *shape_out)
    gradients = torch.autograd.grad((out * torch.randn_like(out)).sum(), [x, *adapter.parameters()])
    assert all(torch.isfinite(g).all() and g.any() for g in gradients)


def test_tokens_to_a_map_leave_the_class_token_out() -> None:
    adapter = make_adapter(TOKENS, MAP)
    x = torch.randn(3, *TOKENS)
    grid = torch.zeros(3, 6, 8, 8)
    for position in range(64):  # row by row, behind the class token
        grid[:, :, position // 8, position % 8] = x[:, 1 + position]
    assert isinstance(adapter, CrossKindReg)
    torch.testing.assert_close(adapter(x), adapter.regressor(grid))
    other = torch.cat([torch.randn(3, 1, 6), x[:, 1:]], dim=1)
    assert torch.equal(adapter(other), adapter(x))


@pytest.mark.parametrize(("length", "before"), [(64, 0), (65, 1), (68, 4)])
def test_a_map_to_tokens_fills_what_stands_before_the_grid_with_its_mean(length: int, before: int) -> None:
    adapter = make_adapter(MAP, (length, 6))
    x = torch.randn(3, *MAP)
    assert isinstance(adapter, CrossKindReg)
    out, y = adapter(x), adapter.regressor(x)
    for position in range(64):
        assert torch.equal(out[:, before + position], y[:, :, position // 8, position % 8])
    for position in range(before):
        torch.testing.assert_close(out[:, position], y.mean((2, 3)))


def test_a_vector_is_a_map_of_one_position() -> None:
    adapter = make_adapter(VECTOR, MAP)
    out = adapter(torch.randn(3, *VECTOR))
    torch.testing.assert_close(out, out[:, :, :1, :1].expand_as(out))
    adapter = make_adapter(MAP, VECTOR)
    x = torch.randn(3, *MAP)
    shuffled = x.flatten(2)[..., torch.randperm(64)].view_as(x)
    torch.testing.assert_close(adapter(x), adapter(shuffled))  # pooled first


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((4, 8, 6), (4, 8, 6)),
        ((64, 6), (6, 8, 8)),
        ((65, 6), (6, 8, 8)),
        ((68, 6), (6, 8, 8)),
        ((197, 6), (6, 14, 14)),
        ((201, 6), (6, 14, 14)),
        ((5,), (5, 1, 1)),
    ],
)
def test_features_as_maps(shape: Shape, wanted: Shape) -> None:
    x = torch.randn(2, *shape)
    assert map_shape(shape) == wanted
    assert as_map(x).shape == (2, *wanted)
    if len(shape) == 2:
        before = shape[0] - wanted[1] * wanted[2]
        assert torch.equal(as_map(x)[:, :, 1, 2], x[:, before + wanted[2] + 2])
