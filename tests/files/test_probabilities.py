"""Files of probabilities: types, layouts, lists of classes, and what is refused with a remedy."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selflabel.files.number_types import normalized, quantized, softmax
from selflabel.files.probabilities import (
    Probabilities,
    ProbabilityFormat,
    as_probabilities,
    decode_probabilities,
    write_soft,
)

pytestmark = pytest.mark.quick

SIZE = (5, 7)
LOGITS = np.random.default_rng(2_909).normal(0, 2, (21, *SIZE))
PROBS = torch.from_numpy(LOGITS).softmax(0).numpy()
ONE_HOT = np.eye(21, dtype=bool)[PROBS.argmax(0)].transpose(2, 0, 1)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


# --- types ---


@pytest.mark.parametrize(
    ("stored", "error"),
    [
        (PROBS.astype(np.float32), 1e-6),
        (PROBS.astype(">f4"), 1e-6),
        (np.asfortranarray(PROBS), 1e-6),
        (PROBS.astype(np.longdouble), 1e-6),
        (PROBS.astype(np.float16), 1e-3),
        (torch.from_numpy(LOGITS).float().softmax(0).bfloat16().float().numpy(), 5e-3),
        (torch.from_numpy(LOGITS).bfloat16().softmax(0).float().numpy(), 2e-2),
        (np.rint(PROBS * 255).astype(np.uint8), 2e-2),
        ((PROBS * 255).astype(np.uint8), 6e-2),
        (np.rint(PROBS * 65535).astype(np.uint16), 1e-4),
        ((PROBS * 65535).astype(np.uint16), 4e-4),
        (np.rint(PROBS * 65535).astype(">u2"), 1e-4),
    ],
)
def test_types_that_hold_probabilities(stored: np.ndarray, error: float) -> None:
    found = normalized(stored)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, PROBS, atol=error)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-6)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.uint16, np.int16, np.int64, np.float16, np.float64])
def test_one_hot_of_any_type(kind: type) -> None:
    np.testing.assert_array_equal(normalized(ONE_HOT.astype(kind)), ONE_HOT)


def test_bytes_of_many_classes_that_are_cut() -> None:
    even = np.full((200, 1, 1), 1 / 200)
    np.testing.assert_allclose(normalized((even * 255).astype(np.uint8)), even, atol=1e-7)
    for count in (2, 3, 100, 254, 255):
        rows = np.full((count, 2, 2), 1 / count)
        np.testing.assert_allclose(normalized(quantized(rows)), rows, atol=1e-7)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (1 / (1 + np.exp(-LOGITS)), r"sum of \d.*wrong at 35 of 35 pixels.*sigmoid"),
        ((255 / (1 + np.exp(-LOGITS[:3]))).astype(np.uint8), "must sum to 1.*sigmoid"),
        (np.rint(65535 / (1 + np.exp(-LOGITS[:3]))).astype(np.uint16), "must sum to 1.*sigmoid"),
        (LOGITS, r"lie in \[0, 1\], got -\d.*logits need a softmax first"),
        (np.log(PROBS), "logits need a softmax first"),
        (PROBS * 100, r"got .* to \d.*they sum to about 100: divide by it"),
        (PROBS * 0.5, "got a sum of 0.5 .*they are about 0.5 everywhere: divide by it"),
        (
            np.rint(PROBS * 255).astype(np.uint16),
            "must sum to 1.*they are about 25. of 65535 everywhere: save floats",
        ),
        (
            np.rint(PROBS * 255).astype(np.int16),
            r"floats, bool, uint8 \(0..255\) or uint16.*got int16 of 0 to",
        ),
        (
            PROBS + 0.1 * np.sin(np.arange(21) * 2 * np.pi / 21)[:, None, None],
            "cubic filter. resize linearly",
        ),
        (
            np.where(np.eye(*SIZE), 0, PROBS),
            "sum of 0 .wrong at 5 of 35 pixels.: pixels of no class, such as a border",
        ),
        (np.zeros((3, *SIZE), np.uint8), "sum of 0 .*pixels of no class"),
        (np.where(np.eye(*SIZE), np.nan, PROBS), "105 of 735 probabilities are nan"),
        (np.zeros((2, *SIZE), bool), "expected one true value at each pixel, got 0 to 0: masks that overlap"),
        (ONE_HOT | ONE_HOT[::-1], "expected one true value at each pixel, got [12] to 2"),
        (-ONE_HOT.astype(np.int8), "got int8 of -1 to 0"),
        (PROBS.astype(complex), "expected probabilities as floats, .* got complex128"),
        (np.zeros((2, *SIZE), "V2"), r"got .*V2.*: bfloat16\? save it as float32"),
    ],
)
def test_numbers_that_are_no_probabilities(array: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalized(array)


# --- logits ---


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_logits_that_are_said_to_be_logits(shift: float) -> None:
    data = npz(x=LOGITS + shift)
    found = decode_probabilities(data, ".npz", SIZE, ProbabilityFormat(logits=True))
    np.testing.assert_allclose(found.probs, PROBS, atol=1e-5)
    np.testing.assert_allclose(softmax(np.log(PROBS).astype(np.float32)), PROBS, atol=1e-6)


def test_an_array_named_logits_holds_logits() -> None:
    np.testing.assert_allclose(decode_probabilities(npz(logits=LOGITS), ".npz", SIZE).probs, PROBS, atol=1e-6)
    with pytest.raises(ValueError, match=r"named logits, but holds probabilities: say which .*\(logits\)"):
        decode_probabilities(npz(logits=PROBS), ".npz", SIZE)
    found = decode_probabilities(npz(logits=PROBS), ".npz", SIZE, ProbabilityFormat(logits=False))
    np.testing.assert_allclose(found.probs, PROBS, atol=1e-6)
    with pytest.raises(ValueError, match="logits need a softmax"):
        decode_probabilities(npz(logits=LOGITS), ".npz", SIZE, ProbabilityFormat(logits=False))


def test_logits_that_will_not_do() -> None:
    masked = np.where(ONE_HOT, 0, -np.inf)
    np.testing.assert_array_equal(softmax(masked), ONE_HOT)
    for wrong in (np.where(np.eye(*SIZE), np.nan, LOGITS), np.where(np.eye(*SIZE), -np.inf, LOGITS)):
        with pytest.raises(
            ValueError, match="at 5 of 35 pixels the logits are nan, or the highest of them infinite"
        ):
            softmax(wrong)
    with pytest.raises(ValueError, match="expected logits as floats, got int64"):
        softmax(np.zeros((2, *SIZE), np.int64))


# --- layouts ---


@pytest.mark.parametrize(
    "array",
    [
        PROBS,
        PROBS[:, None],
        PROBS[None],
        PROBS[None, :, None],
        PROBS[..., None],
        PROBS.transpose(1, 2, 0),
        PROBS.transpose(1, 2, 0)[None],
    ],
)
def test_axes_as_the_size_says(array: np.ndarray) -> None:
    np.testing.assert_allclose(decode_probabilities(npy(array), ".npy", SIZE).probs, PROBS, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (1, 21)])
def test_axes_of_small_images(size: tuple[int, int]) -> None:
    random = np.random.default_rng(733)
    rows = random.dirichlet(np.ones(5), size).transpose(2, 0, 1)
    for array in (rows, rows[:, None], rows[None], rows.transpose(1, 2, 0)):
        np.testing.assert_allclose(as_probabilities(array, size).probs, rows, atol=1e-6)
    for array in (np.ones(size)[None], np.ones(size)[..., None], np.ones((1, *size, 1))):
        np.testing.assert_array_equal(as_probabilities(array, size).probs, np.ones((1, *size)))


def test_as_many_classes_as_rows_and_columns() -> None:
    rows = np.random.default_rng(739).dirichlet(np.ones(6), (6, 6)).transpose(2, 0, 1)
    for array in (rows, rows.transpose(1, 2, 0)):
        np.testing.assert_allclose(as_probabilities(array, (6, 6)).probs, rows, atol=1e-6)
    even = np.full((6, 6, 6), 1 / 6)
    for form in (ProbabilityFormat(channels_last=False), ProbabilityFormat(channels_last=True)):
        np.testing.assert_allclose(as_probabilities(even, (6, 6), form).probs, even, atol=1e-6)
    with pytest.raises(
        ValueError, match=r"\(6, 6, 6\) does not tell \[k h w\] from \[h w k\]: .*\(channels_last\)"
    ):
        as_probabilities(even, (6, 6))
    with pytest.raises(ValueError, match="channels_last"):
        as_probabilities(np.log(rows), (6, 6), ProbabilityFormat(logits=True))


@pytest.mark.parametrize(
    ("array", "form", "message"),
    [
        (
            PROBS.transpose(1, 2, 0),
            ProbabilityFormat(channels_last=False),
            r"looks like \[h w k\].*\(channels_last=True\)",
        ),
        (PROBS, ProbabilityFormat(channels_last=True), r"looks like \[k h w\].*\(channels_last=False\)"),
        (
            PROBS.transpose(0, 2, 1),
            ProbabilityFormat(),
            r"for 5 x 7 pixels .height x width., or \[h w k\].*exchanged",
        ),
        (PROBS[:, ::2], ProbabilityFormat(), r"got \(21, 3, 7\): predict or resize to the size of the image"),
        (
            PROBS[0],
            ProbabilityFormat(),
            r"expected three axes, one of them the classes; of one class\? np.stack",
        ),
        (PROBS.argmax(0), ProbabilityFormat(), r"expected three axes.*class indices\? give them as seeds"),
        (PROBS[:, 0], ProbabilityFormat(), "expected three axes"),
        (
            np.stack([PROBS] * 2),
            ProbabilityFormat(),
            "several images or a volume. save a file of three axes for each",
        ),
        (PROBS[:0], ProbabilityFormat(), r"got \(0, 5, 7\)"),
    ],
)
def test_shapes_that_do_not_fit(array: np.ndarray, form: ProbabilityFormat, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_probabilities(array, SIZE, form)


def test_shapes_are_checked_before_values_are_read() -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (200, 99_999, 99_999)}
    )
    with pytest.raises(OSError, match="expected 7999840000800 bytes of values, got 0"):
        decode_probabilities(header.getvalue(), ".npy", SIZE)
    with pytest.raises(ValueError, match="predict or resize"):  # not decompressed: a gigabyte of zeros
        decode_probabilities(npz(p=np.zeros((4, 2**13, 2**13), np.uint8)), ".npz", SIZE)


# --- arrays of npz files, and lists of classes ---


@pytest.mark.parametrize("key", ["", "labels"])
def test_classes_are_those_of_the_file_whatever_key_is_asked_for(key: str) -> None:
    rows = PROBS[:3] / PROBS[:3].sum(0)
    data = npz(labels=rows, classes=np.array([0, 2, 7]))
    found = decode_probabilities(data, ".npz", SIZE, ProbabilityFormat(key=key))
    assert found.classes is not None
    assert found.classes.tolist() == [0, 2, 7]


@pytest.mark.parametrize("name", ["probabilities", "softmax", "arr_0", "classes", "a b"])
def test_the_only_array_may_have_any_name(name: str) -> None:
    np.testing.assert_allclose(
        decode_probabilities(npz(**{name: PROBS}), ".npz", SIZE).probs, PROBS, atol=1e-6
    )
    if name != "classes":
        data = npz(**{name: PROBS}, classes=np.arange(21.0)[::-1])
        found = decode_probabilities(data, ".npz", SIZE)
        assert found.classes is not None
        assert found.classes.tolist() == list(range(20, -1, -1))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (np.array([0, 2]), "2 classes for 3 rows of probabilities"),
        (np.array([[0, 1, 2]]), r"a list of shape \(1, 3\) for the classes for 3 rows"),
        (np.array(2), "classes for 3 rows"),
        (np.array([0, 2, 255]), r"expected classes in 0\.\.254, got 255"),
        (np.array([0, -1, 2]), r"expected classes in 0\.\.254, got -1"),
        (np.array([0, 300, 2]), r"expected classes in 0\.\.254, got 300"),
        (np.array([0, np.nan, 2]), r"expected classes in 0\.\.254, got nan"),
        (np.array([0, 1.5, 2]), r"expected classes in 0\.\.254, got 1.5"),
        (np.array([0, 2, 2]), "expected each class once in the list of classes, got 2 2 times"),
        (
            np.array(["sky", "hill", "road"]),
            r"expected the class of each row as a whole number, got <U4: save numbers, or no list",
        ),
    ],
)
def test_lists_of_classes_that_will_not_do(classes: np.ndarray, message: str) -> None:
    rows = PROBS[:3] / PROBS[:3].sum(0)
    for key in ("", "labels"):
        with pytest.raises(ValueError, match=message):
            decode_probabilities(npz(labels=rows, classes=classes), ".npz", SIZE, ProbabilityFormat(key=key))


def test_255_classes_are_the_most(tmp_path: Path) -> None:
    row = np.full((300, 1, 1), 1 / 300)
    with pytest.raises(ValueError, match="expected at most 255 classes, got 300: 255 means unlabeled"):
        Probabilities(row)
    assert len(Probabilities(row[:255]).probs) == 255
    for wrong in (255, -1):
        with pytest.raises(ValueError, match=rf"expected classes in 0..254, got {wrong}"):
            Probabilities(row[:2], np.array([0, wrong]))
    with pytest.raises(ValueError, match="expected at most 255 classes, got 300"):
        decode_probabilities(npy(row), ".npy", (1, 1))
    write_soft(tmp_path / "p.npz", np.full((2, 1, 1), 0.5), np.array([0, 255]))
    with pytest.raises(ValueError, match=r"expected classes in 0\.\.254, got 255"):
        decode_probabilities((tmp_path / "p.npz").read_bytes(), ".npz", (1, 1))


def test_files_without_arrays_and_pickles_are_named() -> None:
    with pytest.raises(ValueError, match="expected an array of probabilities, got a file without arrays"):
        decode_probabilities(npz(), ".npz", SIZE)
    for suffix in (".npy", ".npz"):
        data = pickle.dumps(PROBS)
        with pytest.raises(
            (ValueError, OSError), match=r"a pickle, which is not opened|damaged npy or npz file"
        ):
            decode_probabilities(data, suffix, SIZE)


def test_arrays_of_objects_are_named() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, p=PROBS, meta=np.array([{}], dtype=object))
    np.testing.assert_allclose(decode_probabilities(buffer.getvalue(), ".npz", SIZE).probs, PROBS, atol=1e-6)
    with pytest.raises(ValueError, match=r"the array meta holds Python objects.*allow_pickle"):
        decode_probabilities(buffer.getvalue(), ".npz", SIZE, ProbabilityFormat(key="meta"))
