"""What a server's settings mean for what it is trusted with.

Decides which are refused, and what is said about what the others can lose. Leaves to `redis_connection.py` how they are
read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lambent.errors import StoreUnavailable


def check_settings(name: str, settings: Mapping[str, str], replicated: bool) -> Sequence[str]:
    """Sentences; none: nothing that was accepted can be lost. Raises StoreUnavailable for a server that evicts. A
    setting that nobody may read is "unknown"; `replicated`: it may fail over."""
    policy = settings.get("maxmemory-policy", "unknown")
    if policy not in ("noeviction", "unknown"):
        raise StoreUnavailable(
            f"{name}: maxmemory-policy is {policy}, which throws away what was accepted when memory is short. "
            "Set it to noeviction (CONFIG SET maxmemory-policy noeviction, and in redis.conf)"
        )
    sentences = []
    if policy == "unknown":
        sentences.append(f"{name}: maxmemory-policy cannot be read; anything but noeviction loses what was accepted.")
    match settings.get("appendonly"), settings.get("appendfsync"):
        case "yes", "always":
            pass
        case "yes", "everysec":
            sentences.append(
                f"{name}: appendfsync is everysec: a power cut or a crash of its machine loses what was accepted in "
                "the last second or two. A killed server loses nothing. Set it to always to lose nothing at all."
            )
        case "yes", "no":
            sentences.append(
                f"{name}: appendfsync is no: a power cut or a crash of its machine loses what was accepted in the last "
                "half minute or so. Set it to always to lose nothing."
            )
        case "no", _:
            sentences.append(
                f"{name}: appendonly is no: when it stops, everything since its last snapshot is lost. "
                "Set appendonly yes and appendfsync always to lose nothing."
            )
        case _:
            sentences.append(f"{name}: appendonly and appendfsync cannot be read, so nobody can say what can be lost.")
    if replicated:
        sentences.append(f"{name}: a failover loses what the replica has not got yet: Redis answers first.")
    return sentences
