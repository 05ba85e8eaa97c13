"""Tasks that try others, catch errors, and try again."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from flowstate.engines.tasks.errors import TaskError, same_type
from flowstate.engines.tasks.running.advancing import Advance, Caught, Kind
from flowstate.engines.tasks.running.position import Level, Wanted, child_of
from flowstate.engines.tasks.running.scope import Scope

__all__ = ["TryKind"]

LONGEST = 366 * 86_400.0  # Seconds between two attempts.


class TryKind(Kind):
    """Tries tasks, and catches what they raise."""

    async def enter(self, advance: Advance, task: Any) -> None:
        level = advance.level
        await self._attempt(advance, level)

    async def _attempt(self, advance: Advance, level: Level) -> None:
        level.attempts += 1
        level.begun = 0  # So effects have the same keys in each attempt.
        limit = (_policy(advance).get("limit") or {}).get("attempt") or {}
        if "duration" in limit:
            seconds = await advance.seconds(limit["duration"], level.input)
            level.attempt_deadline = advance.now() + timedelta(seconds=seconds)
        advance.run_list(level, child_of(level.task, "try"), level.input)

    async def took(self, advance: Advance, wanted: Wanted, gave: Any) -> None:
        level = advance.level
        advance.has_slept(wanted)
        await self._attempt(advance, level)

    async def list_ended(self, advance: Advance, task: Any) -> None:
        level = advance.level
        level.attempt_deadline = None
        is_tried = level.list == child_of(level.task, "try")
        await advance.complete(level.value, "" if is_tried else task["catch"].get("then", ""))

    async def catches(self, advance: Advance, error: TaskError) -> Caught:
        level = advance.level
        level.attempt_deadline = None
        catch, problem = advance.definition()["catch"], error.to_json()
        variables = {catch.get("as", "error"): problem}
        scope = advance.scope(more=variables)
        if not _fits(catch, problem) or not await _is_wanted(catch, scope, level.input):
            return False, None
        if "retry" in catch:
            wanted = await self._again(advance, level, scope)
            if wanted is not None:
                advance.note("retried", level, error=problem, attempt=level.attempts)
                return True, wanted
            if "do" not in catch:
                return False, None
        if "do" in catch:
            level.variables |= variables
            advance.run_list(level, child_of(level.task, "catch", "do"), level.input)
        else:
            await advance.complete(level.input, catch.get("then", ""))
        return True, None

    async def _again(self, advance: Advance, level: Level, scope: Scope) -> Wanted | None:
        """Return the pause before the next attempt, if there is to be one."""
        policy = _policy(advance)
        limit = policy.get("limit") or {}
        count = (limit.get("attempt") or {}).get("count")
        if count is not None and level.attempts > count:
            return None
        if not await _is_wanted(policy, scope, level.input):
            return None
        until = advance.now() + timedelta(seconds=await _pause(policy, advance, level))
        if "duration" in limit:
            longest = await advance.seconds(limit["duration"], level.input)
            if until > level.started_at + timedelta(seconds=longest):
                return None
        return Wanted("retry", until=until)


def _policy(advance: Advance) -> Mapping[str, Any]:
    named = advance.definition()["catch"].get("retry")
    policy: Mapping[str, Any] = advance.reusable("retries", named) or {}
    return policy


def _fits(catch: Mapping[str, Any], problem: Mapping[str, Any]) -> bool:
    """Return whether an error has what the filter says."""
    wanted = (catch.get("errors") or {}).get("with") or {}
    return all(
        same_type(each, problem.get(key, "")) if key == "type" else problem.get(key) == each
        for key, each in wanted.items()
    )


async def _is_wanted(rules: Mapping[str, Any], scope: Scope, value: Any) -> bool:
    """Return what ``when`` and ``exceptWhen`` say."""
    if "when" in rules and not await scope.condition(rules["when"], value):
        return False
    return "exceptWhen" not in rules or not await scope.condition(rules["exceptWhen"], value)


async def _pause(policy: Mapping[str, Any], advance: Advance, level: Level) -> float:
    """Return the seconds before the next attempt."""
    seconds = 0.0
    if "delay" in policy:
        seconds = await advance.seconds(policy["delay"], level.input)
    backoff = policy.get("backoff") or {}
    if "exponential" in backoff:
        seconds *= 2.0 ** min(level.attempts - 1, 60)
    elif "linear" in backoff:
        seconds *= level.attempts
    if "jitter" in policy:
        first, last = [
            await advance.seconds(policy["jitter"][each], level.input) for each in ("from", "to")
        ]
        seconds += advance.scene.runtime.rng.uniform(first, last)
    return min(seconds, LONGEST)
