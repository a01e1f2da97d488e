"""How kernels in Triton are launched: a stub in place of Triton counts what is compiled and what is only run."""

from typing import Any

import pytest
import torch
import triton

from selflabel.kernels.gpu.launch import Kernel, Launch, padded, power_of_two, tile

pytestmark = pytest.mark.needs_triton


class Compiled:
    """A compiled kernel; `fails` as other versions of Triton do."""

    function, packed_metadata = "function", "metadata"

    def __init__(self, fails: bool) -> None:
        self.fails, self.runs = fails, list[tuple[Any, ...]]()

    def run(self, *arguments: Any) -> None:
        if self.fails:
            raise TypeError("function takes another number of arguments")
        self.runs.append(arguments)


class Jit:
    """`triton.JITFunction`, which returns what it has compiled."""

    def __init__(self, fails: bool) -> None:
        self.compiled, self.launches = Compiled(fails), 0

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launched(*arguments: Any, num_warps: int, enable_fp_fusion: bool) -> Compiled:
            assert (num_warps, enable_fp_fusion) == (4, True)
            self.launches += 1
            return self.compiled

        return launched


def stub(fails: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[Kernel, Jit]:
    def function(x, factor, count, WIDE):  # type: ignore[no-untyped-def]
        raise AssertionError

    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 7, raising=False)
    kernel, jit = Kernel(function), Jit(fails)
    monkeypatch.setattr(triton, "jit", lambda function, do_not_specialize: jit)
    return kernel, jit


def test_what_is_compiled_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, jit = stub(False, monkeypatch)
    x = torch.zeros(64)
    kernel((3, 2), x, 1.0, 5, True)
    kernel((3, 2), x, 2.0, 6, True)
    assert jit.launches == 1
    assert jit.compiled.runs == [
        (3, 2, 1, 7, "function", "metadata", None, None, None, x.data_ptr(), 2.0, 6, True)
    ]


def test_other_forms_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another type, alignment or constant, and numbers of more than 32 bits."""
    kernel, jit = stub(False, monkeypatch)
    x = torch.zeros(64)
    for number, given in enumerate(
        [
            (x, 1.0, 5, True),
            (x.double(), 1.0, 5, True),
            (x[1:], 1.0, 5, True),
            (x, 1.0, 5, False),
            (x, 1.0, 2**40, True),
        ]
    ):
        kernel((1,), *given)
        assert jit.launches == number + 1
        kernel((1,), *given)
        assert jit.launches == number + 1


def test_arrays_and_pixels_are_specialized(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nothing would be read in vectors; other numbers would be compiled for again and again."""

    def function(x, to, factor, count, pixels, WIDE):  # type: ignore[no-untyped-def]
        raise AssertionError

    found, jit = list[list[str]](), Jit(False)

    def made(function: object, do_not_specialize: list[str]) -> Jit:
        found.append(do_not_specialize)
        return jit

    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 7, raising=False)
    monkeypatch.setattr(triton, "jit", made)
    kernel, x = Kernel(function), torch.zeros(64)
    for number, pixels in enumerate((9, 32, 1)):
        kernel((1,), x, x, 1.0, 5, pixels, True)
        kernel((1,), x, x, 1.0, 7, pixels, True)
        assert jit.launches == number + 1
    assert found == [["count"]]


def test_other_versions_of_triton_launch_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, jit = stub(True, monkeypatch)
    for launches in (1, 2, 3):
        kernel((1,), torch.zeros(4), 1.0, 5, True)
        assert jit.launches == launches


@pytest.mark.parametrize("fails", [False, True])
def test_a_launch_that_is_repeated_is_prepared_once(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, jit = stub(fails, monkeypatch)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    asked: list[object] = []
    form = Kernel._form

    def watched(*given: Any) -> tuple[object, ...]:
        asked.append(given)
        return form(*given)

    monkeypatch.setattr(Kernel, "_form", watched)
    x = torch.zeros(64)
    launch = Launch(kernel, (3,), x, 1.0, 5, True)
    assert not asked
    launch()
    launch()
    before = len(asked)
    launch()
    if fails:  # each is Triton's own, as are those of the kernel from then on
        assert jit.launches == 3
        kernel((3,), x, 1.0, 5, True)
        assert jit.launches == 4
        return
    assert len(asked) == before
    assert (jit.launches, len(jit.compiled.runs)) == (1, 2)
    assert jit.compiled.runs[0] == (
        3,
        1,
        1,
        7,
        "function",
        "metadata",
        None,
        None,
        None,
        x.data_ptr(),
        1.0,
        5,
        True,
    )


@pytest.mark.parametrize(
    ("columns", "width", "block"), [(1, 4, 4), (4, 4, 4), (5, 8, 8), (21, 24, 32), (150, 152, 32)]
)
def test_blocks_of_columns(columns: int, width: int, block: int) -> None:
    assert padded(columns) == width
    assert tile(width)[1] == block
    assert [power_of_two(count) for count in (1, 2, 3, 8, 9)] == [1, 2, 4, 8, 16]
