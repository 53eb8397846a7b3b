import re

import pytest

from gen_jax.figures.bars import bars


def test_lengths_are_in_proportion_to_shares():
    drawn = bars(["a", "b", "<c>"], [0.5, 0.25, 0.0])
    assert re.findall(r'<rect width="([\d.]+)%"', drawn) == ["100.00", "50.00", "0.00"]
    assert re.findall(r"<span>([^<]+)</span>", drawn) == ["a", "50%", "b", "25%", "&lt;c&gt;", "0%"]


def test_the_reference_stands_at_its_own_share():
    drawn = bars(["a", "b"], [0.5, 0.25], [0.25, 0.4])
    assert re.findall(r'x1="([\d.]+)%"', drawn) == ["50.00", "80.00"]
    assert re.findall(r"real ([\d.]+%)", drawn) == ["25%", "40%"]


def test_lengths_that_differ_are_refused():
    for arguments in ([], []), (["a"], [0.5, 0.5]), (["a"], [0.5], [0.5, 0.5]):
        with pytest.raises(ValueError, match="names for"):
            bars(*arguments)
