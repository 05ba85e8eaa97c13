"""Wherever processes die, an instance that is cancelled ends, and starts nothing more."""

import pytest

from flowstate.engines.kernel.kernel import Kernel
from tests.engines.tasks.exploring import Process, explore_documents
from tests.engines.tasks.scenarios import Service

DOCUMENTS = {
    "wait": "do: [{t: {try: [{w: {wait: P1Y}}], catch: {do: [{a: {call: act}}]}}}]",
    "fork": "do: [{f: {fork: {branches: [{x: {wait: P1Y}}, {y: {wait: P1Y}}]}}}]",
    "run": "do: [{r: {run: {workflow: {namespace: other, name: sleeper, version: latest}}}}]",
    "listen": "do: [{l: {listen: {to: {one: {with: {type: t}}}}}}]",
}
SLEEPER = """
document: {dsl: 1.0.3, namespace: other, name: sleeper, version: 1.0.0}
do: [{b: {wait: P1Y}}]
"""


@pytest.mark.parametrize("most", [8, pytest.param(300, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_crash_loses_a_cancel(name: str, most: int) -> None:
    async def client(kernel: Kernel, _: Process) -> None:
        await kernel.cancel("i")

    explore_documents(
        [DOCUMENTS[name], SLEEPER],
        client=client,
        functions=lambda service: service.functions,
        make_world=Service,
        outside=lambda service: sorted(service.acts),
        most=most,
    )
