"""Commands from functions of one dataclass of options: its declarations become the flags."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING
from typing import Annotated, Any, TypeVar, get_origin, get_type_hints

import typer

from selflabel.cli.config.declarations import Argument, Declared, declared
from selflabel.cli.config.options import Layered, PrintingOptions

T = TypeVar("T")

CONTEXT = "context"
"""The parameter in which typer says where values are from."""


def command(body: Callable[[T], None]) -> Callable[..., None]:
    """A function as typer takes it: a parameter for each option of the dataclass that `body` takes.

    It calls the object of typer's context first, if there is one.
    """
    kind = next(iter(get_type_hints(body).values()))
    options = declared(kind)

    def call(**values: Any) -> None:
        context = values.pop(CONTEXT)
        if context.obj is not None:
            context.obj()
        if issubclass(kind, PrintingOptions):
            from selflabel.cli import screen  # not for the help

            screen.configure(quiet=values["quiet"], verbose=values["verbose"])
        given = {name: _plain(options[name], value) for name, value in values.items()}
        if issubclass(kind, Layered):
            sources = {name: context.get_parameter_source(name) for name in options}
            given["given"] = frozenset(
                name for name, source in sources.items() if source is not None and source.name != "DEFAULT"
            )
        try:
            body(kind(**given))
        except KeyboardInterrupt:  # the commands tell more where there is more to tell
            from selflabel.cli import screen

            raise screen.interrupted("") from None

    context = inspect.Parameter(CONTEXT, inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context, *map(_parameter, options.values())]
    call.__name__, call.__doc__ = body.__name__, body.__doc__
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


def _plain(one: Declared, value: Any) -> Any:
    return tuple(value or ()) if get_origin(one.kind) is tuple else value


def _parameter(one: Declared) -> inspect.Parameter:
    option = one.option
    several = get_origin(one.kind) is tuple
    shared: dict[str, Any] = {
        "help": option.help,
        "metavar": option.metavar,
        "min": option.min,
        "max": option.max,
    }
    if isinstance(option, Argument):
        info = typer.Argument(**shared)
    else:
        flags = option.flags or _flags(one)
        info = typer.Option(*flags, **shared, show_default=option.shown or True, rich_help_panel=one.panel)
    kind = list[str] if several else one.kind
    default = inspect.Parameter.empty if one.default is MISSING else one.default
    return inspect.Parameter(
        one.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[kind, info],
        default=None if several and default == () else default,  # click before 8.2 takes no () for arguments
    )


def _flags(one: Declared) -> tuple[str, ...]:
    name = "--" + one.name.replace("_", "-")
    return (f"{name}/--no{name[1:]}",) if one.kind is bool and one.default else (name,)
