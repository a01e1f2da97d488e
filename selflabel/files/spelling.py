"""How remedies name arguments: as Python does, or as the options of a command."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True)
class Spelling:
    """How the arguments of a format are called where it was made, so that an error names what its reader wrote.

    options: the option of each argument, as "--masks-values" of "values"; "logits=True" is the option of that value
    alone, "" where there is no way to give it. An argument without an option is named as in Python.
    call: where such arguments go, as "seeds_format=LabelFormat" of "seeds_format=LabelFormat(offset=1)".
    """

    options: Mapping[str, str] = field(default_factory=dict)
    call: str = ""

    def name(self, argument: str) -> str:
        """The argument alone: "values", or "--values"."""
        return self.options.get(argument, f"{self.call}({argument}=…)" if self.call else argument)

    def say(self, *given: tuple[str, object]) -> str:
        """Arguments with their values: "values=(0, 255)", or "--values 0,255"."""
        found = [self._said(argument, value) for argument, value in given]
        text = (" " if any(argument in self.options for argument, _ in given) else ", ").join(found)
        return f"{self.call}({text})" if self.call else text

    def _said(self, argument: str, value: object) -> str:
        written = f"{argument}={_python(value)}"
        if written in self.options:
            return self.options[written]
        if argument not in self.options:
            return written
        text = ",".join(map(_word, value)) if isinstance(value, tuple) else _word(value)
        return f"{self.options[argument]} {text}"


PYTHON: Final = Spelling()
SEEDS_OF_ARRAYS: Final = Spelling({"num_classes": "num_classes"}, "seeds_format=LabelFormat")
"""Where a function takes the format of its seeds."""
PROBS_OF_ARRAYS: Final = Spelling({"logits=True": ""})
"""Where it takes probabilities alone."""


def _word(value: object) -> str:
    return "..." if value is ... else str(value)


def _python(value: object) -> str:
    if not isinstance(value, tuple):
        return repr(value)
    return f"({', '.join(map(_word, value))}{',' if len(value) == 1 else ''})"
