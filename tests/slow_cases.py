"""The cases of the conformance suite that take long."""

from flowstate.testcases import explaining, handing_over, leasing, recovering, standing_still

__all__ = ["LARGE_CASES", "SLOW_CASES"]

THEMES = (explaining, handing_over, leasing, recovering, standing_still)
SLOW_CASES = {case.name for theme in THEMES for case in theme.CASES} | {
    "compaction_under_a_watch",
    "every_combination_in_pages",
    "every_combination_of_filters",
    "many_increments_of_shared_counters",
    "revisions_are_dense",
    "slow_consumer",
}
"""Those that take seconds where time is real. Servers that behave the same leave them out."""

LARGE_CASES = {
    "any_value_in_any_field",
    "big_commits_at_once",
    "commit_of_too_many_bytes",
    "defect_05_thousands_of_delays_fire_once_each",
    "defect_12_commits_do_not_slow_down_with_the_log",
    "heartbeats_in_large_numbers",
    "increments_are_never_lost",
    "many_delays_due_at_once",
    "many_keys_survive_compaction",
    "recovery_is_not_held_up_by_one_state",
    "revisions_are_dense",
}
"""Those that take a second on every driver: they run on one interpreter only."""
