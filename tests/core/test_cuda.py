"""Every solver, affinity and annotator takes CUDA tensors and gives what the CPU gives."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.folders import contents, make_folders
from support.processes import environment
from torch import Tensor

from selflabel import (
    DenseAffinity,
    Energy,
    GaussianKernel,
    GridAffinity,
    Problem,
    WindowAffinity,
    solve,
)
from selflabel.affinity import Affinity, Exact, Lattice
from selflabel.annotators import ProductAnnotator
from selflabel.files.label_files import read_index
from selflabel.labels import UNLABELED
from selflabel.solvers import SOLVERS
from selflabel.terms import RELAXATIONS, Relaxation, potts_and_grad

pytestmark = pytest.mark.cuda

KERNELS = (GaussianKernel(1.0, 20.0, 40.0), GaussianKernel(0.5, 2.0, None))
AFFINITIES: dict[str, Callable[[Tensor], Affinity]] = {
    "grid": lambda image: GridAffinity.from_image(image, 40.0, 8, by_distance=True),
    "window": lambda image: WindowAffinity.from_image(image, 2, (GaussianKernel(1.0, 3.0, 60.0),)),
    "lattice": lambda image: DenseAffinity.from_image(image, KERNELS, filtering=Lattice(), symmetric=True),
    "exact": lambda image: DenseAffinity.from_image(image, KERNELS, filtering=Exact(), symmetric=True),
}


def scene(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Two images, predictions of three classes and some seeds."""
    image = torch.rand(2, 3, 24, 30, generator=generator)
    probs = (2 * torch.randn(2, 3, 24, 30, generator=generator)).softmax(1)
    seeds = torch.full((2, 24, 30), UNLABELED)
    seeds[:, 3, 4:9], seeds[:, 12, 3:20], seeds[:, 20, 9:25] = 0, 1, 2
    return image, probs, seeds


@pytest.mark.parametrize("kind", AFFINITIES)
def test_affinities_agree(kind: str, generator: torch.Generator) -> None:
    image, probs, _ = scene(generator)
    here: Affinity = AFFINITIES[kind](image)
    there: Affinity = AFFINITIES[kind](image.cuda())
    torch.testing.assert_close(there.apply(probs.cuda()).cpu(), here.apply(probs), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(there.degree().cpu(), here.degree(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("relaxation", RELAXATIONS, ids=lambda r: r.name)
def test_relaxations_agree(relaxation: Relaxation, generator: torch.Generator) -> None:
    image, probs, _ = scene(generator)
    value, grad = potts_and_grad(probs, AFFINITIES["grid"](image), relaxation)
    other, other_slope = potts_and_grad(probs.cuda(), AFFINITIES["grid"](image.cuda()), relaxation)
    torch.testing.assert_close(other.cpu(), value, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other_slope.value.cpu(), grad.value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_agree(name: str, generator: torch.Generator) -> None:
    image, probs, seeds = scene(generator)
    solver = SOLVERS[name]()
    kind = "lattice" if name == "mean-field" else "grid"
    energy: Energy = solver.default_energy
    here = solve(Problem(energy, probs, seeds, AFFINITIES[kind](image)), solver)
    there = solve(Problem(energy, probs.cuda(), seeds.cuda(), AFFINITIES[kind](image.cuda())), solver)
    assert there.labels.is_cuda
    torch.testing.assert_close(there.energy.cpu(), here.energy, rtol=5e-3, atol=1e-2)
    assert (there.labels.cpu().argmax(1) == here.labels.argmax(1)).float().mean() > 0.98


def test_annotators_stay_on_the_device(generator: torch.Generator) -> None:
    image, _, seeds = scene(generator)
    here = ProductAnnotator().predict(image, seeds, 3)
    there = ProductAnnotator().predict(image.cuda(), seeds.cuda(), 3)
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["gradient-descent", "mean-field", "random-walker"])
def test_folders_are_labeled_as_on_the_cpu_twice_with_the_same_bytes(tmp_path: Path, name: str) -> None:
    """The command, whose process has no CUDA: its forks have."""
    folders = make_folders(tmp_path, 6)

    def labeled(out: str, device: str) -> Path:
        given = ["label", str(folders[0]), "--seeds", str(folders[1]), "--out", str(tmp_path / out)]
        given += ["--solver", name, "--soft", "float16", "--workers", "2", "--device", device]
        command = [sys.executable, "-m", "selflabel", *given]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return tmp_path / out

    here, there, again = labeled("cpu", "cpu"), labeled("one", "cuda"), labeled("two", "cuda:0")
    assert contents(there) == contents(again)
    indices = [
        np.stack([read_index(out / "labels" / f"a{number}.png") for number in range(6)])
        for out in (here, there)
    ]
    assert np.mean(indices[0] == indices[1]) >= 0.9999
    energies = [
        np.array([r["energy_after"] for r in lines_of(out) if "stem" in r], float) for out in (here, there)
    ]
    np.testing.assert_allclose(energies[1], energies[0], rtol=1e-3)
    names = {str(line["device"]) for line in lines_of(there) if "stem" in line}
    assert names == {torch.cuda.get_device_name(0)}


def lines_of(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
