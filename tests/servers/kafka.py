"""A real Apache Kafka for tests: one node in KRaft mode, on free ports of the loopback, in a directory of its own.

Decides where its jars come from: Maven copies them once to `.kafka/` (`python -m tests.servers.kafka`, which `make
setup` runs). Where they can't be had, tests of Kafka are left out and say so; with CI=true they fail.

Its settings are those of compose.yaml, but for addresses and directories.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.servers.redis import free_port

ROOT: Final = Path(__file__).resolve().parents[2]
POM: Final = Path(__file__).with_name("kafka_jars") / "pom.xml"
CERTIFICATE: Final = Path(__file__).with_name("tls") / "localhost.pem"
PATIENCE_SECONDS: Final = 60.0
JAVA: Final = ("java", "-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
CLUSTER_ID: Final = "MkU3OEVBNTcwNTJENDM2Qg"
USER, PASSWORD = "ada", "a secret"
SETTINGS: Final[Mapping[str, str]] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "auto.create.topics.enable": "false",
}
_SECURE: Final[Mapping[str, str]] = {
    "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
    "ssl.keystore.type": "PEM",
    "ssl.keystore.location": str(CERTIFICATE),
    "listener.name.mutual.ssl.client.auth": "required",
    "listener.name.mutual.ssl.truststore.type": "PEM",
    "listener.name.mutual.ssl.truststore.location": str(CERTIFICATE),
    **{
        f"listener.name.{listener}.{mechanism}.sasl.jaas.config": (
            f"org.apache.kafka.common.security.{module} required{users};"
        )
        for listener in ("sasl", "sasltls")
        for mechanism, module, users in (
            ("plain", "plain.PlainLoginModule", f' user_{USER}="{PASSWORD}"'),
            ("scram-sha-256", "scram.ScramLoginModule", ""),
            ("scram-sha-512", "scram.ScramLoginModule", ""),
        )
    },
}
_PROTOCOLS: Final = {
    "PLAIN": "PLAINTEXT", "PROXIED": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", "TLS": "SSL", "SASL": "SASL_PLAINTEXT",
    "SASLTLS": "SASL_SSL", "MUTUAL": "SSL",
}  # fmt: skip


class KafkaProcess:
    """One broker. `start` after `kill` or `stop` finds the same data again, on the same ports.

    ports: by listener: PLAIN, TLS, SASL (as USER with PASSWORD: PLAIN and SCRAM), SASLTLS, MUTUAL (with CERTIFICATE as
    one's own); PROXIED is for a proxy, that listens on `proxy_port` and leads there.
    options: more of the broker's own settings."""

    def __init__(self, directory: Path, **options: str) -> None:
        self.directory = directory
        self.ports = {listener: free_port() for listener in _PROTOCOLS}
        self.proxy_port = free_port()
        listeners = {name: f"{name}://127.0.0.1:{port}" for name, port in self.ports.items()}
        advertised = {**listeners, "PROXIED": f"PROXIED://127.0.0.1:{self.proxy_port}"}
        del advertised["CONTROLLER"]
        self.settings = {
            **SETTINGS,
            **_SECURE,
            "log.dirs": str(directory / "data"),
            "listeners": ",".join(listeners.values()),
            "advertised.listeners": ",".join(advertised.values()),
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in _PROTOCOLS.items()),
            "inter.broker.listener.name": "PLAIN",
            "broker.session.timeout.ms": "1500",  # how long after a crash it is kept from coming back
            "broker.heartbeat.interval.ms": "300",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self.ports['CONTROLLER']}",
            **options,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports['PLAIN']}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "it does not run"
        return self._process.pid

    def start(self) -> None:
        """Returns when it takes connections."""
        self.launch()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._takes_connections():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"Kafka does not start: {(self.directory / 'server.log').read_text()[-4000:]}")

    def launch(self) -> None:
        """Returns before it takes connections. Formats its storage first, if there is none."""
        if not jars().exists():
            pytest.fail("Kafka's jars are missing: `python -m tests.servers.kafka` fetches them, or says why not")
        settings = self.directory / "server.properties"
        if not (self.directory / "data").exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            settings.write_text("".join(f"{name}={value}\n" for name, value in self.settings.items()))
            (self.directory / "log4j2.properties").write_text(_LOGGING)
            users = [
                word
                for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
                for word in ("--add-scram", f'{mechanism}=[name={USER},password="{PASSWORD}"]')
            ]
            storage = self._java("kafka.tools.StorageTool", "format", "--standalone", "-t", CLUSTER_ID, *users)
            done = subprocess.run([*storage, "-c", str(settings)], capture_output=True, check=False)
            if done.returncode:
                pytest.fail(f"Kafka's storage can't be formatted: {done.stdout.decode()} {done.stderr.decode()}")
        with (self.directory / "server.log").open("ab") as log:
            words = self._java("kafka.Kafka", str(settings))
            self._process = subprocess.Popen(words, stdout=log, stderr=log, cwd=self.directory)

    def kill(self) -> None:
        """As a crash (SIGKILL)."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As an administrator would (SIGTERM)."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _java(self, *words: str) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self.directory / 'log4j2.properties'}"
        return [*JAVA, logging, "-cp", f"{jars()}/*", *words]

    def _takes_connections(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.ports["PLAIN"]), timeout=1.0):
            return True
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.02)  # ends early if the server does
        return False

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            if number != signal.SIGKILL:
                self._process.send_signal(signal.SIGCONT)
            self._process.wait(PATIENCE_SECONDS)
            self._process = None


@contextlib.contextmanager
def running(directory: Path, **options: str) -> Iterator[KafkaProcess]:
    """A broker of one's own, for a test that stops or kills it."""
    broker = KafkaProcess(directory, **options)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


def left_out() -> str:
    """Why tests of Kafka are left out; "": they are not. With CI=true they never are, but fail."""
    there = jars().exists() or os.environ.get("CI") == "true"
    return "" if there else "Kafka's jars are missing; `python -m tests.servers.kafka` fetches them, or says why not"


def jars() -> Path:
    """Where they are, once they are fetched."""
    return ROOT / ".kafka" / hashlib.sha256(POM.read_bytes()).hexdigest()[:12]


class Missing(Exception):
    """What is not there, and what it costs."""


def fetch() -> None:
    """Have Maven copy the jars, if they are not there. Raises Missing."""
    directory = jars()
    if directory.exists():
        return
    if lacking := [command for command in ("java", "mvn") if shutil.which(command) is None]:
        raise Missing(
            f"No {' and no '.join(lacking)}: the tests of Kafka are left out. Install Java 17 and Maven "
            "(Debian's: openjdk-17-jre-headless, maven), then `make setup`."
        )
    partly = directory.with_suffix(f".{os.getpid()}")
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={partly}"]
    done = subprocess.run(["mvn", "--batch-mode", "--quiet", "--file", str(POM), *goal], check=False)
    if done.returncode:
        shutil.rmtree(partly, ignore_errors=True)
        raise Missing("Maven could not fetch Kafka's jars (see above): the tests of Kafka are left out.")
    with contextlib.suppress(OSError):  # somebody else was faster
        partly.rename(directory)


_LOGGING: Final = """\
rootLogger.level=WARN
rootLogger.appenderRef.all.ref=ALL
appender.all.type=Console
appender.all.name=ALL
appender.all.layout.type=PatternLayout
appender.all.layout.pattern=%d %p %m (%c)%n
"""


if __name__ == "__main__":
    try:
        fetch()
    except Missing as missing:
        print(missing, file=sys.stderr)
        sys.exit(os.environ.get("CI") == "true")
