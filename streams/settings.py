"""Every setting of worker, trainer and topics, read once at the entry point and handed down.

Knows names, defaults, units, bounds, and where values come from: variables `EFFICIENTREC_*` over a TOML file over the
defaults below; a secret `X` also from the file that `X_FILE` names. Knows nothing of what the settings do.
`python -m streams.settings` prints the table of the README.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

from efficientrec.errors import SettingInvalid
from efficientrec.interactions import REPEAT_IDS_MAX, RULES, Admission, Rule, WeightPolicy
from streams import secret
from streams.secret import Secret

PREFIX = "EFFICIENTREC_"
CONFIG = PREFIX + "CONFIG"
"""The variable that names the TOML file."""

NO_SECRET = Secret()
MEBIBYTE = 1024 * 1024
DAY = 86_400.0
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"  # what Kafka allows in a topic's name, with room for the rest of the name
_ENCODERS = ("efficientrec", "elfm", "elcrec")
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def _number(default: float, *, least: float, most: float = math.inf) -> Any:
    """A field whose value, of the default's type, lies between two bounds."""
    return field(default=default, metadata={"least": least, "most": most})


def _text(default: str, *, pattern: str, expected: str) -> Any:
    """A field whose whole value matches a pattern, which `expected` puts into words."""
    return field(default=default, metadata={"pattern": pattern, "expected": expected})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings, checked: a value that cannot be served raises SettingInvalid.

    >>> Settings.load({"EFFICIENTREC_LIST_SIZE": "10"}).list_size
    10
    """

    broker: str = _text(
        "kafka://127.0.0.1:9092",
        pattern=r"[^\s,]+(\s*,\s*[^\s,]+)*",
        expected="kafka://host:port, or several with commas",
    )
    """Where Kafka listens: one address or several with commas between them, of which any one that answers is enough."""

    security_protocol: str = _text(
        "PLAINTEXT", pattern="|".join(_PROTOCOLS), expected=f"one of {', '.join(_PROTOCOLS)}"
    )
    """How Kafka is spoken to: SSL encrypts and proves who the broker is, SASL proves with a password who we are; in
    production SASL_SSL, or SSL with a certificate of our own. docs/security.md says which rights each process needs."""

    sasl_mechanism: str = _text("", pattern="|".join(("", *_MECHANISMS)), expected=f"one of {', '.join(_MECHANISMS)}")
    """How the password is proved. PLAIN sends it as it is, so only with SASL_SSL where the network is not yours; SCRAM
    never sends it."""

    sasl_username: str = _text("", pattern=r".*", expected="a name")
    """User at the broker, whom its ACLs name."""

    sasl_password: Secret = NO_SECRET
    """The user's password."""

    ssl_ca_file: Path | None = None
    """PEM file with the certificates of the authorities that may vouch for a broker; without it, the system's."""

    ssl_certificate_file: Path | None = None
    """PEM file with the certificate (and those between it and the authority) by which the broker knows us."""

    ssl_key_file: Path | None = None
    """PEM file with the private key of that certificate."""

    ssl_key_password: Secret = NO_SECRET
    """Password of that private key, if it is encrypted."""

    prefix: str = _text("reco", pattern=_NAME, expected="letters, digits, dots, dashes and underscores")
    """First part of every topic's name, so that several installations can share a cluster."""

    partitions: int = _number(8, least=1, most=10_000)
    """Partitions of the topics that are keyed by user. Fixed for life: a user's state lives where the key's hash
    points. It bounds how many workers can share the work."""

    replication_factor: int = _number(1, least=1, most=32)
    """Copies that Kafka keeps of each topic. One suits a single broker; in production use 3."""

    group: str = _text("efficientrec", pattern=_NAME, expected="letters, digits, dots, dashes and underscores")
    """Consumer group of the workers, and first part of the name of their changelog. A new name starts with empty
    profiles."""

    state_dir: Path = field(default=Path("state"))
    """Folder of the worker's RocksDB. Each worker needs its own; what is lost is rebuilt from the changelog."""

    models_dir: str = _text("models", pattern=r"\S.*", expected="a folder or a URL that fsspec opens")
    """Folder or fsspec URL (such as s3://bucket/models) where the trainer writes artifacts and workers read them."""

    models_signing_key_file: Path | None = None
    """PEM file (PKCS 8) with the ed25519 private key with which the trainer signs its releases."""

    models_trusted_key_file: Path | None = None
    """PEM file with the ed25519 public key of the trainer. With it a worker refuses every release that was not signed
    with the private one."""

    log_dir: Path = field(default=Path("log"))
    """Folder of the trainer's interaction log (Parquet)."""

    list_size: int = _number(20, least=1, most=200)
    """Items in a published list. With ids of 512 letters, 200 items and their reasons take a quarter of the 1 MiB that
    a broker takes."""

    list_format: str = _text("json", pattern="json|msgpack", expected="json or msgpack")
    """How lists are written: as JSON, or as MessagePack with the same fields and numbers, which takes fewer bytes and
    less time. It holds list by list, so a topic may hold both; docs/events.md says how readers tell them apart."""

    cloudevents: str = _text("off", pattern="on|off", expected="on or off")
    """Whether lists bear the headers of a CloudEvent (binary mode), which takes about 300 bytes a list. Of interactions
    they are always read."""

    traces: str = _text("off", pattern="on|off", expected="on or off")
    """Whether a worker makes an OpenTelemetry span for each list whose event came with a `traceparent` header. It needs
    the extra `traces`; OTEL_EXPORTER_OTLP_ENDPOINT says where spans go. The header goes on to the list in any case."""

    run_events_max: int = _number(2000, least=1, most=100_000)
    """Most records of one partition that are handled as one run. More gives throughput, fewer keeps the event loop
    free for heartbeats: the lists of 2,000 users take about a tenth of a second."""

    fetch_wait_seconds: float = _number(0.1, least=0.001, most=10)
    """How long a broker may hold a fetch when there is nothing new. Kafka answers as soon as there is; the embedded
    broker looks only about twice in this time, so there it bounds the latency."""

    future_tolerance_seconds: float = _number(DAY, least=0)
    """How far an event's time may lie ahead of the worker's clock before the event is refused. One day: time zones
    mistaken by a producer pass, seconds mistaken for milliseconds do not."""

    half_life_seconds: float = _number(90 * DAY, least=1)
    """Age at which an interaction counts half in a profile. 90 days: tastes drift over a season."""

    popularity_half_life_seconds: float = _number(7 * DAY, least=1)
    """Age at which an interaction counts half for an item's popularity. A week: what is popular changes faster than
    taste."""

    repeat_ids: int = _number(REPEAT_IDS_MAX, least=0, most=REPEAT_IDS_MAX)
    """How many of a user's newest event ids are remembered: an event that comes again under one of them is a producer's
    retry, and counts once. 0 counts every event."""

    repeat_seconds: float = _number(DAY, least=0)
    """How long an event id is remembered, by the times at which the broker got the events. One day: retries come within
    minutes, a batch that is run again within a day."""

    user_events_per_second: int = _number(0, least=0, most=1_000_000)
    """Most interactions of one user within a second that count; what goes beyond is passed over and counted as limited.
    0 sets no limit."""

    wrong_partition: str = _text("warn", pattern="warn|forward", expected="warn or forward")
    """What to do with interactions that lie on another partition than murmur2 of their key points to: warn, and serve
    their users there; or forward them once to where they belong. Right is `warn` if all producers, of users as well,
    place keys alike, and `forward` if only some differ."""

    fencing: str = _text("on", pattern="on|off", expected="on or off")
    """Whether a worker that has lost a partition is kept from writing to it by the broker, which needs producer ids, as
    Apache Kafka has them. The embedded broker has none: `off` there."""

    block_cache_bytes: int = _number(64 * MEBIBYTE, least=MEBIBYTE)
    """Memory for RocksDB blocks, shared by all partitions of a worker. RocksDB's own default would be 2 GiB for each
    partition."""

    session_timeout_seconds: float = _number(10.0, least=1, most=1800)
    """Silence after which the group takes a worker for dead. Short, because the users of a dead worker wait this
    long."""

    heartbeat_interval_seconds: float = _number(3.0, least=0.1, most=600)
    """Pause between signs of life; at most half of the session timeout, so that one may get lost."""

    commit_interval_seconds: float = _number(1.0, least=0.05, most=600)
    """Pause between commits of the group's offsets. What was not committed is delivered again after a crash, and
    skipped by its offset."""

    request_timeout_seconds: float = _number(30.0, least=1, most=1800)
    """Longest wait for one answer of a broker; must be longer than the session timeout, since joining a group can take
    that long."""

    broker_wait_seconds: float = _number(15.0, least=0, most=3600)
    """How long a start keeps trying to reach the broker before it gives up, since containers start in any order."""

    metrics_host: str = _text("127.0.0.1", pattern=r"\S+", expected="a host name or address")
    """Address on which /metrics, /livez and /readyz are served. Loopback unless opened on purpose; 0.0.0.0 in a
    container."""

    metrics_port: int = _number(9108, least=0, most=65_535)
    """Port of the worker's /metrics, /livez and /readyz; 0 turns it off. With several processes it shows all of
    them."""

    trainer_metrics_port: int = _number(9109, least=0, most=65_535)
    """The same of the trainer; 0 turns it off."""

    metrics_token: Secret = NO_SECRET
    """What whoever asks for /metrics has to bear (`Authorization: Bearer …`); without it anyone may. /livez and /readyz
    need none."""

    stalled_seconds: float = _number(120.0, least=5, most=86_400)
    """How long work may wait and not move, or the event loop stand still, before /livez says that the process should be
    started again; more than the session timeout. A broker that is away does not count."""

    server_host: str = _text("127.0.0.1", pattern=r"\S+", expected="a host name or address")
    """Address on which the server answers. Loopback unless opened on purpose, and then with a token, or behind a proxy
    that asks who comes."""

    server_port: int = _number(8080, least=1, most=65_535)
    """Port on which the server answers."""

    server_metrics_port: int = _number(9110, least=0, most=65_535)
    """Port of the server's /metrics; 0 turns it off."""

    server_token: Secret = NO_SECRET
    """What requests to the server must bring as `Authorization: Bearer`; without it, whoever reaches the port reads all
    lists and sends events."""

    server_state_dir: Path = field(default=Path("server"))
    """Folder in which the server keeps a copy of the lists. Each server needs its own; what is lost is read again."""

    train_every_seconds: float = _number(600.0, least=1)
    """Longest pause between two trainings while new interactions arrive."""

    train_first_events: int = _number(2000, least=1)
    """Interactions in the log before the first training. Fewer say too little about any taste."""

    train_new_events: int = _number(2000, least=1)
    """New interactions in the log that start another training before the pause is over."""

    train_margin: float = _number(0.02, least=0, most=1)
    """How much worse than the serving model, relative to its score on held-out events, a new model may be and still be
    published: scores on few events are noisy, and the newer model knows more items."""

    encoder: str = _text("efficientrec", pattern="|".join(_ENCODERS), expected=f"one of {', '.join(_ENCODERS)}")
    """Which encoder trainings learn. A worker serves whichever the released model has; docs/accuracy.md compares
    them."""

    train_seed: int = _number(0, least=0, most=2**32 - 1)
    """Seed of every random choice in training; it is written into the artifact's manifest."""

    log_level: str = _text("INFO", pattern="|".join(_LEVELS), expected=f"one of {', '.join(_LEVELS)}")
    """Least severity that is logged."""

    log_format: str = _text("text", pattern="text|json", expected="text or json")
    """How lines of the log are written: for people, or as one JSON object each with partition, offset and the like as
    keys of their own."""

    weights: Mapping[str, Rule] = field(default_factory=lambda: RULES)
    """What each event type counts, in [-1, 1]: the table `[weights]` of the file or JSON here, laid over the built-in
    types."""

    def __post_init__(self) -> None:
        for each in fields(self):
            _checked(each, getattr(self, each.name), PREFIX + each.name.upper())
        servers = self.bootstrap_servers
        for server in servers:
            host, _, port = server.rpartition(":")
            if "@" in server:
                raise SettingInvalid(
                    f"{PREFIX}BROKER holds a user or a password; expected kafka://host:port: who we are belongs in "
                    f"{PREFIX}SASL_USERNAME and {PREFIX}SASL_PASSWORD_FILE"
                )
            if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65_536 or "/" in host:
                raise _invalid(PREFIX + "BROKER", self.broker, "kafka://host:port, or several with commas")
        if self.heartbeat_interval_seconds * 2 > self.session_timeout_seconds:
            expected = f"at most half of the session timeout of {self.session_timeout_seconds:g} seconds"
            raise _invalid(PREFIX + "HEARTBEAT_INTERVAL_SECONDS", self.heartbeat_interval_seconds, expected)
        if self.request_timeout_seconds <= self.session_timeout_seconds:
            expected = f"more than the session timeout of {self.session_timeout_seconds:g} seconds"
            raise _invalid(PREFIX + "REQUEST_TIMEOUT_SECONDS", self.request_timeout_seconds, expected)
        self._check_security()
        if self.stalled_seconds <= self.session_timeout_seconds:
            expected = f"more than the session timeout of {self.session_timeout_seconds:g} seconds"
            raise _invalid(PREFIX + "STALLED_SECONDS", self.stalled_seconds, expected)
        WeightPolicy(self.weights)  # refuses a weight that cannot be served

    def _check_security(self) -> None:
        """What belongs together is there, and nothing that would be silently left out."""

        def given(*names: str) -> list[str]:
            return [PREFIX + name.upper() for name in names if getattr(self, name)]

        sasl = ("sasl_mechanism", "sasl_username", "sasl_password")
        tls = ("ssl_ca_file", "ssl_certificate_file", "ssl_key_file", "ssl_key_password")
        protocol = f"{PREFIX}SECURITY_PROTOCOL is {self.security_protocol}"
        if self.security_protocol.startswith("SASL"):
            missing = [PREFIX + name.upper() for name in sasl if not getattr(self, name)]
            if missing:
                raise SettingInvalid(f"{protocol}; expected {' and '.join(missing)} as well")
        elif given(*sasl):
            raise SettingInvalid(f"{given(*sasl)[0]} is set, but {protocol}; expected SASL_SSL, or no SASL settings")
        if not self.security_protocol.endswith("SSL") and given(*tls):
            raise SettingInvalid(
                f"{given(*tls)[0]} is set, but {protocol}; expected SSL or SASL_SSL, or no SSL settings"
            )
        pair = given("ssl_certificate_file", "ssl_key_file")
        if len(pair) == 1 or (given("ssl_key_password") and not pair):
            alone = (pair or given("ssl_key_password"))[0]
            raise SettingInvalid(
                f"{alone} is set alone; expected {PREFIX}SSL_CERTIFICATE_FILE and {PREFIX}SSL_KEY_FILE together"
            )
        if re.search(r"://[^/]*@", self.models_dir):
            raise SettingInvalid(
                f"{PREFIX}MODELS_DIR holds a user or a password; expected a URL without: it stands in every release; "
                "who we are is for the store's own variables or files to say"
            )
        for each in fields(self):
            if each.type == "Path | None" and (path := getattr(self, each.name)) is not None:
                _readable(path, PREFIX + each.name.upper())

    @classmethod
    def load(cls, environ: Mapping[str, str], path: Path | None = None) -> Settings:
        """The settings from variables over the TOML file `path` (else the one that EFFICIENTREC_CONFIG names) over
        defaults.

        What is not one of ours is left alone in `environ`, unless it begins like ours: a misspelt setting that is
        silently ignored is worse than a start that fails.
        """
        known = {each.name: each for each in fields(cls)}
        files = {file: name for name, file in _secret_files().items()}
        named_by: dict[str, str] = {}
        values: dict[str, Any] = {}

        def take(key: str, value: Any, where: str) -> None:
            name = files.get(key, key)
            if known[name].type == "Secret" and (other := named_by.setdefault(name, where)) != where:
                raise SettingInvalid(f"both {other} and {where} are set; expected one of them")
            values[name] = (
                secret.read(_checked_path(value, where), where) if key in files else _checked(known[name], value, where)
            )

        if path is None and environ.get(CONFIG):
            path = Path(environ[CONFIG])
        for key, value in (_read_toml(path) if path is not None else {}).items():
            where = f"{key} in {path}"
            if key not in known and key not in files:
                raise _unknown(where, key, [*known, *files])
            take(key, _rules(value, where) if key == "weights" else value, where)
        for variable, text in sorted(environ.items()):
            if not variable.startswith(PREFIX) or variable == CONFIG:
                continue
            key = variable.removeprefix(PREFIX).lower()
            if (key not in known and key not in files) or variable != variable.upper():
                raise _unknown(variable, variable, variables())
            if key == "weights":
                take(key, _rules(_parsed_json(text, variable), variable, values.get(key, RULES)), variable)
            else:
                take(key, text if key in files else _from_text(known[key], text, variable), variable)
        return cls(**values)

    @property
    def bootstrap_servers(self) -> list[str]:
        """The broker's addresses as clients want them: `host:port` each."""
        servers = []
        for part in self.broker.split(","):
            server = part.strip().removeprefix("kafka://")
            servers.append(server if ":" in server else f"{server}:9092")
        return servers

    @property
    def installation(self) -> str:
        """Whose an artifact is, where several installations share a folder."""
        return f"{self.prefix}/{self.group}"

    @cached_property
    def admission(self) -> Admission:
        """Which of a user's events count."""
        return Admission(self.repeat_ids, self.repeat_seconds, self.user_events_per_second)

    @cached_property
    def policy(self) -> WeightPolicy:
        """The feedback policy that `weights` describes."""
        return WeightPolicy(self.weights)


def variables() -> list[str]:
    """Every variable that `Settings.load` knows."""
    files = _secret_files()
    names = [name for each in fields(Settings) for name in (each.name, files.get(each.name)) if name]
    return [CONFIG, *(PREFIX + name.upper() for name in names)]


def _secret_files() -> dict[str, str]:
    """By a secret's name, the name of the setting that names a file with it."""
    return {each.name: f"{each.name}_file" for each in fields(Settings) if each.type == "Secret"}


def settings_table() -> str:
    """The settings as a Markdown table: variable, default, meaning; each meaning is the text below its field."""
    meanings, files = _meanings(), _secret_files()
    lines = ["| variable | default | meaning |", "| --- | --- | --- |"]
    lines.append(f"| `{CONFIG}` | | TOML file with settings by their names in lower case, without the prefix. |")
    for each in fields(Settings):
        shown = "the table in [docs/events.md](docs/events.md)" if each.name == "weights" else _shown(each.default)
        lines.append(f"| `{PREFIX}{each.name.upper()}` | {shown} | {meanings[each.name]} |")
        if each.name in files:
            meaning = f"File that holds `{PREFIX}{each.name.upper()}`, in place of that variable."
            lines.append(f"| `{PREFIX}{files[each.name].upper()}` | none | {meaning} |")
    return "\n".join(lines) + "\n"


def _meanings() -> dict[str, str]:
    """The text below each field. Python forgets it, its source does not."""
    body = ast.parse(inspect.getsource(Settings)).body[0].body  # type: ignore[attr-defined]  # a class has a body
    meanings = {}
    for statement, following in pairwise(body):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                meanings[name] = " ".join(text.split())
    return meanings


def _shown(value: object) -> str:
    if not value and not isinstance(value, int | float):
        return "none"
    return f"`{int(value) if isinstance(value, float) and value.is_integer() else value}`"


def _checked(each: Field[Any], value: Any, where: str) -> Any:
    """The value with its field's type, if it lies within the field's bounds."""
    bounds = each.metadata
    if each.name == "weights":
        return value
    if each.type == "Secret":
        return value if isinstance(value, Secret) else secret.checked(value, where)
    if each.type == "Path":
        if not isinstance(value, str | Path) or not str(value):
            raise _invalid(where, value, "the path of a folder")
        return Path(value)
    if each.type == "Path | None":
        return None if value is None else _checked_path(value, where)
    if each.type == "str":
        if not isinstance(value, str) or not re.fullmatch(bounds["pattern"], value):
            raise _invalid(where, value, bounds["expected"])
        return value
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if not numeric or (each.type == "int" and value != int(value) if numeric and math.isfinite(value) else True):
        raise _invalid(where, value, _expected_number(each))
    if not bounds["least"] <= value <= bounds["most"]:
        raise _invalid(where, value, _expected_number(each))
    return int(value) if each.type == "int" else float(value)


def _checked_path(value: Any, where: str) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise _invalid(where, value, "the path of a file")
    return Path(value)


def _readable(path: Path, where: str) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise _invalid(where, path, f"a readable file ({error.strerror})") from error


def _expected_number(each: Field[Any]) -> str:
    kind = "a whole number" if each.type == "int" else "a number"
    if math.isinf(each.metadata["most"]):
        return f"{kind}, at least {each.metadata['least']:.10g}"
    return f"{kind} from {each.metadata['least']:.10g} to {each.metadata['most']:.10g}"


def _from_text(each: Field[Any], text: str, where: str) -> Any:
    if each.type not in ("int", "float"):
        return text
    try:
        return int(text) if each.type == "int" else float(text)
    except ValueError as error:
        raise _invalid(where, text, _expected_number(each)) from error


def _rules(table: Any, where: str, base: Mapping[str, Rule] = RULES) -> Mapping[str, Rule]:
    """The rules of `base`, with those of `table` over them: a number is a constant, a table a constant or a line."""
    if not isinstance(table, Mapping):
        raise _invalid(where, table, 'a table from event type to weight, such as {"like": 1.0}')
    rules = dict(base)
    for name, entry in table.items():
        body = dict(entry) if isinstance(entry, Mapping) else {"weight": entry}
        excludes = body.pop("excludes", rules[name].excludes if name in rules else True)
        numeric = all(isinstance(number, int | float) and not isinstance(number, bool) for number in body.values())
        shaped = set(body) in ({"weight"}, {"neutral", "span"}) and body.get("span") != 0
        if not name or not numeric or not shaped or not isinstance(excludes, bool):
            expected = (
                'a weight in [-1, 1], or a table with "weight", or with "neutral" and "span" other than 0, '
                'and if wanted "excludes": true or false'
            )
            raise _invalid(f"{name!r} of {where}", entry, expected)
        rules[name] = Rule(**{key: float(number) for key, number in body.items()}, excludes=excludes)
    return MappingProxyType(rules)


def _parsed_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise _invalid(where, text, f'JSON such as {{"like": 1.0}} ({error})') from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingInvalid(f"{CONFIG} is {str(path)!r}; expected a readable TOML file ({error.strerror})") from error
    except ValueError as error:
        raise SettingInvalid(f"{CONFIG} is {str(path)!r}; expected valid TOML ({error})") from error


def _invalid(where: str, value: object, expected: str) -> SettingInvalid:
    shown = str(value) if isinstance(value, Path) else value
    if isinstance(shown, str):
        shown = re.sub(r"[^\s,'\"][^'\"]*@", "***@", shown)  # who puts a password there puts it before an @
    return SettingInvalid(f"{where} is {shown!r}; expected {expected}")


def _unknown(where: str, name: str, known: Any) -> SettingInvalid:
    nearest = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else "; the README has the table of all settings"
    return SettingInvalid(f"{where} is not a setting{hint}")


if __name__ == "__main__":
    print(settings_table(), end="")
