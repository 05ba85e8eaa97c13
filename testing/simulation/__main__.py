"""``python -m flowstate.testing.simulation SEED [--count N]``: replay one seed, or run many."""

import argparse
import sys

from flowstate.testing.simulation.schedules import run_schedule, run_schedules

__all__ = ["main"]


def main() -> int:
    """Replay one seed, or run many; return how many failed."""
    parser = argparse.ArgumentParser(prog="python -m flowstate.testing.simulation")
    parser.add_argument("seed", type=int, help="the first one")
    parser.add_argument("--count", type=int, default=1, help="how many seeds; 1 prints the trace")
    options = parser.parse_args()
    out = sys.stdout
    if options.count == 1:
        outcome = run_schedule(options.seed, log=True)
        out.writelines(f"{line}\n" for line in outcome.trace)
        out.writelines(f"violation: {each}\n" for each in outcome.violations)
        return len(outcome.violations)
    schedules = run_schedules(options.seed, options.count)
    for name, number in sorted(schedules.counts.items()):
        out.write(f"{number:10,} {name}\n")
    out.write(
        f"{schedules.seconds:.1f} s, {60 * options.count / schedules.seconds:,.0f} a minute\n"
    )
    out.write(f"{schedules}\n")
    return len(schedules.failures)


if __name__ == "__main__":
    raise SystemExit(min(main(), 1))
