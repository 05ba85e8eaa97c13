"""What the report says about how it was measured, and how to do that again."""

from collections.abc import Iterable

from benchmarks.records import Record

__all__ = ["again", "method"]

METHOD = """\
## Method

- Each workload is measured in rounds, and in each round every side of it once: flowstate, and what
  it is compared with. Sides come in a random order (seed {seed}) that the next round reverses. The
  garbage is collected before each. So what disturbs the machine disturbs all sides alike.
- A ratio is that of two sides in the same round. The table shows the median of the rounds' ratios,
  with an interval in brackets. It is of order statistics, which assume no distribution: 95 %, or as
  much as the number of rounds permits. 5 rounds permit 93.8 %, 3 rounds 75 %, one round none.
- "unsure" beside an outcome means that the mark lies within the interval.
- A limit is the same work on the same store without flowstate. "1.43 x" of a limit means that ours
  takes 1.43 times as long. Beside other libraries it is told the other way round.
- CPU is that of the client's process for one unit of work, without the server's. Statements are
  what the store was sent for one unit. On a noisy machine both say more than seconds.
- What rounds prepare, such as a store that is filled, is not in their figures.
- A server on the same machine shares its cores with the clients.
- benchmarks/README.md says what each workload does, and what this does not show.
"""


def method(record: Record) -> Iterable[str]:
    """Say how it was measured."""
    yield METHOD.format(seed=record.settings.seed)


def again(record: Record) -> Iterable[str]:
    """Say how to measure it again, and where the raw figures are."""
    settings = record.settings
    command = f"python -m benchmarks {settings.sizes.get('name', '')} --seed {settings.seed}"
    command += f" --only '{settings.only}'" if settings.only else ""
    command += "".join(f" --suite {suite}" for suite in settings.suites)
    command += " --peers" if settings.peers else " --no-peers"
    yield "## Again"
    yield ""
    yield f"    {command}"
    yield ""
    yield (
        "Every sample of every round is in `results.json` beside this file. "
        "`python -m benchmarks report results.json` writes this report from it, "
        "`python -m benchmarks compare old.json new.json` holds two of them against each other."
    )
    yield ""
