"""Settings come from variables over a file over defaults, and what cannot be served is refused by name."""

from __future__ import annotations

import pickle
import re
import traceback
from dataclasses import fields
from pathlib import Path

import pytest

from efficientrec.encoders.registry import ENCODERS
from efficientrec.errors import SettingInvalid
from efficientrec.interactions import RULES, Rule
from streams.secret import Secret
from streams.settings import PREFIX, Settings, settings_table, variables

ROOT = Path(__file__).parent.parent


def test_the_readme_has_the_table_of_settings() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    found = re.search(r"<!-- settings -->\n(.*)<!-- /settings -->", readme, re.DOTALL)

    assert found, "README.md needs the markers <!-- settings --> and <!-- /settings -->"
    assert found[1].strip() == settings_table().strip(), "put there what `python -m streams.settings` prints"


def test_every_setting_has_a_sentence() -> None:
    for each in fields(Settings):
        row = next(line for line in settings_table().splitlines() if f"`{PREFIX}{each.name.upper()}`" in line)
        meaning = row.split(" | ", 2)[2].removesuffix(" |")
        assert meaning.endswith("."), each.name


def test_variables_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('list_size = 7\npartitions = 3\nstate_dir = "rows"\ntrain_every_seconds = 60\n')

    settings = Settings.load({"EFFICIENTREC_LIST_SIZE": "9", "EFFICIENTREC_CONFIG": str(file), "HOME": "/"})

    assert settings.list_size == 9
    assert settings.partitions == 3
    assert settings.state_dir == Path("rows")
    assert settings.train_every_seconds == 60.0
    assert settings.group == "efficientrec"


def test_a_file_named_in_the_call_wins_over_the_variable(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("list_size = 7")

    settings = Settings.load({"EFFICIENTREC_CONFIG": "nowhere.toml"}, file)

    assert settings.list_size == 7


def test_weights_are_laid_over_the_built_in_types(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[weights]\nlisten = 0.4\nview = 0.2\nrating = { neutral = 5.5, span = 4.5 }\n")

    settings = Settings.load({"EFFICIENTREC_WEIGHTS": '{"view": {"weight": 0.05, "excludes": true}}'}, file)

    assert settings.weights["listen"] == Rule(0.4)
    assert settings.weights["view"] == Rule(0.05, excludes=True)
    assert settings.weights["rating"] == Rule(neutral=5.5, span=4.5)
    assert settings.weights["like"] == RULES["like"]
    assert settings.policy.rules == settings.weights


def test_a_weight_alone_leaves_open_whether_the_type_excludes() -> None:
    settings = Settings.load({"EFFICIENTREC_WEIGHTS": '{"view": 0.2}'})

    assert settings.weights["view"] == Rule(0.2, excludes=RULES["view"].excludes)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("LIST_SIZE", "many", "a whole number from 1 to 200"),
        ("LIST_SIZE", "0", "a whole number from 1 to 200"),
        ("LIST_SIZE", "2.5", "a whole number"),
        ("HALF_LIFE_SECONDS", "nan", "a number, at least 1"),
        ("HALF_LIFE_SECONDS", "inf", "a number, at least 1"),
        ("HALF_LIFE_SECONDS", "", "a number, at least 1"),
        ("METRICS_PORT", "70000", "a whole number from 0 to 65535"),
        ("BROKER", "http://host:9092", "kafka://host:port"),
        ("BROKER", "kafka://host:port", "kafka://host:port"),
        ("BROKER", "", "kafka://host:port"),
        ("PREFIX", "a b", "letters, digits"),
        ("STATE_DIR", "", "the path of a folder"),
        ("LOG_LEVEL", "loud", "one of DEBUG, INFO"),
        ("HEARTBEAT_INTERVAL_SECONDS", "8", "at most half of the session timeout of 10 seconds"),
        ("REQUEST_TIMEOUT_SECONDS", "5", "more than the session timeout of 10 seconds"),
        ("WEIGHTS", "{", "JSON such as"),
        ("WEIGHTS", "[]", "a table from event type to weight"),
        ("WEIGHTS", '{"like": "much"}', "a weight in [-1, 1]"),
        ("WEIGHTS", '{"like": 2}', "a weight in [-1, 1]"),
        ("WEIGHTS", '{"like": {"neutral": 1, "span": 0}}', "span"),
        ("CONFIG", "nowhere.toml", "a readable TOML file"),
    ],
)
def test_a_bad_value_is_refused_with_what_was_expected(variable: str, value: str, expected: str) -> None:
    with pytest.raises(SettingInvalid) as caught:
        Settings.load({PREFIX + variable: value})

    message = str(caught.value)
    assert expected in message
    assert variable in message.upper()


def test_a_misspelt_setting_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("partition = 3")

    with pytest.raises(
        SettingInvalid, match="EFFICIENTREC_LIST_SIZ is not a setting; did you mean EFFICIENTREC_LIST_SIZE"
    ):
        Settings.load({"EFFICIENTREC_LIST_SIZ": "9"})
    with pytest.raises(SettingInvalid, match=r"partition in .*settings.toml is not a setting; did you mean partitions"):
        Settings.load({}, file)


@pytest.mark.parametrize("line", ['list_size = "9"', "list_size = true", "list_size = 1.5", "list_size = nan", "x = ["])
def test_a_bad_value_in_the_file_names_the_file(tmp_path: Path, line: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(line)

    with pytest.raises(SettingInvalid, match=r"settings\.toml"):
        Settings.load({}, file)


def test_a_value_given_in_code_is_checked_too() -> None:
    with pytest.raises(SettingInvalid, match="EFFICIENTREC_PARTITIONS is 0"):
        Settings(partitions=0)


def test_several_brokers_and_a_missing_port_are_understood() -> None:
    settings = Settings(broker="kafka://a:1, b:2,kafka://c")

    assert settings.bootstrap_servers == ["a:1", "b:2", "c:9092"]


def test_every_encoder_can_be_set_and_no_other() -> None:
    for name in ENCODERS:
        assert Settings.load({"EFFICIENTREC_ENCODER": name}).encoder == name
    with pytest.raises(SettingInvalid, match=r"ENCODER is 'other'.*expected one of efficientrec"):
        Settings.load({"EFFICIENTREC_ENCODER": "other"})


def test_a_secret_comes_from_a_variable_or_from_a_file(tmp_path: Path) -> None:
    file, toml = tmp_path / "password", tmp_path / "settings.toml"
    file.write_bytes(b"swordfish \r\n")
    toml.write_text(f'sasl_password_file = "{file}"\n')
    sasl = {
        "EFFICIENTREC_SECURITY_PROTOCOL": "SASL_SSL",
        "EFFICIENTREC_SASL_MECHANISM": "SCRAM-SHA-512",
        "EFFICIENTREC_SASL_USERNAME": "worker",
    }

    by_value = Settings.load({**sasl, "EFFICIENTREC_SASL_PASSWORD": "swordfish"})
    by_file = Settings.load({**sasl, "EFFICIENTREC_SASL_PASSWORD_FILE": str(file)})

    assert by_value.sasl_password.reveal() == "swordfish"
    assert by_file.sasl_password.reveal() == "swordfish "
    assert Settings.load(sasl, toml).sasl_password == by_file.sasl_password
    with pytest.raises(SettingInvalid, match=r"both sasl_password_file in .* and EFFICIENTREC_SASL_PASSWORD are set"):
        Settings.load({**sasl, "EFFICIENTREC_SASL_PASSWORD": "swordfish"}, toml)
    with pytest.raises(SettingInvalid, match="EFFICIENTREC_SASL_PASSWORD_FIL is not a setting; did you mean"):
        Settings.load({"EFFICIENTREC_SASL_PASSWORD_FIL": str(file)})


def test_a_secret_that_cannot_be_used_is_refused_and_not_shown(tmp_path: Path) -> None:
    cases = {
        "two lines": b"swordfish\nswordfish",
        "not text": b"swordfish\xff",
        "empty": b"\n",
        "too long": b"swordfish" * 2000,
    }
    for name, content in cases.items():
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(SettingInvalid, match=r"EFFICIENTREC_SASL_PASSWORD_FILE.*expected") as caught:
            Settings.load({"EFFICIENTREC_SASL_PASSWORD_FILE": str(file)})
        assert "swordfish" not in "".join(traceback.format_exception(caught.value)), name
    with pytest.raises(SettingInvalid, match=r"nowhere'; expected a readable file \(No such file"):
        Settings.load({"EFFICIENTREC_SASL_PASSWORD_FILE": str(tmp_path / "nowhere")})
    with pytest.raises(SettingInvalid, match="EFFICIENTREC_SASL_PASSWORD cannot be used"):
        Settings.load({"EFFICIENTREC_SASL_PASSWORD": ""})
    toml = tmp_path / "settings.toml"
    toml.write_text("sasl_password = 271828\n")
    with pytest.raises(SettingInvalid, match="sasl_password in") as caught:
        Settings.load({}, toml)
    assert "271828" not in str(caught.value)


def test_a_secret_shows_itself_to_nobody() -> None:
    secret = Secret("swordfish")
    settings = Settings(
        security_protocol="SASL_SSL", sasl_mechanism="PLAIN", sasl_username="worker", sasl_password=secret
    )

    shown = f"{secret} {secret!r} {secret!s} {[secret]} {settings} {vars(settings)} {secret.reveal()!r}"

    assert "swordfish" not in shown
    assert "swordfish" not in settings_table()
    with pytest.raises(TypeError, match="not written anywhere"):
        pickle.dumps(secret)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"SECURITY_PROTOCOL": "TLS"}, "expected one of PLAINTEXT, SSL"),
        ({"SECURITY_PROTOCOL": "SASL_SSL"}, "SASL_MECHANISM and EFFICIENTREC_SASL_USERNAME and EFFICIENTREC_SASL_PASS"),
        ({"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "GSSAPI"}, "expected one of PLAIN, SCRAM-SHA-256"),
        ({"SASL_USERNAME": "worker"}, "SASL_USERNAME is set, but EFFICIENTREC_SECURITY_PROTOCOL is PLAINTEXT"),
        ({"SECURITY_PROTOCOL": "SSL", "SASL_PASSWORD": "x"}, "SASL_PASSWORD is set, but EFFICIENTREC_SECURITY_PROTO"),
        ({"SSL_CA_FILE": "README.md"}, "SSL_CA_FILE is set, but EFFICIENTREC_SECURITY_PROTOCOL is PLAINTEXT"),
        (
            {"SECURITY_PROTOCOL": "SSL", "SSL_CA_FILE": "nowhere.pem"},
            "SSL_CA_FILE is 'nowhere.pem'; expected a readable",
        ),
        ({"SECURITY_PROTOCOL": "SSL", "SSL_CA_FILE": ""}, "the path of a file"),
        ({"SECURITY_PROTOCOL": "SSL", "SSL_CERTIFICATE_FILE": "README.md"}, "SSL_CERTIFICATE_FILE is set alone"),
        ({"SECURITY_PROTOCOL": "SSL", "SSL_KEY_FILE": "README.md"}, "SSL_KEY_FILE is set alone"),
        ({"SECURITY_PROTOCOL": "SSL", "SSL_KEY_PASSWORD": "x"}, "SSL_KEY_PASSWORD is set alone"),
        ({"MODELS_TRUSTED_KEY_FILE": "nowhere.pem"}, "MODELS_TRUSTED_KEY_FILE is 'nowhere.pem'; expected a readable"),
    ],
)
def test_security_settings_that_do_not_fit_together_are_refused(given: dict[str, str], expected: str) -> None:
    with pytest.raises(SettingInvalid) as caught:
        Settings.load({PREFIX + name: value for name, value in given.items()})

    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "address"),
    [("BROKER", "kafka://worker:swordfish@broker:9092"), ("MODELS_DIR", "ftp://worker:swordfish@store/models")],
)
def test_a_password_in_an_address_is_refused_and_not_shown(variable: str, address: str) -> None:
    with pytest.raises(SettingInvalid, match=f"EFFICIENTREC_{variable} holds a user or a password") as caught:
        Settings.load({PREFIX + variable: address})

    assert "swordfish" not in str(caught.value)


def test_every_variable_is_in_the_table() -> None:
    assert re.findall(r"^\| `(\w+)` \|", settings_table(), re.MULTILINE) == variables()


@pytest.mark.parametrize("broker", ["kafka://u:hunter2@h:9092,", "kafka://u:hunt er2@h:9092"])
def test_what_is_wrong_with_an_address_is_said_without_its_password(broker: str) -> None:
    with pytest.raises(SettingInvalid, match="EFFICIENTREC_BROKER is") as caught:
        Settings(broker=broker)

    assert "hunt" not in str(caught.value)
