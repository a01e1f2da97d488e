"""Self-labeling in five lines: a small network learns from scribbles and the labels that a solver makes of them.

Runs in some seconds on a CPU, on a photograph that scikit-image ships and a few strokes:

    python examples/training_loop.py
"""

import torch
import torch.nn.functional as F
from skimage.data import astronaut
from torch import nn

from selflabel import GridAffinity, Problem, solve
from selflabel.solvers import GradientDescent


def strokes(height: int, width: int) -> torch.Tensor:
    """Scribbles on the astronaut: 0 background, 1 person; 255 where nothing is drawn."""
    seeds = torch.full((1, height, width), 255)
    seeds[0, 5:110, 8:11] = 0
    seeds[0, 10:13, 8:60] = 0
    seeds[0, 10:100, 118:121] = 0
    seeds[0, 25:60, 54:57] = 1
    seeds[0, 85:120, 50:53] = 1
    seeds[0, 100:103, 30:80] = 1
    return seeds


def main(steps: int = 60) -> float:
    """Train, and return the share of seeds that the network gets right."""
    torch.manual_seed(8_117)
    image = torch.from_numpy(astronaut()).permute(2, 0, 1)[None].float() / 255
    image = F.interpolate(image, size=(128, 128), mode="area").clamp(0, 1)
    seeds = strokes(128, 128)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 16, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 2, 1),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    affinity = GridAffinity.from_image(image, sigma=9.0)

    for step in range(steps):
        logits = network(image)
        loss = F.cross_entropy(logits, seeds, ignore_index=255)
        # A third of the steps on the seeds alone: labels would spread what an untrained network guesses.
        if step >= steps // 3:
            problem = Problem.from_logits(GradientDescent.default_energy, logits, seeds, affinity)
            labels = solve(problem, GradientDescent()).labels
            loss = loss + 0.3 * F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            print(f"step {step}: loss {loss.item():.3f}")

    known = seeds != 255
    return float((network(image).argmax(1) == seeds)[known].float().mean())


if __name__ == "__main__":
    print(f"{main():.1%} of the seeds right")
