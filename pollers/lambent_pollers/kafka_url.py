"""What a Kafka URL says, and the options of the client (aiokafka's) that come of it.

Decides which options there are, and where secrets may stand. Leaves to `kafka_secrets.py` what a secret has, to
`kafka.py`, `kafka_reader.py`, `kafka_group.py` and `kafka_producer.py` what is done with them.

    kafka://[user:password@]HOST[:9092][,HOST…]/TOPIC[,TOPIC…]     one cluster; as a destination, one topic

After `?` may stand, joined by `&`:

    group=NAME                the consumer group; without, one of the mapping's own
    client_id=lambent         what the brokers call us in their logs and quotas
    security=tls              TLS; with a user's name and no certificate of his own it is SASL over TLS
    sasl=SCRAM-SHA-512        how the user says who he is: PLAIN, SCRAM-SHA-256 or, by default, this one
    password_env=NAME         the environment variable that has the password, in place of the URL
    ca=FILE                   the certificate authorities that are believed (PEM); without, the system's
    certificate=FILE, key=FILE  our own certificate and its key (PEM)
    secret=NAME               the file that has user and password, in place of the URL; `kafka_secrets.py` says where
    ca_secret=NAME, certificate_secret=NAME  the same for the authorities, and for our own certificate
    timeout=5                 seconds for an answer
    session_timeout=10        seconds without a sign of life after which the group gives our partitions to others
    rebalance_timeout=30      seconds in which what is in flight may end when partitions are taken back
    out_of_range=earliest     what follows when the records to be read next are gone or there never were any:
                              earliest and latest go on there, stop waits for somebody to seek
    isolation=read_uncommitted  or read_committed: leave out records of transactions that were not committed
    records=aws               how a function sees keys, values and headers: as AWS has them, in base64 and lists of
                              bytes, or records=json: as texts, and JSON values where there are such
    compression=none          of what is put: gzip, snappy, lz4 or zstd
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from tempfile import NamedTemporaryFile
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from lambent_pollers.kafka_secrets import read_secret
from lambent_pollers.urls import in_seconds, refuse

TOPIC_NAME: Final = r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}"
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_CHOICES: Final[Mapping[str, Sequence[str]]] = {
    "security": ("", "tls"),
    "sasl": ("", *MECHANISMS),
    "out_of_range": ("earliest", "latest", "stop"),
    "isolation": ("read_uncommitted", "read_committed"),
    "records": ("aws", "json"),
    "compression": ("none", "gzip", "snappy", "lz4", "zstd"),
}
_SECONDS: Final[Mapping[str, float]] = {"timeout": 5.0, "session_timeout": 10.0, "rebalance_timeout": 30.0}
_TEXTS: Final[Mapping[str, str]] = {
    "group": "", "client_id": "lambent", "password_env": "", "ca": "", "certificate": "", "key": "",
    "secret": "", "ca_secret": "", "certificate_secret": "",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class KafkaUrl:
    """A parsed URL. `str()` gives it without the password, for messages."""

    servers: str
    topics: tuple[str, ...]
    options: Mapping[str, str]
    seconds: Mapping[str, float]
    user: str = ""
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        return f"kafka://{user}{self.servers}/{','.join(self.topics)}"

    def client(self) -> dict[str, Any]:
        """What every client of aiokafka's takes. Reads certificates and secrets; raises InvalidParameterValue if it
        can't."""
        options = self.options
        user, password = self._login()
        tls = any(options[each] for each in ("security", "ca", "certificate", "ca_secret", "certificate_secret"))
        found: dict[str, Any] = {
            "bootstrap_servers": self.servers.split(","),
            "client_id": options["client_id"],
            "request_timeout_ms": int(self.seconds["timeout"] * 1e3),
            "security_protocol": ("SASL_" if user else "") + ("SSL" if tls else "PLAINTEXT"),
        }
        if tls:
            found["ssl_context"] = self._tls()
        if user:
            found["sasl_mechanism"] = options["sasl"] or "SCRAM-SHA-512"
            found["sasl_plain_username"], found["sasl_plain_password"] = user, password
        return found

    def _login(self) -> tuple[str, str]:
        if not self.options["secret"]:
            return self.user, self.password
        said = read_secret(self.options["secret"], "username", "password")
        return said["username"], said["password"]

    def _tls(self) -> ssl.SSLContext:
        options = self.options
        try:
            believed = read_secret(options["ca_secret"], "certificate")["certificate"] if options["ca_secret"] else None
            context = ssl.create_default_context(cafile=options["ca"] or None, cadata=believed)
            if options["certificate"]:
                context.load_cert_chain(options["certificate"], options["key"] or None)
            if options["certificate_secret"]:
                own = read_secret(options["certificate_secret"], "certificate", "privateKey")
                with NamedTemporaryFile("w", suffix=".pem") as file:  # OpenSSL takes it from a file only
                    file.write(f"{own['certificate']}\n{own['privateKey']}\n")
                    file.flush()
                    context.load_cert_chain(file.name, password=own.get("privateKeyPassword", ""))
        except (OSError, ValueError) as error:
            refuse(str(self), f"its certificates can't be read: {error}")
        return context


def parse_kafka_url(url: str, variable: Callable[[str], str | None] = os.environ.get) -> KafkaUrl:
    """`variable` gives that of the environment which has a password. Raises InvalidParameterValue that says what to
    write."""
    scheme, _, rest = url.partition("://")
    parts = urlsplit(f"//{rest}")
    login, _, hosts = parts.netloc.rpartition("@")
    topics = tuple(unquote(topic) for topic in parts.path.strip("/").split(",") if topic)
    if scheme != "kafka" or not hosts or not topics or "/" in parts.path.strip("/") or parts.fragment:
        refuse(url, "write kafka://HOST:PORT/TOPIC, with hosts and topics joined by commas")
    for topic in topics:
        if not re.fullmatch(TOPIC_NAME, topic):
            refuse(url, f"{topic!r} is no topic's name: that has 1 to 249 letters, digits, dots, _ and -")
    said = dict(parse_qsl(parts.query, keep_blank_values=True))
    if strange := said.keys() - _CHOICES.keys() - _SECONDS.keys() - _TEXTS.keys():
        known = ", ".join(sorted([*_CHOICES, *_SECONDS, *_TEXTS]))
        refuse(url, f"{', '.join(sorted(strange))} is no option; there are {known}")
    options = {name: said.get(name, values[0]) for name, values in _CHOICES.items()}
    for name, value in options.items():
        if value not in _CHOICES[name]:
            refuse(url, f"{name} must be one of {', '.join(filter(None, _CHOICES[name]))}")
    seconds = {name: in_seconds(url, name, said.get(name, str(usual))) for name, usual in _SECONDS.items()}
    texts = {name: said.get(name, usual) for name, usual in _TEXTS.items()}
    user, _, password = (unquote(part) for part in login.partition(":"))
    if texts["password_env"]:
        if password or not user:
            refuse(url, "password_env goes with a user's name that has no password beside it")
        password = variable(texts["password_env"]) or ""
        if not password:
            refuse(url, f"the environment variable {texts['password_env']} has no password")
    if bool(user) != bool(password):
        refuse(url, "a user's name needs a password: write USER:PASSWORD@, or USER@ and password_env=NAME")
    if texts["secret"] and user:
        refuse(url, "secret has user and password: leave them out before the hosts")
    if options["sasl"] and not user and not texts["secret"]:
        refuse(url, "sasl needs a user: write USER:PASSWORD@ before the hosts, or secret=NAME")
    servers = ",".join(_address(url, host) for host in hosts.split(","))
    return KafkaUrl(servers, topics, {**options, **texts}, seconds, user, password)


def _address(url: str, text: str) -> str:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        refuse(url, str(error))
    if not host:
        refuse(url, "it names no host")
    return f"[{host}]:{port or 9092}" if ":" in host else f"{host}:{port or 9092}"
