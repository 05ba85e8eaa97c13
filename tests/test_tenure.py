"""The lease rule: the holder's time ends before the store's."""

from hypothesis import given
from hypothesis import strategies as st

from flowstate.executions.tenure import NEVER, Tenure

seconds = st.floats(0.001, 1e6)
moments = st.floats(0.0, 1e6)


@given(seconds, moments, st.floats(0.5, 0.9))
def test_it_is_renewed_before_it_ends_and_ends_before_the_store_lets_it_go(
    length: float, sent_at: float, part: float
) -> None:
    tenure = Tenure(length, sent_at, part)
    assert sent_at <= tenure.renew_at <= tenure.retry_at(tenure.renew_at) <= tenure.valid_until
    assert tenure.valid_until < sent_at + length or length < 1e-6 * sent_at


@given(seconds, moments, moments)
def test_a_reply_that_comes_late_shortens_nothing(length: float, one: float, other: float) -> None:
    renewed = Tenure(length, one).renewed(other)
    assert renewed.sent_at == max(one, other)
    assert renewed.renewed(one) == renewed


def test_what_was_never_sent_is_not_held() -> None:
    tenure = Tenure(10.0, NEVER)
    assert tenure.valid_until == tenure.renew_at == NEVER
    assert tenure.renewed(5.0).valid_until == 14.0
