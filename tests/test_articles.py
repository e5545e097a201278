"""The page of claims is that of the stored figures, and says what they say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def articles(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import articles

    yield articles
    sys.modules.pop("articles", None)


def test_the_page_shows_the_stored_figures(articles):
    assert articles.PAGE.read_text() == articles.page(articles.stored()), "docs/claims.md is stale. Write: python benchmarks/articles.py --render"


def test_every_stored_part_was_in_parity(articles):
    rows = [row for one in articles.stored() for row in one["rows"]]
    assert rows and all(row["parity"] for row in rows)


def test_a_claim_counts_what_its_intervals_say(articles):
    ratios = {(n,): articles.Ratio(*one) for n, one in enumerate([(0.5, 0.4, 0.6), (1.0, 0.9, 1.2), (2.0, 1.5, 3.0), (4.0, 3.0, 5.0)])}
    assert articles.claim("jax is faster", ratios, "jax / torch") == "| jax is faster | jax / torch | 4 | 1.41 | 1 | 1 | 2 |"
    assert articles.claim("on a GPU", {}, "jax / torch") == "| on a GPU | jax / torch | not measured | | | | |"
