"""The command line: `label`, `annotate`, `train`, `predict`, `compare`, `gap`, `score`, `inspect`, `solvers`, `demo`.

Names become objects in `config.registry` and `config.recipes` only. Nothing heavy is imported before a command runs,
so that help is immediate.
"""

import gc
import sys
from typing import Annotated

import typer

import selflabel
from selflabel.cli.annotate import annotate
from selflabel.cli.compare import compare
from selflabel.cli.demo import demo
from selflabel.cli.endings import outputs_may_fail, signals_interrupt
from selflabel.cli.flags import command
from selflabel.cli.gap import gap
from selflabel.cli.inspect import inspect
from selflabel.cli.label import label
from selflabel.cli.predict import predict
from selflabel.cli.score import score
from selflabel.cli.solvers import solvers
from selflabel.cli.train import train

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From scribbles and network predictions to dense labels: one energy, interchangeable solvers.",
)
app.command()(command(label))
app.command()(command(annotate))
app.command()(command(train))
app.command()(command(predict))
app.command()(command(compare))
app.command()(command(gap))
app.command()(command(score))
app.add_typer(inspect, name="inspect")
app.command()(solvers)
app.command()(command(demo))


def _version(asked: bool) -> bool:
    if asked:
        sys.stdout.write(f"{selflabel.__version__}\n")
        raise typer.Exit
    return asked


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _prepare() -> None:
    """What commands do first, but no help: the process is ours, and most commands solve many large problems."""
    from selflabel.kernels.malloc import keep_freed_memory
    from selflabel.kernels.processors import share_processors

    keep_freed_memory()
    share_processors()


def main() -> None:
    """The entry point of the command `selflabel`."""
    try:
        with outputs_may_fail(), signals_interrupt():
            app(obj=_prepare)
    finally:
        # or Python would look for garbage in all that was imported before it ends: half a second; the binding of
        # triton, which torch imports to train where it is installed, would report all that stays as a leak
        if "triton" not in sys.modules:
            gc.freeze()
