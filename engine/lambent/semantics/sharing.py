"""How a limit is divided between the engines that share a store.

Decides what an engine is granted of a shared limit when it asks, given what all said of themselves at their last call.
Leaves to the store where that is kept, and that two who ask at once are answered one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lambent.semantics.concurrency import Demand


@dataclass(slots=True, eq=False)
class Block:
    """What an engine may use of a limit until `expires_at` (in the store's time), what it said of itself at its last
    call, and its turn among those who want."""

    demand: Demand
    turn: int
    expires_at: float
    granted: int = 0


def grant(blocks: dict[str, Block], owner: str, demand: Demand, now: float, expires_at: float) -> int:
    """Answer one engine, in `blocks` (of one limit, by owner) and as a number.

    One engine alone gets the whole limit. Several get what they want as evenly as the limit allows, and an equal part
    of what nobody wants; the odd permits go to those who have waited longest."""
    for gone in [each for each, block in blocks.items() if block.expires_at <= now]:
        del blocks[gone]
    last = max((block.turn for block in blocks.values()), default=0)
    mine = blocks.get(owner)
    if mine is None:
        mine = blocks[owner] = Block(demand, last + 1, expires_at)
    elif mine.demand.wanted == 0 or (mine.granted and demand.limit < len(blocks)):
        mine.turn = last + 1  # it begins to want, or had a permit that not all can have: to the end
    mine.demand, mine.expires_at = demand, expires_at
    # another may run what it was granted, or what it still runs of a larger block, until it calls again
    taken = sum(max(block.granted, block.demand.in_use) for block in blocks.values() if block is not mine)
    fair = _fair_part(mine, sorted(blocks.values(), key=lambda block: block.turn), demand.limit)
    mine.granted = max(0, min(fair, demand.limit - taken))
    return mine.granted


def _fair_part(mine: Block, blocks: Sequence[Block], limit: int) -> int:
    """What one of several engines should have of a limit; `blocks` stand in the order of their turns."""
    wants = sum(block.demand.wanted for block in blocks)
    if wants <= limit:
        return mine.demand.wanted + (limit - wants) // len(blocks)
    left, unserved = limit, list(blocks)
    while modest := [block for block in unserved if block.demand.wanted <= left // len(unserved)]:
        if mine in modest:
            return mine.demand.wanted
        left -= sum(block.demand.wanted for block in modest)
        unserved = [block for block in unserved if block not in modest]
    each, odd = divmod(left, len(unserved))
    return each + (unserved.index(mine) < odd)
