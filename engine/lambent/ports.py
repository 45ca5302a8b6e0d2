"""What the engine asks of the world: protocols of at most five methods, each with two adapters and one behaviour suite.

Everything takes and gives many. Payloads are bytes, positions opaque strings. An adapter maps what the world does to
it, at its border, to `StoreUnavailable` (nothing is known to be stored) or to an answer that says no; no client
library's exception passes a port. `capabilities` names what a suite may expect of an adapter.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from lambent.arns import DEFAULT_ACCOUNT_ID, DEFAULT_REGION
from lambent.configuration import ExecutionEnvironment
from lambent.logs import Logs
from lambent.model import (
    Backlog,
    Checkpoint,
    Delivery,
    Depth,
    Event,
    EventFact,
    Function,
    Invocation,
    Lease,
    Message,
    MessageFact,
    Outcome,
    Progress,
    Put,
    Queue,
    Read,
    Record,
    Send,
    Settled,
    Settlement,
    Shard,
    ShardFact,
    Stream,
)
from lambent.semantics.batching import Weights
from lambent.semantics.concurrency import Demand

HEARTBEATS_PER_LEASE: Final = 3
"""How often what is leased (shards, permits) is renewed while it is valid, and how often others look for it."""


class Clock(Protocol):
    """`now` is the wall clock in epoch seconds; `monotonic` never goes back and has no meaning of its own."""

    def now(self) -> float: ...
    def monotonic(self) -> float: ...


Respond = Callable[[bytes], "asyncio.Future[None] | None"]
"""Takes a chunk of a streamed answer. None: go on; a future: give no more before it is done."""


class Call(Protocol):
    """A handler that runs, or is about to."""

    def abandon(self) -> None:
        """Nobody wants to know its outcome any more."""
        ...


class Runtime(Protocol):
    """Runs a function's handler. Never raises for what the handler did."""

    def start(
        self,
        invocation: Invocation,
        ended: Callable[[Outcome], None],
        started: Callable[[], None],
        respond: Respond,
    ) -> Call:
        """Run it once under the function's time limit, or not at all from `invocation.start_before` on. `started` is
        called when the deadline begins, `respond` with each chunk of a streamed answer if the invocation is `streamed`,
        `ended` once with what became of it: at the deadline at the latest, perhaps before this returns, and in the
        handler's variables. Of what was handed over by `respond` an outcome holds nothing."""
        ...

    async def close(self) -> None:
        """Give up what runs; its calls answer `Unavailable`."""
        ...


class EnvironmentRuntime(Runtime, Protocol):
    """Runs functions that have an `environment`: what an entry point of the group `lambent.runtimes` makes."""

    def register(self, function: Function) -> None:
        """Serve this function, or its new configuration; what runs already finishes on the old one. Whether its code is
        there is found out when it is called."""
        ...

    def withdraw(self, name: str) -> None:
        """Serve it no longer; what runs finishes."""
        ...


class Destination(Protocol):
    """Where a result goes. Delivery is durable when `Delivered` is answered; it may repeat after a crash."""

    @property
    def maximum_record_bytes(self) -> int | None:
        """What it takes at most; None: anything."""
        ...

    async def deliver(self, record: bytes, attributes: Mapping[str, str], hops: int) -> Delivery:
        """Hand over one record: JSON, with a dead-letter event's attributes; `hops` is the length of the chain that it
        goes on with."""
        ...


@runtime_checkable
class RecordDestination(Destination, Protocol):
    """A destination that takes a stream's records themselves, as they were."""

    async def deliver_records(self, records: Sequence[Record], about: bytes, hops: int) -> Delivery:
        """Hand over records that were given up; `about` is their invocation record without them."""
        ...


# --------------------------------------------------------------------------- stores


@dataclass(frozen=True, slots=True)
class Document:
    """A stored configuration: JSON text under (kind, name). `revision` changes with every write."""

    kind: str
    name: str
    body: str
    revision: int


class Documents(Protocol):
    """Configuration and desired state, shared by all engines and clients of the store."""

    async def get(self, kind: str, name: str) -> Document | None: ...

    async def list(self, kind: str, after: int = 0) -> Sequence[Document]:
        """All of a kind, or those that were written since: whose revision is above `after`. Costs what it gives. A
        store that has lost this revision gives all: their revisions are not above it."""
        ...

    async def put(
        self, kind: str, name: str, body: str, revision: int | None = None, expires_in_seconds: float | None = None
    ) -> Document | None:
        """Write it. With `revision`, only if the stored one has it (0: only if there is none); None says it has not.
        One that expires is gone after that time, which nobody is told."""
        ...

    async def delete(self, kind: str, name: str) -> bool:
        """Remove it; False: there is none."""
        ...

    def watch(self, kind: str) -> AsyncIterator[None]:
        """Yields once at the start, then after every change of that kind (changes may be folded into one)."""
        ...


class EventQueue(Protocol):
    """The durable queue of asynchronous events, one line per function, seen by one engine (`hosted`: its functions).

    `held_seconds`: for so long from when it was asked for, a claim is the engine's even if it gives no sign of
    life."""

    held_seconds: float

    async def put_many(self, events: Sequence[Event]) -> None:
        """Store them all, durably, or raise StoreUnavailable and store none. One whose request id is stored already
        changes nothing, so asking again is safe."""
        ...

    async def due(self, hosted: Collection[str], wait_seconds: float) -> Sequence[tuple[str, float]]:
        """Functions with an event to run now, each with its oldest `accepted_at`; waits for one at most `wait_seconds`.
        A function is told once, then not again until `receive` was called for it."""
        ...

    async def receive(
        self, function: str, limit: int, claim_seconds: float, accepted_before: float | None = None
    ) -> Sequence[Event]:
        """Claim up to `limit` due events, oldest first; each has its `attempts` raised and a fresh `receipt`. Not
        settled within `claim_seconds`, an event is due again. `accepted_before` claims only older ones."""
        ...

    async def settle_many(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        """Delete or release claimed events, all in one transaction; False: a stale receipt, nothing was done. A release
        that gives back lowers `attempts` and raises `deferrals`; any other sets `deferrals` to 0. A deleted event
        leaves a terminal record with its `state`, `result` and `reason` (if it has none: the reason of its last
        release), a released one its `reason`: see `Facts`."""
        ...

    async def pending(self) -> Mapping[str, int]:
        """How many events each function has, waiting or claimed."""
        ...


@dataclass(frozen=True, slots=True)
class Holdings:
    """What an engine sees at a heartbeat: how many engines are alive for a group, and every lease of it by name.
    `valid_for_seconds` counts on the monotonic clock from before the request."""

    members: int
    leases: Mapping[str, Lease]
    valid_for_seconds: float


class Leases(Protocol):
    """Who may read which shard, how far it is, and how much of a shared limit an engine may use."""

    async def heartbeat(self, group: str, names: Collection[str], valid_for_seconds: float) -> Holdings:
        """Announce this engine as a member of the group, renew the leases it holds there, and see all of `names`."""
        ...

    async def take_many(self, leases: Sequence[Lease], valid_for_seconds: float) -> Sequence[Lease]:
        """Take leases that were seen free (same counter); gives those that were got, each with a raised counter."""
        ...

    async def release_many(self, leases: Sequence[Lease]) -> None:
        """Give them back, with the progress that is stored; those that are no longer ours stay as they are."""
        ...

    async def checkpoint_many(self, checkpoints: Sequence[tuple[Lease, Checkpoint]]) -> Sequence[bool]:
        """Store progress and fates if owner and counter still hold; False: the lease is lost and nothing was written.
        A checkpoint whose progress is what is stored adds no fates, so writing one again is safe; one of another seek
        generation than what is stored forgets the fates so far."""
        ...

    async def permits(self, demands: Mapping[str, Demand], valid_for_seconds: float) -> Mapping[str, int]:
        """How much of each named limit this engine may use until then. What was granted and is neither in use nor
        wanted goes back; below `in_use` means: start nothing new until enough has ended."""
        ...


class QueueSource(Protocol):
    """A queue that a mapping receives from."""

    arn: str

    @property
    def capabilities(self) -> frozenset[str]: ...

    @property
    def visibility_timeout_seconds(self) -> float:
        """How long a received message is invisible to others."""
        ...

    @property
    def fifo(self) -> bool:
        """Do messages of one group come in order, and none while one of them is out?"""
        ...

    async def receive(self, limit: int, wait_seconds: float) -> Sequence[Message]:
        """Up to `limit` visible messages, invisible from now on for the visibility time-out; waits for one at most
        `wait_seconds`. A cancelled call loses nothing."""
        ...

    async def settle_many(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        """Delete, or release (visible again at a time), by receipt; False: a stale receipt, nothing was done. A receipt
        is stale once its message was received again, deleted or given back; a release moves the time of one in flight,
        again and again if need be."""
        ...

    def view(self, message: Message) -> Mapping[str, object]:
        """How a filter sees it."""
        ...

    def to_event(self, messages: Sequence[Message], windowed: bool) -> dict[str, object]:
        """How a function sees them; `windowed`: the mapping has a batching window (SQS records differ in one key)."""
        ...


class StreamReader(Protocol):
    """One reader of many shards: one connection, no polling of idle shards."""

    def want(self, shard: str, position: str, maximum_records: int, maximum_bytes: int) -> None:
        """Ask once for what follows `position`; at most one request a shard is outstanding."""
        ...

    def drop(self, shard: str) -> None:
        """Forget the request of this shard, if there is one: it is not answered."""
        ...

    async def ready(self) -> Sequence[Read]:
        """Wait until at least one request has an answer; answers with all that have. A request at the shard's tip is
        answered once with no records and `caught_up` if that was not said before, then waits for data."""
        ...

    def passed(self, shard: str, position: str, counter: int) -> None:
        """The reader's group needs nothing up to this position any more, says who has its lease with this counter: a
        higher one holds against a lower."""
        ...

    async def close(self) -> None: ...


class Election(Protocol):
    """Who tries to read which shard, where a source holds an election of its own, as Kafka's consumer groups do; a
    reader for a group has it as its `election`. Who may is the lease's to say all the same, and how far a shard is the
    store's: what is committed here is a mirror of that."""

    def listen(self, changed: Callable[[], None]) -> None:
        """Stand for election from now on; `changed` is called when other shards are to be tried."""
        ...

    def assigned(self) -> Collection[str]:
        """The shards to be tried now. One that is no longer among them is to be drained and released, for which the
        election waits a while. Raises StoreUnavailable where nobody knows."""
        ...

    async def resume(self, shard: str, stored: Progress | None, seek: int) -> Progress | None:
        """Where to go on in a shard that was got, by what is stored and by what the group committed; None: at the
        mapping's starting position. Until the reader drops it, the shard is in use."""
        ...

    def commit(self, shard: str, progress: Progress) -> None:
        """This is stored: commit it, soon."""
        ...


class StreamSource(Protocol):
    """A stream that a mapping reads."""

    arn: str

    @property
    def capabilities(self) -> frozenset[str]: ...

    @property
    def weights(self) -> Weights:
        """Of its records."""
        ...

    @property
    def retention_seconds(self) -> float:
        """How old a record becomes before the source forgets it, once every group has passed it."""
        ...

    async def shards(self) -> Sequence[Shard]:
        """All that there are, closed ones too while they hold records."""
        ...

    async def position(self, shard: str, starting_position: str, timestamp: float | None) -> str:
        """The position after which reading starts: TRIM_HORIZON, LATEST or AT_TIMESTAMP, made concrete."""
        ...

    def reader(self, group: str = "") -> StreamReader:
        """`group`, a mapping's id: what it has not passed yet is not forgotten, as long as there is that mapping."""
        ...

    def view(self, record: Record) -> Mapping[str, object]:
        """How a filter sees it."""
        ...

    def to_event(self, shard: str, records: Sequence[Record]) -> dict[str, object]:
        """How a function sees them."""
        ...


class QueueTarget(Protocol):
    """A queue that can be sent to."""

    async def send_many(self, sends: Sequence[Send]) -> Sequence[str]:
        """Store them durably; gives the message ids. All or none."""
        ...


class StreamTarget(Protocol):
    """A stream that can be put to."""

    async def put_many(self, puts: Sequence[Put]) -> Sequence[str]:
        """Store them durably; gives the positions (sequence numbers). All or none."""
        ...


class BuiltinQueue(QueueSource, QueueTarget, Protocol):
    """The store's own queue, which people can look into."""

    async def depth(self) -> Depth:
        """How many messages there are, as GetQueueAttributes counts them (but exact)."""
        ...

    async def purge(self) -> None:
        """Forget every message, also those that are out (PurgeQueue)."""
        ...

    async def peek(self, limit: int, after: str = "") -> Sequence[MessageFact]:
        """Up to `limit` messages in a fixed order, following the one with the id `after`; nothing is received by it."""
        ...

    async def claim_many(self, ids: Sequence[str]) -> Sequence[Message]:
        """Receive these, as far as they are visible, whatever their order; as `receive`, but the redrive policy has no
        word."""
        ...


class BuiltinStream(StreamSource, StreamTarget, Protocol):
    """The store's own stream, whose shards can be changed (Kinesis API: SplitShard, MergeShards) and looked into."""

    async def split(self, shard: str) -> Sequence[Shard]:
        """Close it, and open two children, each with half of its hash keys."""
        ...

    async def merge(self, one: str, other: str) -> Shard:
        """Close both, which must be neighbours, and open one child."""
        ...

    async def backlog(self, shard: str, position: str | None) -> Backlog:
        """What lies after this position (None: from the first record that there is)."""
        ...

    async def find(self, position: str) -> tuple[str, Record] | None:
        """The record at this position and its shard; None: there is none, or no longer."""
        ...


class Facts(Protocol):
    """What a store knows of single items and of what became of them, for people who ask. No loop needs it."""

    async def event(self, request_id: str) -> EventFact | None:
        """An asynchronous event that waits, runs, or ended not long ago."""
        ...

    async def ended(self) -> Mapping[tuple[str, str], int]:
        """How many events ended, by (function, state)."""
        ...

    async def message(self, message_id: str) -> MessageFact | None:
        """A message, in whichever queue it is now."""
        ...

    async def shards(self, group: str) -> Sequence[ShardFact]:
        """How far a mapping is in each shard that it ever had, and the fates of what it read since its last seek."""
        ...

    async def settled(self, group: str, shard: str, position: str) -> Settled | None:
        """The stored range that this record is in, with its fate; None: it has found none, or that was long ago."""
        ...


class Archive(Protocol):
    """Uploaded zips, each once under its SHA-256 in hexadecimal, for all engines of a store. Whoever reads one checks
    its hash."""

    async def put(self, sha256: str, data: bytes) -> None:
        """Keep it, durably and whole or not at all; its age begins anew if it is there already."""
        ...

    async def get(self, sha256: str) -> bytes | None:
        """None: it is not there."""
        ...

    async def ages(self) -> Mapping[str, float]:
        """All that there are, each with the seconds since it was last put."""
        ...

    async def remove(self, sha256: str, unless_younger_than_seconds: float) -> bool:
        """Keep it no longer; False: it is not there, or younger."""
        ...


class Connection(Protocol):
    """An engine's or a client's view of a store. All that it holds in its owner's name ends with it."""

    @property
    def documents(self) -> Documents: ...

    @property
    def events(self) -> EventQueue: ...

    @property
    def leases(self) -> Leases: ...

    @property
    def facts(self) -> Facts: ...

    @property
    def archive(self) -> Archive | None:
        """None: the store's engines are all on one machine, and share a folder beside it."""
        ...

    async def engines(self) -> int:
        """How many engines are connected to this store now, in all processes; one that died without a word may count
        for some seconds more."""
        ...

    def queue(self, queue: Queue) -> BuiltinQueue:
        """The queue of that name, with this configuration from now on."""
        ...

    def stream(self, stream: Stream) -> BuiltinStream:
        """The stream of that name, as `queue`; an existing one keeps its shards."""
        ...

    @property
    def cautions(self) -> Sequence[str]:
        """What can be lost although nothing is wrong, because of how the store is set up, each a sentence."""
        ...

    def on_trouble(self, callback: Callable[[str], None]) -> None:
        """Hear, as sentences, what the store finds wrong with itself and goes on from: damaged rows that it set aside,
        a log that it cannot empty; at once what it has found already."""
        ...

    async def close(self) -> None:
        """Free its leases, permits and claims at once. Closing twice is allowed."""
        ...


class Store(Protocol):
    """Where everything durable lives. Opens nothing until connected."""

    @property
    def capabilities(self) -> frozenset[str]: ...

    async def connect(self, world: World, client: bool = False) -> Connection:
        """Open it for the engine that `world.owner` names; or for a client, which looks, sends and changes what is
        desired beside the engines, and claims nothing for long. Raises StoreUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class World:
    """What comes in by the front door: who we are, time, chance, ids, and the account that ARNs name."""

    owner: str
    clock: Clock
    random: Callable[[], float]  # uniform in [0, 1)
    new_id: Callable[[], str]  # a lower-case uuid4
    region: str = DEFAULT_REGION
    account_id: str = DEFAULT_ACCOUNT_ID


@dataclass(frozen=True, slots=True)
class CodePlaces:
    """Where a function's code can be run from now. `layers` is None if it has none; `fingerprint` is another when the
    content of either is."""

    folder: Path
    layers: Path | None
    fingerprint: str


@dataclass(frozen=True, slots=True)
class RuntimeSurroundings:
    """What an `EnvironmentRuntime` is made with. `log(level, event, **fields)` says what happens to environments;
    `logs` takes what their functions print. `find_code(environment, scratch)` and `code_fingerprint(environment)` find
    code and tell whether it changed; they wait for disks and raise LambentError. `reload_code`: whether that is to be
    asked before each invocation. `allow_private`: addresses that are not public may be reached.
    `initialized(function, seconds)` counts an init that ended well, `provisioned(function, spilled)` a call of one that
    has provisioned concurrency, and whether that had no room for it. `maximum_environments` at once, of all functions;
    one that serves nothing is kept for `idle_seconds`."""

    world: World
    log: Callable[..., None]
    logs: Logs
    find_code: Callable[[ExecutionEnvironment, Path], CodePlaces]
    code_fingerprint: Callable[[ExecutionEnvironment], str]
    reload_code: bool = False
    allow_private: bool = False
    initialized: Callable[[str, float], None] = lambda function, seconds: None
    provisioned: Callable[[str, bool], None] = lambda function, spilled: None
    maximum_environments: int = 256
    idle_seconds: float = 300.0
