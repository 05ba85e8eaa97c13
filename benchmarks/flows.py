"""The flows that states go through in workloads."""

from flowstate import Command, Commit, End, Engine, FlowRegistry, StateContext, Transit

__all__ = ["FINISH", "registry"]

FINISH = "finish"


def registry() -> FlowRegistry:
    """Return three flows, of which each commits its step to the next, and one that ends states."""
    flows = FlowRegistry()

    @flows.flow("first")
    async def first(ctx: StateContext, engine: Engine) -> Command:
        return Commit(Transit(ctx, "second"))

    @flows.flow("second")
    async def second(ctx: StateContext, engine: Engine) -> Command:
        return Commit(Transit(ctx, "third"))

    @flows.flow("third")
    async def third(ctx: StateContext, engine: Engine) -> Command:
        return Commit(End(ctx))

    flows.set(FINISH, third)
    return flows
