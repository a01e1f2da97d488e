"""`selflabel solvers`: the tables of names."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from selflabel.labeling.labeler import Labeler


def solvers() -> None:
    """List solvers, annotators, affinities, losses and energies: what each does, its options, their defaults."""
    from selflabel.cli import screen
    from selflabel.cli.config import registry
    from selflabel.cli.config.losses import LOSSES
    from selflabel.terms import COUPLINGS, RELAXATIONS, VARIATIONS

    screen.show(_classes("--solver", registry.SOLVERS, "--set"))
    screen.show(_labelers())
    screen.show(_classes("--annotator", registry.ANNOTATORS, "--set annotator."))
    screen.show(_classes("--affinity", registry.AFFINITIES, "--set affinity."))
    screen.show(_classes("--loss", LOSSES, "--set loss."))
    screen.tell("--coupling: " + ", ".join(coupling.name for coupling in COUPLINGS))
    screen.tell("--relaxation: " + ", ".join(relaxation.name for relaxation in (*RELAXATIONS, *VARIATIONS)))


def summary(kind: type) -> str:
    """The first sentence of a class's docstring, on one line."""
    paragraph = (kind.__doc__ or "").strip().split("\n\n")[0]
    return " ".join(paragraph.split())


def _classes(title: str, table: Mapping[str, type], options: str) -> "Table":
    from rich.table import Table
    from rich.text import Text

    from selflabel.cli.config import registry

    shown = Table(title_justify="left", show_lines=True)
    shown.add_column(title, no_wrap=True)
    shown.add_column("what it does")
    shown.add_column(options)
    for name, kind in table.items():
        shown.add_row(Text(name), Text(summary(kind)), Text("\n".join(registry.settings_of(kind()))))
    return shown


def _labelers() -> "Table":
    from rich.table import Table
    from rich.text import Text

    from selflabel.cli.config import registry

    shown = Table(title="What `selflabel label` takes by default with each solver", title_justify="left")
    titles = ("--solver", "--coupling", "--relaxation", "η", "λ", "--affinity", "--annotator", "--set TERM.")
    for title in titles:
        shown.add_column(title)
    for name, kind in registry.SOLVERS.items():
        labeler = registry.default_labeler(kind())
        energy = labeler.energy
        annotator = (
            registry.NO_ANNOTATOR if labeler.annotator is None else registry.name_of(labeler.annotator)
        )
        shown.add_row(
            name,
            energy.coupling.name,
            energy.relaxation.name,
            f"{energy.coupling_weight:g}",
            f"{energy.pairwise_weight:g}",
            Text("\n".join([registry.name_of(labeler.affinity), *registry.settings_of(labeler.affinity)])),
            annotator,
            Text("\n".join(_terms(labeler))),
        )
    return shown


def _terms(labeler: "Labeler") -> list[str]:
    """The further terms of the energy, by name, each with its options and those of its own affinity."""
    from selflabel.cli.config import registry

    found = []
    for number, term in enumerate(labeler.energy.regularizers):
        found += [term.name, *registry.settings_of(term)]
        for affinity in labeler.affinities[number : number + 1]:
            found += [f"affinity.{setting}" for setting in registry.settings_of(affinity)]
    return found
