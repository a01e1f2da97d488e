"""The options of an energy and its affinity, which several commands take."""

from typing import Annotated

import typer

PANEL = "Energy and affinity (default: those of the solver or method)"

Coupling = Annotated[
    str | None, typer.Option(help="Cross-entropy of labels and prediction.", rich_help_panel=PANEL)
]
Relaxation = Annotated[str | None, typer.Option(help="Potts relaxation.", rich_help_panel=PANEL)]
CouplingWeight = Annotated[float | None, typer.Option(min=0, help="η", rich_help_panel=PANEL)]
PairwiseWeight = Annotated[float | None, typer.Option(min=0, help="λ", rich_help_panel=PANEL)]
EntropyWeight = Annotated[float | None, typer.Option(min=0, help="τ (mean-field: 1).", rich_help_panel=PANEL)]
Affinity = Annotated[str | None, typer.Option(help="grid, contrast, window or dense.", rich_help_panel=PANEL)]
Sigma = Annotated[float | None, typer.Option(help="Color bandwidth in 0..255 units.", rich_help_panel=PANEL)]
SigmaXY = Annotated[
    float | None, typer.Option(help="Spatial bandwidth in pixels (window, dense).", rich_help_panel=PANEL)
]
Neighbors = Annotated[int | None, typer.Option(help="4 or 8 (grid).", rich_help_panel=PANEL)]
Radius = Annotated[int | None, typer.Option(help="In pixels (window).", rich_help_panel=PANEL)]
MaxSteps = Annotated[
    int | None, typer.Option(min=1, help="Limit of steps of a solve.", rich_help_panel=PANEL)
]
