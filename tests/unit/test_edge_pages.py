"""Where a page ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mosaic_federation_edge.domain.pages import Cut, cut_page


@pytest.mark.parametrize(
    ("found", "page_size", "budget", "fitting", "cut"),
    [
        pytest.param(0, 50, 0, 0, Cut(0, False, False), id="nothing there"),
        pytest.param(50, 50, 500, 50, Cut(50, False, False), id="exactly one page"),
        pytest.param(51, 50, 500, 50, Cut(50, True, False), id="one row more than a page"),
        pytest.param(30, 50, 30, 30, Cut(30, False, False), id="exactly the cap is not truncated"),
        pytest.param(31, 50, 30, 30, Cut(30, False, True), id="one row more than the cap"),
        pytest.param(51, 50, 50, 50, Cut(50, False, True), id="cap and page end together"),
        pytest.param(1, 50, 0, 0, Cut(0, False, True), id="the cap was reached by the page before"),
        pytest.param(51, 50, 500, 7, Cut(7, True, False), id="the answer is full"),
        pytest.param(31, 50, 30, 7, Cut(7, True, False), id="full before the cap: the cap is for a later page"),
        pytest.param(20, 50, 500, 1, Cut(1, True, False), id="one row larger than an answer goes alone"),
    ],
)
def test_ends_a_page(found: int, page_size: int, budget: int, fitting: int, cut: Cut) -> None:
    """A page ends at its size, the cap or the byte limit, whichever comes first, and says what follows."""
    assert cut_page(found=found, page_size=page_size, budget=budget, fitting=fitting) == cut


@given(rows=st.integers(0, 300), cap=st.integers(1, 300), page_size=st.integers(1, 70), fitting=st.integers(1, 70))
def test_pages_together_are_the_rows_up_to_the_cap(rows: int, cap: int, page_size: int, fitting: int) -> None:
    """Whatever the sizes: no row twice, none lost, never more than the cap, truncated only if a row was cut."""
    served, cut = 0, Cut(0, True, False)
    while cut.has_next:
        budget = cap - served
        found = min(rows - served, min(page_size, budget) + 1)
        cut = cut_page(found=found, page_size=page_size, budget=budget if found else 0, fitting=min(fitting, found, page_size))
        assert cut.rows > 0 or not cut.has_next
        served += cut.rows
    assert served == min(rows, cap)
    assert cut.truncated == (rows > cap)
