"""The test for drift agrees with scipy's, and keeps its error rate where bins are rare."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from serving.shift.homogeneity import compare


def test_p_values_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for num_bins, size in ((2, 200), (10, 1_000), (30, 5_000)):
        shares = rng.dirichlet(np.full(num_bins, 20))
        reference = rng.multinomial(size, shares)
        blocks = rng.multinomial(500, rng.dirichlet(np.full(num_bins, 20)), size=20)
        ours = compare(reference, blocks)
        theirs = [chi2_contingency(np.stack([reference, one]), correction=False).pvalue for one in blocks]
        np.testing.assert_allclose(ours.p_values, theirs, rtol=1e-9)
        np.testing.assert_allclose(
            ours.distances, [np.abs(reference / size - one / 500).sum() / 2 for one in blocks], rtol=1e-12
        )


def test_rare_bins_are_taken_together() -> None:
    """Five bins of which a block of 100 beside 100 is expected to have 50, 44, 3, 2 and 1."""
    reference, block = np.array([50, 44, 4, 2, 0]), np.array([50, 44, 2, 2, 2])
    merged = chi2_contingency([[50, 44, 6], [50, 44, 6]], correction=False).pvalue
    assert compare(reference, block[None]).p_values[0] == pytest.approx(merged)
    # Together less than five are expected: they are left out.
    few, fewer = np.array([60, 38, 2, 0]), np.array([40, 55, 2, 3])
    left = chi2_contingency([[60, 38], [40, 55]], correction=False).pvalue
    assert compare(few, fewer[None]).p_values[0] == pytest.approx(left)


def test_what_never_varied_does_not_alarm_and_what_is_new_does() -> None:
    reference = np.array([1_000, 0])
    assert compare(reference, np.array([[500, 0], [497, 3], [450, 50]])).p_values.tolist() == pytest.approx(
        [1.0, 1.0, chi2_contingency([[1_000, 0], [450, 50]], correction=False).pvalue]
    )


@pytest.mark.parametrize("num_reference", [200, 3_000])
def test_false_alarms_come_as_often_as_they_may(num_reference: int) -> None:
    """77 labels, most of them rare in a block of 500; references are drawn as well."""
    rng, alpha, found = np.random.default_rng(1), 1e-3, []
    for _ in range(200):
        shares = rng.dirichlet(np.full(77, 2.0))
        blocks = rng.multinomial(500, shares, size=200)
        found.append((compare(rng.multinomial(num_reference, shares), blocks).p_values < alpha).mean())
    assert 0.3 * alpha < np.mean(found) < 3 * alpha
