"""Distinct 64-bit keys, numbered in order of first occurrence: open addressing, linear probing, at most half full."""

import numpy as np

from selflabel.kernels.cpu.compile import kernel


@kernel
def _slot(key, shift):
    """The first slot to probe: the high bits of the key times ``2^64 / golden ratio``."""
    return np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> shift)


@kernel
def _slots(keys, count, bits):
    """A table of ``2^bits`` slots with the numbers 0, 1, ... of distinct keys, -1 in empty slots."""
    slots = np.full(1 << bits, np.int32(-1), np.int32)
    shift, mask = np.uint64(64 - bits), (1 << bits) - 1
    for number in range(count):
        at = _slot(keys[number], shift)
        while slots[at] >= 0:
            at = (at + 1) & mask
        slots[at] = number
    return slots


# A loop with breaks inside takes a third of the time of one with a condition at its head.


@kernel
def numbered(keys, numbers, first, last):
    """Write the number of each key in a range of rows; returns the distinct keys."""
    distinct = np.empty(1 << 14, np.int64)
    bits, count = 15, 0
    slots = _slots(distinct, 0, bits)
    shift, mask = np.uint64(64 - bits), (1 << bits) - 1
    for row in range(first, last):
        for column in range(keys.shape[1]):
            key = keys[row, column]
            at = _slot(key, shift)
            while True:
                number = slots[at]
                if number < 0:
                    if count == distinct.size:
                        longer = np.empty(2 * count, np.int64)
                        longer[:count] = distinct
                        distinct = longer
                    distinct[count] = key
                    slots[at] = count
                    numbers[row, column] = count
                    count += 1
                    if 2 * count > mask:
                        bits += 1
                        slots = _slots(distinct, count, bits)
                        shift, mask = np.uint64(64 - bits), (1 << bits) - 1
                    break
                if distinct[number] == key:
                    numbers[row, column] = number
                    break
                at = (at + 1) & mask
    return distinct[:count].copy()
