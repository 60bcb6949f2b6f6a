"""Apache Kafka that asks everybody who he is and grants nothing that was not granted: a listener for passwords, one for
certificates, two whose own certificates are not in order, and one on which tests may do everything."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest_v1, DeleteAclsRequest_v1, DescribeAclsRequest_v1

from streams import rights
from streams.broker import free_port
from streams.secret import Secret
from tests.certificates import DAY, Authority, Pair
from tests.kafka import NativeKafka, Place

SECURITY = Path(__file__).parent.parent / "docs" / "security.md"
KINDS = {"Topic": 2, "Group": 3, "Cluster": 4, "TransactionalId": 5}
OPERATIONS = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}
LITERAL, PREFIXED, ALLOW, ANY = 3, 4, 3, 1
USERS = [process.replace(" ", "-") for process in rights.PROCESSES]


Entry: TypeAlias = tuple[int, str, int, str, str, int, int]
"""Kind, name and pattern of the resource; principal, host, operation, permission."""


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

    def entry(self) -> Entry:
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

    def change_passwords(self) -> None:
        """Of users in PLAIN, from the next start on."""
        text = self._properties.read_text()
        self._properties.write_text(re.sub(r'(user_[\w-]+)="[^"]*"', r'\1="another"', text))

    def grant(self, grants: Iterable[Grant]) -> None:
        """Returns when they are in force."""
        entries = [grant.entry() for grant in grants]
        asyncio.run(self._change(CreateAclsRequest_v1(entries), lambda known: set(entries) <= known))

    def withdraw(self, *grants: Grant) -> None:
        """Returns when they are no longer in force."""
        entries = [grant.entry() for grant in grants]
        asyncio.run(self._change(DeleteAclsRequest_v1(entries), lambda known: not set(entries) & known))

    async def _change(self, request: Any, is_done: Callable[[set[Entry]], bool]) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.address)
        await admin.start()
        try:
            reply = (await admin._send_request(_Ready(request))).to_object()
            results = reply.get("creation_responses", reply.get("filter_responses"))
            assert all(result["error_code"] == 0 for result in results), reply
            async with asyncio.timeout(30):
                while not is_done(await _known(admin)):  # noqa: ASYNC110  # it is the broker that we wait for
                    await asyncio.sleep(0.02)
        finally:
            await admin.close()

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


async def _known(admin: Any) -> set[Entry]:
    reply = await admin._send_request(_Ready(DescribeAclsRequest_v1(ANY, None, ANY, None, None, ANY, ANY)))
    return {(kind, name, pattern, *rest) for kind, name, pattern, acls in reply.resources for rest in acls}


class _Ready:
    """A request in the one version that we want: aiokafka's own take a single entry, and its fields for several."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def prepare(self, versions: object) -> Any:
        return self._request
