"""Apache Kafka that asks everybody who he is and grants nothing that was not granted: a listener for passwords, one for
certificates, two whose own certificates are not in order, and one on which tests may do everything."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Int8, Int16, Int32, Schema, String

from streams.broker import free_port
from streams.secret import Secret
from tests.certificates import DAY, Authority, Pair
from tests.kafka import NativeKafka, Place

SECURITY = Path(__file__).parent.parent / "docs" / "security.md"
KINDS = {"Topic": 2, "Group": 3, "Cluster": 4, "TransactionalId": 5}
OPERATIONS = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}
LITERAL, PREFIXED, ALLOW = 3, 4, 3
USERS = ("worker", "trainer", "server", "topics-create", "topics-check", "replay", "send", "recommend", "erase")


@dataclass(frozen=True)
class Grant:
    """A line of the table in docs/security.md, for one installation and one operation."""

    process: str
    kind: str
    name: str
    operation: str

    @property
    def user(self) -> str:
        return self.process.replace(" ", "-")

    def entry(self) -> tuple[object, ...]:
        """As the requests below take it."""
        pattern = PREFIXED if self.name.endswith("*") else LITERAL
        name = self.name.removesuffix("*")
        return KINDS[self.kind], name, pattern, f"User:{self.user}", "*", OPERATIONS[self.operation], ALLOW


def documented(prefix: str, group: str) -> list[Grant]:
    """What docs/security.md says that each process must be allowed."""
    row = r"^\| `([a-z ]+)` \| (\w+) \| `(\S+)` \| ([\w, ]+) \|"
    found = re.findall(row, SECURITY.read_text(encoding="utf-8"), re.MULTILINE)
    return [
        Grant(process, kind, name.replace("PREFIX", prefix).replace("GROUP", group), operation)
        for process, kind, name, operations in found
        for operation in operations.split(", ")
    ]


class SecuredKafka(NativeKafka):
    """`address` is where tests may do everything; the other addresses are for clients of ours."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder / "authority", "authority")
        self.ports = {name: free_port() for name in ("PASSWORDS", "MUTUAL", "EXPIRED", "STRANGER")}
        here = ("127.0.0.1", "localhost")
        pairs = {
            "PASSWORDS": self.authority.pair("broker", here),
            "MUTUAL": self.authority.pair("broker", here, file="mutual"),
            "EXPIRED": self.authority.pair("broker", here, ends_in=-DAY, file="expired"),
            "STRANGER": self.authority.pair("broker", ("elsewhere.example",), file="stranger"),
        }
        place = Place(1, free_port(), free_port())
        users = [f"SCRAM-SHA-512=[name={user},password={self.password(user)}]" for user in USERS]
        super().__init__(
            folder,
            place,
            [place],
            "-Xms256m -Xmx512m",
            self._more(place, pairs),
            [word for user in users for word in ("--add-scram", user)],
        )

    def at(self, listener: str) -> str:
        return f"127.0.0.1:{self.ports[listener]}"

    def password(self, user: str) -> str:
        """A word that stands nowhere else, so that it can be searched for."""
        return f"swordfish-of-{user}"

    def certificate(self, user: str) -> Pair:
        return self.authority.pair(user, file=f"user-{user}", password=self.password(user))

    def access(self, way: str, user: str) -> dict[str, Any]:
        """Settings of a user: way is a SASL mechanism, or SSL for a certificate."""
        common = {"ssl_ca_file": self.authority.file}
        if way == "SSL":
            pair = self.certificate(user)
            return common | {
                "broker": f"kafka://{self.at('MUTUAL')}",
                "security_protocol": "SSL",
                "ssl_certificate_file": pair.certificate,
                "ssl_key_file": pair.key,
                "ssl_key_password": Secret(self.password(user)),
            }
        return common | {
            "broker": f"kafka://{self.at('PASSWORDS')}",
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": way,
            "sasl_username": user,
            "sasl_password": Secret(self.password(user)),
        }

    def grant(self, grants: Iterable[Grant]) -> None:
        asyncio.run(self._ask(_Grant([grant.entry() for grant in grants])))

    def withdraw(self, *grants: Grant) -> None:
        asyncio.run(self._ask(_Withdraw([grant.entry() for grant in grants])))

    async def _ask(self, request: Any) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.address)
        await admin.start()
        try:
            reply = await admin._client.send(admin._client.get_random_node(), request)
        finally:
            await admin.close()
        assert all(code == 0 for code, *_ in reply.results), reply

    def _more(self, place: Place, pairs: dict[str, Pair]) -> str:
        listeners = ",".join(f"{name}://127.0.0.1:{port}" for name, port in self.ports.items())
        listeners = f"PLAINTEXT://{place.address},{listeners}"
        plain = " ".join(f'user_{user}="{self.password(user)}"' for user in USERS)
        lines = [
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users=User:ANONYMOUS",
            f"listeners={listeners},CONTROLLER://127.0.0.1:{place.controller_port}",
            f"advertised.listeners={listeners}",
            "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PASSWORDS:SASL_SSL,MUTUAL:SSL,"
            "EXPIRED:SASL_SSL,STRANGER:SASL_SSL",
            "sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN",
            "ssl.principal.mapping.rules=RULE:^CN=([^,]+).*$/$1/",
            "listener.name.mutual.ssl.client.auth=required",
            "listener.name.mutual.ssl.truststore.type=PEM",
            f"listener.name.mutual.ssl.truststore.location={self.authority.file}",
        ]
        for name, pair in pairs.items():
            listener = f"listener.name.{name.lower()}"
            lines += [f"{listener}.ssl.keystore.type=PEM", f"{listener}.ssl.keystore.location={pair.keystore()}"]
            if name != "MUTUAL":
                module = "org.apache.kafka.common.security"
                lines += [
                    f"{listener}.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;",
                    f"{listener}.plain.sasl.jaas.config={module}.plain.PlainLoginModule required {plain};",
                ]
        return "\n".join(lines) + "\n"


@contextmanager
def secured_kafka(folder: Path) -> Iterator[SecuredKafka]:
    """It runs until the block ends."""
    kafka = SecuredKafka(folder)
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.stop()


_ENTRY = Array(
    ("kind", Int8),
    ("name", String()),
    ("pattern", Int8),
    ("principal", String()),
    ("host", String()),
    ("operation", Int8),
    ("permission", Int8),
)


class _Granted(Response):  # type: ignore[misc]  # untyped there
    API_KEY = 30
    API_VERSION = 1
    SCHEMA = Schema(("throttle_time_ms", Int32), ("results", Array(("error_code", Int16), ("message", String()))))


class _GrantRequest(RequestStruct):  # type: ignore[misc]
    API_KEY = 30
    API_VERSION = 1
    RESPONSE_TYPE = _Granted
    SCHEMA = Schema(("entries", _ENTRY))


class _Grant(Request[_GrantRequest]):  # type: ignore[misc]
    """CreateAcls, which aiokafka does not have."""

    API_KEY = 30

    def __init__(self, entries: list[tuple[object, ...]]) -> None:
        self._entries = entries

    def build(self, request: type[_GrantRequest]) -> _GrantRequest:
        return request(self._entries)


class _Withdrawn(Response):  # type: ignore[misc]  # untyped there
    API_KEY = 31
    API_VERSION = 1
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            Array(
                ("error_code", Int16),
                ("message", String()),
                (
                    "matching",
                    Array(
                        ("error_code", Int16),
                        ("message", String()),
                        ("kind", Int8),
                        ("name", String()),
                        ("pattern", Int8),
                        ("principal", String()),
                        ("host", String()),
                        ("operation", Int8),
                        ("permission", Int8),
                    ),
                ),
            ),
        ),
    )


class _WithdrawRequest(RequestStruct):  # type: ignore[misc]
    API_KEY = 31
    API_VERSION = 1
    RESPONSE_TYPE = _Withdrawn
    SCHEMA = Schema(("entries", _ENTRY))


class _Withdraw(Request[_WithdrawRequest]):  # type: ignore[misc]
    """DeleteAcls."""

    API_KEY = 31

    def __init__(self, entries: list[tuple[object, ...]]) -> None:
        self._entries = entries

    def build(self, request: type[_WithdrawRequest]) -> _WithdrawRequest:
        return request(self._entries)
