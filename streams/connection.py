"""How Kafka is reached: the one place where settings become what its clients take, and where the door is tried first.

Clients try again whatever the broker answers, and tell of it in their log alone; a wrong password tried ten times a
second locks an account. So `reach` knocks once with the same means as they have, before any of them is made, and says
who was refused and why.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterator
from typing import Any

from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from efficientrec.errors import BrokerRefused, BrokerUnavailable, SettingInvalid
from streams import unpacking
from streams.settings import PREFIX, Settings

PAUSE_SECONDS = 0.2
CLOSE_SECONDS = 1.0
"""How long a broker may take to say goodbye."""
NO_RIGHTS = (
    TopicAuthorizationFailedError,
    GroupAuthorizationFailedError,
    ClusterAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
"""What a broker answers to whom it knows, but does not let do something. Trying again cannot help."""
_NOT_LET_IN = (SaslAuthenticationFailed, UnsupportedSaslMechanismError, IllegalSaslStateError)
_HOST_DIFFERS = (62, 64)  # OpenSSL's codes: of a name, of an address
_OUT_OF_DATE = (9, 10)


class Connection:
    """What every client of one process is made with. Raises SettingInvalid for files that are no certificates."""

    def __init__(self, settings: Settings) -> None:
        self.servers = settings.bootstrap_servers
        self._settings = settings
        self._context = _context(settings) if settings.security_protocol.endswith("SSL") else None

    @property
    def address(self) -> str:
        """For messages."""
        return ",".join(self.servers)

    def options(self) -> dict[str, Any]:
        """What consumers, producers, admin clients and the bare client of aiokafka take."""
        return {"bootstrap_servers": self.servers, **self._access()}

    def credentials(self) -> Any:
        """The same for Faust; None where there is nothing to prove."""
        import faust  # only the worker needs it

        settings = self._settings
        if settings.security_protocol.startswith("SASL"):
            return faust.SASLCredentials(
                mechanism=settings.sasl_mechanism,
                username=settings.sasl_username,
                password=settings.sasl_password.reveal(),
                ssl_context=self._context,
            )
        return None if self._context is None else faust.SSLCredentials(self._context)

    async def reach(self, seconds: float) -> None:
        """Returns when a broker answers. Raises BrokerRefused as soon as one does not let us in or is not who it should
        be, and BrokerUnavailable when none has answered for so long."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            failure: Exception | None = None
            for server in self.servers:
                try:
                    return await self._knock(server)
                except (KafkaError, OSError, ValueError, KeyError) as error:
                    refused = self._refused(server, error)
                    if refused is not None:
                        raise refused from error
                    failure = error
            if asyncio.get_running_loop().time() >= deadline:
                expected = "start it, or correct EFFICIENTREC_BROKER"
                if not isinstance(_root(failure), ConnectionRefusedError):
                    expected += f" or {PREFIX}SECURITY_PROTOCOL, which is {self._settings.security_protocol}"
                raise BrokerUnavailable(
                    f"no Kafka broker at {self.address} within {seconds:g} seconds ({failure}); {expected}"
                ) from failure
            await asyncio.sleep(PAUSE_SECONDS)

    async def _knock(self, server: str) -> None:
        """Opens a connection, as a client would, and asks for nothing."""
        host, _, port = server.rpartition(":")
        timeout_ms = int(1000 * self._settings.request_timeout_seconds)
        connection = AIOKafkaConnection(host.strip("[]"), int(port), request_timeout_ms=timeout_ms, **self._access())
        try:
            await connection.connect()
            await connection.send(MetadataRequest([]))
        finally:
            closed = connection.close()
            if connection._protocol is not None:  # it was opened
                await asyncio.wait([closed], timeout=CLOSE_SECONDS)

    def _access(self) -> dict[str, Any]:
        settings = self._settings
        access: dict[str, Any] = {"security_protocol": settings.security_protocol}
        if self._context is not None:
            access["ssl_context"] = self._context
        if settings.security_protocol.startswith("SASL"):
            access |= {
                "sasl_mechanism": settings.sasl_mechanism,
                "sasl_plain_username": settings.sasl_username,
                "sasl_plain_password": settings.sasl_password.reveal(),
            }
        return access

    def _refused(self, server: str, error: Exception) -> BrokerRefused | None:
        """What to say of an error that does not pass; None for one that may."""
        settings, where = self._settings, f"the broker at {server}"
        for cause in _causes(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                return BrokerRefused(
                    f"{where} is not trusted: {cause.verify_message}; expected {self._expected(cause)}"
                )
            if isinstance(cause, ssl.SSLError) and "ALERT" in str(cause.reason):
                given = settings.ssl_certificate_file
                ours = f"our certificate {str(given)!r}" if given else "us without a certificate"
                return BrokerRefused(
                    f"{where} does not accept {ours} ({str(cause.reason).lower().replace('_', ' ')}); expected "
                    f"{PREFIX}SSL_CERTIFICATE_FILE with one that is valid and from an authority that it knows"
                )
            if isinstance(cause, UnsupportedSaslMechanismError):
                return BrokerRefused(
                    f"{where} does not take {PREFIX}SASL_MECHANISM {settings.sasl_mechanism} ({cause}); expected one "
                    "that is in its sasl.enabled.mechanisms"
                )
            if isinstance(cause, SaslAuthenticationFailed):
                return BrokerRefused(
                    f"{where} does not accept user {settings.sasl_username!r} with this password by "
                    f"{settings.sasl_mechanism}; expected {PREFIX}SASL_USERNAME and {PREFIX}SASL_PASSWORD (or _FILE) "
                    "of a user that the broker has for this mechanism"
                )
            if isinstance(cause, ValueError | KeyError) and settings.sasl_mechanism.startswith("SCRAM"):
                return BrokerRefused(
                    f"{where} does not prove that it knows the password of user {settings.sasl_username!r} ({cause}); "
                    f"expected the right one: see whether {PREFIX}BROKER is yours"
                )
            if isinstance(cause, _NOT_LET_IN):
                return BrokerRefused(
                    f"{where} asks for no password; expected another {PREFIX}SECURITY_PROTOCOL than "
                    f"{settings.security_protocol}, or the port of another listener"
                )
        return None

    def _expected(self, error: ssl.SSLCertVerificationError) -> str:
        if error.verify_code in _HOST_DIFFERS:
            return f"a certificate for that name, or {PREFIX}BROKER with a name that stands in the certificate"
        if error.verify_code in _OUT_OF_DATE:
            return "a certificate that is valid now; renew it at the broker, and look at both clocks"
        ca = self._settings.ssl_ca_file
        known = f"{PREFIX}SSL_CA_FILE, {str(ca)!r}," if ca else f"the system (no {PREFIX}SSL_CA_FILE is set)"
        return f"one from an authority that {known} has"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _root(error: BaseException | None) -> BaseException | None:
    return list(_causes(error))[-1] if error else None


def _context(settings: Settings) -> ssl.SSLContext:
    """Trusts the authorities of the settings and nobody else, compares names, and shows our certificate if we have
    one."""
    try:
        context = ssl.create_default_context(cafile=settings.ssl_ca_file)
    except (ssl.SSLError, OSError) as error:
        where = f"{PREFIX}SSL_CA_FILE is {str(settings.ssl_ca_file)!r}"
        raise SettingInvalid(f"{where}; expected certificates in PEM ({error})") from error
    if settings.ssl_certificate_file is not None:
        assert settings.ssl_key_file is not None, "settings.py lets no certificate pass without its key"
        # Never None: OpenSSL would ask the terminal for the password.
        password = settings.ssl_key_password.reveal()
        try:
            context.load_cert_chain(settings.ssl_certificate_file, settings.ssl_key_file, lambda: password)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise SettingInvalid(
                f"{PREFIX}SSL_CERTIFICATE_FILE is {str(settings.ssl_certificate_file)!r} and {PREFIX}SSL_KEY_FILE is "
                f"{str(settings.ssl_key_file)!r}; expected a certificate and its private key in PEM, and "
                f"{PREFIX}SSL_KEY_PASSWORD (or _FILE) if the key is encrypted ({error})"
            ) from None  # its traceback would hold what opens the key
    return context


class _Discreet(logging.Filter):
    """At DEBUG aiokafka tells every request whole, those with the password as well."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                f"<{type(arg).__name__}>" if type(arg).__name__.startswith("SaslAuthenticate") else arg
                for arg in record.args
            )
        return True


unpacking.install()  # here, where every consumer comes by
logging.getLogger("aiokafka.conn").addFilter(_Discreet())  # at the source: whichever handler there is
