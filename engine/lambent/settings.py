"""What a whole engine can be told: limits, times and names that hold for all of its functions and mappings.

Decides which values are allowed, and their defaults: AWS's where AWS has one. Leaves to `engine.py` what they are
used for.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from lambent.arns import DEFAULT_ACCOUNT_ID, DEFAULT_REGION
from lambent.configuration import Configuration
from lambent.semantics.backoff import ASYNC_RETRY_SECONDS
from lambent.semantics.concurrency import ACCOUNT_CONCURRENCY

MAXIMUM_RELEASE: Final = 1_000_000_000_000
Delay = Annotated[float, Field(ge=0, le=3600)]


class EngineSettings(Configuration):
    """The engine's settings. Times that AWS fixes may be scaled here; time limits of functions never are."""

    account_concurrency: Annotated[int, Field(ge=1, le=1_000_000)] = ACCOUNT_CONCURRENCY
    """Invocations that may run at once in all engines of a store (Lambda quotas: 1,000; 100 stay unreserved)."""

    async_retry_delays_seconds: tuple[Delay, Delay] = ASYNC_RETRY_SECONDS
    """Before the first and the second retry of an asynchronous event (Lambda guide: «Error handling for asynchronous
    invocation»)."""

    delay_scale: Annotated[float, Field(ge=0, le=1)] = 1.0
    """What the delays between tries of asynchronous events are multiplied by: 0.01 spares tests and scripts the
    minutes. Time limits of functions are never scaled."""

    drain_seconds: Annotated[float, Field(ge=0, le=3600)] = 30.0
    """How long `drain` lets what is in flight settle before it cancels."""

    lease_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 7.0
    """How long a shard, or a share of a limit, stays with an engine that has fallen silent. The others look each third
    of it, so that within four thirds, which are less than 10 s, they have what it had."""

    threads: Annotated[int, Field(ge=1, le=1000)] = 32
    """Plain functions (`def`) that may run at once."""

    maximum_environments: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Environments of functions whose code is elsewhere, at once; further invocations wait for one."""

    environment_idle_seconds: Annotated[float, Field(ge=0.1, le=86_400)] = 300.0
    """How long an environment that serves nothing is kept (AWS says nothing exact; people see 5 to 15 minutes)."""

    watchdog_seconds: Annotated[float, Field(ge=0, le=60)] = 1.0
    """A loop that is blocked for longer is reported with its stack; 0: never."""

    allow_private_destinations: bool = False
    """Whether HTTP destinations may be on addresses that are not public: this machine, its network, the metadata
    services of clouds."""

    observe_seconds: Annotated[float, Field(ge=0, le=3600)] = 5.0
    """How often what was observed of traffic is written, for `lambent advise`; 0: nothing is observed."""

    health_seconds: Annotated[float, Field(ge=0, le=60)] = 5.0
    """How often an engine looks whether what waits gets done; 0: never, and nothing is red but an engine that does not
    answer."""

    code_directory: Annotated[str, Field(min_length=1)] | None = None
    """Where zips that are code are kept and unpacked; None: beside a store that is a file (`app.db-code`), and with any
    other store in a temporary folder that ends with the engine."""

    reload_code: bool = False
    """Whether the code of a function with an environment is looked at before each invocation, and run anew if its
    content has changed: for development (`lambent run --reload`)."""

    log_directory: Annotated[str, Field(min_length=1)] | None = None
    """Where the logs of functions are kept, a folder each; None: beside a store that is a file (`app.db-logs`), and
    nowhere with any other store."""

    log_in_process: bool = False
    """Whether what handlers of this process print and log is kept there, too; they have their program's logging."""

    log_retention_seconds: Annotated[int, Field(ge=60, le=315_360_000)] = 14 * 86_400
    """How long a file of logs is kept after its last line."""

    log_maximum_bytes: Annotated[int, Field(ge=1024 * 1024, le=10**15)] = 256 * 1024 * 1024
    """How much is kept of one function's logs; the oldest files go first."""

    state_change_seconds: Annotated[float, Field(ge=0, le=3600)] = 0.2
    """How long a function that the Lambda API creates or changes is `Pending` or `InProgress`, and provisioned
    concurrency is made ready. At AWS it is a matter of seconds, and of minutes for provisioned concurrency."""

    api_trail_seconds: Annotated[float, Field(ge=0, le=31_536_000)] = 604_800.0
    """How long the store keeps who changed what by the Lambda API; 0: only the log has it."""

    api_code_bytes: Annotated[int, Field(ge=0, le=10**15)] = 80_530_636_800
    """How much code the functions and layers of the Lambda API may have, all versions together, zipped (Lambda quotas:
    75 GB)."""

    release: Annotated[int, Field(ge=0, le=MAXIMUM_RELEASE)] = 0
    """The number of the deployed code. It is stored with what the code declares, and code of a lower release does not
    replace that: while two versions run, the newer one's configuration holds for both."""

    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")] = DEFAULT_REGION
    """The region that ARNs name."""

    account_id: Annotated[str, Field(pattern=r"^[0-9]{12}$")] = DEFAULT_ACCOUNT_ID
    """The account that ARNs name."""

    @property
    def retry_delays_seconds(self) -> tuple[float, float]:
        """`async_retry_delays_seconds`, scaled."""
        first, second = self.async_retry_delays_seconds
        return first * self.delay_scale, second * self.delay_scale
