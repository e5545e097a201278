"""What can be wrong: what the user wrote, what the two sides gave, and how long they took."""

from __future__ import annotations


class SpecError(ValueError):
    """A spec, a marker or a call that means nothing. The message says what is wrong and what to write instead."""


class ParityError(AssertionError):
    """The two sides disagree, or nothing was tested. The message is the report; `report` holds it as a value."""

    report: object = None


class SpeedError(AssertionError):
    """A side takes longer than was allowed, or could not be timed. The message says how long, and which limit."""
