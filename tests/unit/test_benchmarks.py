"""Figures of the benchmarks as they are shown."""

import pytest
from benchmarks.bench import figure


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.000_123_4, "0.000123"),
        (0.064_1, "0.0641"),
        (0.13, "0.130"),
        (2.187, "2.19"),
        (71.62, "71.6"),
        (143_793.4, "143793"),
        (-2.8, "-2.80"),
        (0, "0"),
    ],
)
def test_a_figure_has_three_digits_that_mean_something(value: float, shown: str) -> None:
    assert figure(value) == shown
