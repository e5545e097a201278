"""What a test asks for: options and markers merged, the nearest wins, and what means nothing is said."""

from __future__ import annotations

import re
from typing import Any

import jax.numpy as jnp
import pytest
import torch

import pytest_dlparity as dlp
from pytest_dlparity import asked, matrix
from pytest_dlparity.asked import Asked

SINE = dlp.layer(torch.sin, jnp.sin, inputs=[dlp.normal(3)])


def marker(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def test_without_markers_the_options_stand() -> None:
    base = Asked(dtypes="float16", seed=3, strict=True)
    assert asked.merged(base, []) == base


def test_each_setting_comes_from_the_nearest_marker_that_has_it() -> None:
    function, klass, module = marker(SINE, seed=1), marker(dtypes=["bfloat16"], seed=2), marker(devices="cpu", seed=3, strict=True)
    assert asked.merged(Asked(modes="nojit", seed=4), [function, klass, module]) == Asked(
        devices="cpu", dtypes=["bfloat16"], modes="nojit", seed=1, strict=True, spec=SINE
    )


def test_the_nearest_spec_wins_whichever_way_it_is_given() -> None:
    other = dlp.layer(torch.cos, jnp.cos, inputs=[dlp.normal(3)])
    assert asked.merged(Asked(), [marker(spec=SINE), marker(other)]).spec is SINE
    assert asked.merged(Asked(), [marker(SINE), marker(spec=other)]).spec is SINE
    assert asked.merged(Asked(), [marker(seed=1), marker(other)]).spec is other


def test_a_factory_and_a_spec_and_nothing_are_specs() -> None:
    factory = lambda: SINE
    assert [asked.merged(Asked(), [given]).spec for given in (marker(factory), marker(spec=SINE), marker())] == [factory, SINE, None]


def test_a_tolerance_in_text_becomes_one() -> None:
    assert asked.merged(Asked(tolerance="rtol=0,atol=0"), []).tolerance == dlp.Tolerance(rtol=0, atol=0)
    assert asked.merged(Asked(), [marker(tolerance="conventional")]).tolerance == "conventional"


@pytest.mark.parametrize(
    ("marks", "sentence"),
    [
        ([marker(dtype="float16")], "the dlparity marker has no argument 'dtype'. Write dtypes=."),
        ([marker(device="cpu")], "the dlparity marker has no argument 'device'. Write devices=."),
        (
            [marker(colour=1)],
            "the dlparity marker has no argument 'colour'. It has devices, dtypes, modes, seed, tolerance, strict, speed, localize, max_ratio, "
            "max_regression, spec.",
        ),
        ([marker(SINE, SINE)], "the dlparity marker has 2 positional arguments. It takes one: a spec, or a function that makes one."),
        ([marker(SINE, spec=SINE)], "the dlparity marker has two specs, one positional and one as spec=. Give one."),
        ([marker("sine")], "the dlparity marker got 'sine'. Give a spec, or a function that makes one: @pytest.mark.dlparity(spec=gelu)."),
        ([marker(seed=-1)], "seed is -1. Give a whole number that is not negative."),
        ([marker(seed=True)], "seed is True. Give a whole number that is not negative."),
        ([marker(seed=1.0)], "seed is 1.0. Give a whole number that is not negative."),
        ([marker(strict=1)], "strict is 1. Write True or False."),
        ([marker(speed="yes")], "speed is 'yes'. Write True or False."),
        (
            [marker(tolerance={})],
            'tolerance is {}. Write "auto", "conventional", dlp.Tolerance(rtol=1e-3, atol=1e-5), or a dict from dtypes to Tolerances.',
        ),
        ([marker(), marker(dtype="float16")], "the dlparity marker has no argument 'dtype'. Write dtypes=."),
    ],
    ids=str,
)
def test_a_marker_that_means_nothing_is_answered_in_words_also_the_farthest(marks: Any, sentence: str) -> None:
    with pytest.raises(dlp.SpecError, match=f"^{re.escape(sentence)}$"):
        asked.merged(Asked(), marks)


@pytest.mark.parametrize(
    ("devices", "named"),
    [("auto", False), ("cpu", True), ("cpu,auto", False), ("cpu, auto", False), (["cpu"], True), (["auto"], False), (("cpu", "auto"), False)],
    ids=str,
)
def test_devices_are_named_unless_auto_stands_among_them(devices: Any, named: bool) -> None:
    assert Asked(devices=devices).names_devices is named


def test_cells_are_those_of_the_matrix() -> None:
    wanted = Asked(devices="cpu", dtypes=["float32"], modes="eager,nojit").cells(matrix.devices())
    assert [str(cell) for cell in wanted] == ["cpu-float32", "cpu-float32-nojit"]


def test_settings_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Asked().seed = 1  # type: ignore[misc]
