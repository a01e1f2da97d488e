"""The gap and its reduction, by numbers that were published."""

import pytest

from selflabel.reports.gap import Gap, gap_markdown

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("full", "weak", "found", "gap", "remaining", "reduction"),
    [
        (71.5, 64.3, 69.1, 7.2, 2.4, 66.7),
        (76.6, 67.8, 73.0, 8.8, 3.6, 59.1),
        (68.8, 60.4, 62.4, 8.4, 6.4, 23.8),
        (79.4, 71.8, 75.7, 7.6, 3.7, 51.3),
    ],
)
def test_lines_of_the_paper(
    full: float, weak: float, found: float, gap: float, remaining: float, reduction: float
) -> None:
    """Mayer et al., Table 2."""
    measured = Gap(full / 100, weak / 100)
    assert 100 * measured.value == pytest.approx(gap, abs=0.05)
    assert 100 * measured.remaining(found / 100) == pytest.approx(remaining, abs=0.05)
    assert 100 * (measured.reduction(found / 100) or 0) == pytest.approx(reduction, abs=0.05)
    assert measured.reduction(measured.weak) == 0
    assert measured.reduction(measured.full) == 1


def test_without_a_gap_there_is_no_reduction() -> None:
    assert Gap(0.5, 0.5).reduction(0.6) is None
    assert Gap(0.4, 0.5).reduction(0.6) is None
    assert "| x\\|y | 60.0 | -20.0 | - |" in gap_markdown(Gap(0.4, 0.5), [("x|y", 0.6)])


@pytest.mark.parametrize("value", [-0.1, 71.5, float("nan")])
@pytest.mark.usefixtures("unchecked")
def test_scores_are_shares(value: float) -> None:
    with pytest.raises(ValueError, match="expected full as a"):
        Gap(value, 0.5)
    with pytest.raises(ValueError, match="expected weak as a"):
        Gap(0.5, value)
