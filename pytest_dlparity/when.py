"""When the place of a disagreement is looked for. Apart from what looks for it, which a run that only collects never loads."""

from __future__ import annotations

from pytest_dlparity.errors import SpecError

WANTED = ("off", "auto", "always")


def validated(wanted: str) -> str:
    """
    >>> validated("sometimes")
    Traceback (most recent call last):
    pytest_dlparity.errors.SpecError: localize is 'sometimes'. Write off, auto (after a failure) or always.
    """
    if wanted not in WANTED:
        raise SpecError(f"localize is {wanted!r}. Write off, auto (after a failure) or always.")
    return wanted
