"""The cases of the conformance suite that take seconds where time is real."""

from flowstate.testcases import explaining, handing_over, leasing, recovering, standing_still

__all__ = ["SLOW_CASES"]

THEMES = (explaining, handing_over, leasing, recovering, standing_still)
SLOW_CASES = {case.name for theme in THEMES for case in theme.CASES} | {
    "compaction_under_a_watch",
    "every_combination_in_pages",
    "every_combination_of_filters",
    "many_increments_of_shared_counters",
    "revisions_are_dense",
    "slow_consumer",
}
"""Their names. Where another server or client behaves the same, they are left out."""
