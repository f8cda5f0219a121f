"""The number of images in a call: halved without memory, tried again later."""

import pytest
import torch

from services.engine.call_size import RECOVERY, CallSize
from services.engine.device_errors import is_device_lost, is_out_of_memory

SHAPE = (8, 8)


def test_a_size_that_failed_is_halved_and_only_for_its_shape() -> None:
    size = CallSize()
    assert size.of(SHAPE, 8) == 8
    size.ran_out(SHAPE, 8)
    assert (size.of(SHAPE, 8), size.of(SHAPE, 3), size.of((4, 4), 8)) == (4, 3, 8)
    size.ran_out(SHAPE, 4)
    size.ran_out(SHAPE, 2)
    size.ran_out(SHAPE, 1)
    assert size.of(SHAPE, 8) == 1


def test_a_larger_call_is_tried_again_after_a_while() -> None:
    size = CallSize()
    size.ran_out(SHAPE, 8)
    for _ in range(RECOVERY):
        assert size.of(SHAPE, 8) == 4
        size.worked(SHAPE, 3)  # says nothing about four
        size.worked(SHAPE, 4)
    assert size.of(SHAPE, 8) == 8
    size.ran_out(SHAPE, 8)
    assert size.of(SHAPE, 8) == 4


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("Failed to allocate memory for requested buffer of size 4096"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (MemoryError(), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_backends_say_in_their_own_words_that_memory_is_short(
    error: Exception, expected: bool
) -> None:
    assert is_out_of_memory(error) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (torch.AcceleratorError("an illegal memory access was encountered"), True),
        (RuntimeError("CUDA failure 700: an illegal memory access was encountered"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (RuntimeError("CUDA error: out of memory"), False),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_a_lost_device_is_told_from_a_full_one(error: Exception, expected: bool) -> None:
    assert is_device_lost(error) == expected
