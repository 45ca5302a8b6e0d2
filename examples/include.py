"""An application of several modules: each declares its functions, one has the engine.

Run it with `python examples/include.py`.
"""

import asyncio

from lambent import Engine

if __package__:
    from examples.flight_functions import functions, greet, greeted
else:
    from flight_functions import functions, greet, greeted  # type: ignore[import-not-found, no-redef]

engine = Engine("memory://")
names = engine.queue("names")
engine.include(functions)


async def main() -> None:
    async with engine:
        print(await engine.invoke(greet, {"name": "JFK"}))
        await names.send("LGA")
        async with asyncio.timeout(10):
            await greeted.wait()


if __name__ == "__main__":
    asyncio.run(main())
