"""What the plugin has for workflows: open ones, and the report of covered stops."""

import pytest

from flowstate.testing.plugin import stop_report
from flowstate.testing.workflows import opening, stops
from tests.test_plugin import ASYNCIO, INSTALLED, MODULE

pytest_plugins = ["pytester"]

# pytester forgets what is imported in its runs; what is imported here stays the same.
KEPT = (opening, stop_report, stops)
SHOP = """
from msgspec import Struct
from flowstate.engines.workflow import Timeout, step, wait, workflow

class Order(Struct):
    item: str

class Approved(Struct):
    by: str

async def charge(item: str) -> str:
    return item

@workflow("order")
async def order(s: Order) -> str:
    await step(charge, s.item)
    match await wait("approval", Approved, Timeout(days=30)):
        case Approved():
            return await step(charge, "ship", name="ship")
    return "expired"
"""
TESTS = """
from shop import Approved, Order, order

async def test_expired(flowstate_workflows, flowstate_driver):
    async with flowstate_workflows(order) as workflows:
        assert workflows.engine.driver is flowstate_driver
        await workflows.start(order, "o", Order("tea"))
        assert await workflows.result("o") == "expired"
"""


def run(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    pytester.makepyfile(shop=SHOP, test_shop=TESTS)
    plugin = () if INSTALLED else ("-p", MODULE)
    return pytester.runpytest_inprocess("-v", *plugin, *ASYNCIO, *options)


def test_workflows_run_on_each_driver_in_virtual_time(pytester: pytest.Pytester) -> None:
    result = run(pytester)

    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*flowstate stops*")


def test_the_stops_that_were_covered_are_shown(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--flowstate-stops", "--flowstate-drivers=memory")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "*flowstate stops*",
            "order (shop.py:*): 2 of 3 stops",
            "*kind*line*reached*passed*raised*timed out",
            "  approval  wait*1*-*-*1",
            "  ship      step*-*-*-*-",
        ]
    )


@pytest.mark.slow
def test_what_workers_have_covered_is_added(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--flowstate-stops", "-n2")

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["order (shop.py:*): 2 of 3 stops", "*charge*step*2*2*-*-"])


def test_workflows_that_no_test_runs_are_shown_if_their_module_is_named(
    pytester: pytest.Pytester,
) -> None:
    options = ("-k", "nothing", "-o", "pythonpath=.", "--flowstate-stops")
    result = run(pytester, *options, "-o", "flowstate_stops=shop")

    result.stdout.fnmatch_lines(["order (shop.py:*): 0 of 3 stops"])


def test_a_module_that_is_not_there_is_refused(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--flowstate-stops", "-o", "flowstate_stops=no_such_shop")

    result.stderr.fnmatch_lines(["*flowstate_stops: No module named 'no_such_shop'*"])
