"""A port with one mistake: what a failure looks like. Take the xfail mark away, or run wrong_port.py, to read it."""

from __future__ import annotations

import pytest
from wrong_port import feed_forward

import pytest_dlparity as dlp


@pytest.mark.dlparity(dtypes=["float32"])
@pytest.mark.xfail(raises=dlp.ParityError, strict=True, reason="the port takes the tanh form of GELU for the exact one")
def test_feed_forward(parity):
    parity(feed_forward())


def test_the_message_names_what_differs():
    report = dlp.check(feed_forward(), devices=["cpu"], dtypes=["float32"])
    assert report["output"].status == "semantics"
    assert "output differs in float64, the two sides compute different mathematics" in str(report)
