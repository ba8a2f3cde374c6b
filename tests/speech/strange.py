"""Values of JSON that an endpoint may send by mistake or malice, for tests of what reads them."""

from __future__ import annotations

from hypothesis import strategies as st

__all__ = ["JSON", "NUMBERS"]

# A float holds 308 digits; `int` reads 4300 of a text.
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 10**13])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text() | st.sampled_from(["1", "9" * 25, "9" * 5_000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
