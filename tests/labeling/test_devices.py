"""What `--device` means for a folder, and how many images are solved at once."""

import pytest
import torch

from selflabel.labeling.devices import (
    LEAST_IMAGES_A_PROCESSOR,
    MOST_IMAGES,
    labeling_devices,
    most_images,
    on_device,
)
from selflabel.solvers import SOLVERS, GradientDescent, GraphCut, MeanField, RandomWalker

pytestmark = pytest.mark.quick

MANY = 1_000_000


def gpus(monkeypatch: pytest.MonkeyPatch, count: int, *, built: bool = True) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)


def names(name: str, solver: object, images: int = MANY, processors: int = 2) -> list[str]:
    return [str(each) for each in labeling_devices(name, solver, images, processors)]  # type: ignore[arg-type]


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_cpu_is_no_gpu(monkeypatch: pytest.MonkeyPatch, solver: str) -> None:
    gpus(monkeypatch, 2)
    assert names("cpu", SOLVERS[solver]()) == []


@pytest.mark.parametrize("solver", SOLVERS)
def test_auto_takes_gpus_where_labels_are_the_same_and_come_sooner(
    monkeypatch: pytest.MonkeyPatch, solver: str
) -> None:
    made = SOLVERS[solver]()
    gpus(monkeypatch, 2)
    known, least = on_device(made), 2 * LEAST_IMAGES_A_PROCESSOR
    gain = known.agrees and known.is_faster
    assert names("auto", made, least) == (["cuda:0", "cuda:1"] if gain else [])
    assert names("auto", made, least - 1) == []
    assert names("auto", made, least, processors=3) == []
    gpus(monkeypatch, 0)
    assert names("auto", made) == []


def test_some_solver_takes_a_gpu_by_itself_and_graph_cut_does_not() -> None:
    assert on_device(GradientDescent()).is_default
    assert not on_device(GraphCut()).is_default


def test_cuda_is_all_gpus_or_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 3)
    assert names("cuda", MeanField(), 1) == ["cuda:0", "cuda:1", "cuda:2"]
    assert names("cuda:2", RandomWalker(), 1) == ["cuda:2"]
    with pytest.raises(ValueError, match="no device 'cuda:3' here: there are cuda:0, cuda:1, cuda:2"):
        names("cuda:3", MeanField())


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:", "cuda:x", "cuda:-1", "", "CUDA"])
def test_other_names_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    gpus(monkeypatch, 1)
    with pytest.raises(ValueError, match="to label with: there are auto, cpu, cuda and cuda:N"):
        names(name, MeanField())


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_without_a_gpu_it_is_said_what_was_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    gpus(monkeypatch, 0, built=False)
    with pytest.raises(ValueError, match=rf"{name}' here: torch \S+ is built without CUDA; .*--device cpu"):
        names(name, MeanField())
    gpus(monkeypatch, 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(ValueError, match=r"finds no GPU, and CUDA_VISIBLE_DEVICES is '-1'; .*nvidia-smi"):
        names(name, MeanField())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(ValueError, match=r"finds no GPU; see whether"):
        names(name, MeanField())


def test_graph_cut_on_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 1)
    with pytest.raises(ValueError, match="graph-cut works on the CPU alone, got the device 'cuda'"):
        names("cuda", GraphCut())


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_batch_fits_the_memory_of_the_device(solver: str) -> None:
    made, pixels = SOLVERS[solver](), 321 * 481
    assert most_images(made, pixels, 21, None) == 1
    assert most_images(made, pixels, 21, 0) == 1
    assert most_images(made, pixels, 21, 1 << 50) == MOST_IMAGES
    some = most_images(made, pixels, 21, 4 << 30)
    assert 1 < some <= MOST_IMAGES
    assert most_images(made, 8 * pixels, 21, 4 << 30) <= some
    assert most_images(made, pixels, 150, 4 << 30) <= some


@pytest.mark.parametrize(
    ("solver", "shape", "peak"),
    [
        (MeanField(), (8, 21, 513 * 513), 5716e6),
        (MeanField(), (1, 21, 321 * 481), 446e6),
        (GradientDescent(), (12, 21, 513 * 513), 2440e6),
        (GradientDescent(), (1, 12, 360 * 480), 78e6),
        (RandomWalker(), (1, 5, 321 * 481), 82e6),
        (RandomWalker(), (1, 21, 321 * 481), 337e6),
    ],
)
def test_the_estimate_is_near_the_peaks_that_were_measured(
    solver: MeanField | GradientDescent | RandomWalker, shape: tuple[int, int, int], peak: float
) -> None:
    """Those of docs/gpu.md: not below them, nor more than four times as much."""
    images, classes, pixels = shape
    known = on_device(solver)
    estimate = images * pixels * (known.pixel_bytes + classes * known.class_bytes)
    assert 1 <= estimate / peak < 4
