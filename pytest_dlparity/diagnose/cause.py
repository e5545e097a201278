"""What is said of a cause that was found, and tested."""

from __future__ import annotations

from typing import NamedTuple


class Cause(NamedTuple):
    """A change of one side under which the disagreement vanishes. `str()` is what a person reads."""

    family: str  # "eps", "padding": the file of diagnose/ that proposed it, or a narrower word
    sentence: str  # whole: what the sides compute, what was changed, what it gave
    side: str  # "torch" or "jax": the one that was changed and run again
    where: str = ""  # "model.py:31", of the call that was changed; "" where there is no one place
    write: str = ""  # the line to write on the jax side, "" where there is none
    before: float = 0.0  # relative difference of the worst leaf as it was
    bits: float = 0.0  # to which the leaves agree after the change, at most 53
    leaves: tuple[str, ...] = ()  # that disagreed before and agree after

    def __str__(self) -> str:
        return f"{self.sentence}. Write {self.write}" if self.write else self.sentence
