"""Prometheus for tests: the real program with our rules made faster, and what it says.

Debian's package has it (.ci/packages installs it). Where it is promised, its absence is a failure.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from streams.broker import free_port
from streams.children import start_child, stop_child

RULES = Path(__file__).parent.parent / "deploy/prometheus"
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
DURATION = re.compile(r"(\[|offset )(\d+)([smhd])\b")
LIMIT = re.compile(r"(_seconds(?:\{[^}]*\})?\)* [<>]=? )([\d.]+)")
START_SECONDS = 30.0
FORECAST = re.compile(r"(predict_linear\([^()]*, )(\d+)\)")


class PrometheusMissing(Exception):
    """Where Prometheus is promised, its absence is a failure and not a reason to skip."""


def program(name: str) -> str:
    """The path of prometheus or promtool."""
    found = shutil.which(name)
    if found is None:
        raise PrometheusMissing(f"{name} is not installed; .ci/packages installs Debian's package prometheus")
    return found


def hastened(rules: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """The same rules for a world that runs `factor` times as fast: windows, offsets, `for`, forecasts, and limits of
    what is measured in seconds are divided by it. Names and all other numbers stay."""
    faster = copy.deepcopy(dict(rules))
    for group in faster["groups"]:
        for rule in group["rules"]:
            expression = DURATION.sub(lambda found: found[1] + _divided(found[2], found[3], factor), rule["expr"])
            expression = LIMIT.sub(lambda found: f"{found[1]}{float(found[2]) / factor:g}", expression)
            rule["expr"] = FORECAST.sub(lambda found: f"{found[1]}{float(found[2]) / factor:g})", expression)
            if "for" in rule:
                rule["for"] = _divided(rule["for"][:-1], rule["for"][-1], factor)
    return faster


def _divided(amount: str, unit: str, factor: float) -> str:
    return f"{float(amount) * UNITS[unit] / factor * 1000:.0f}ms"


class Alert(NamedTuple):
    """One alert of one series."""

    name: str
    labels: frozenset[tuple[str, str]]

    def __str__(self) -> str:
        return f"{self.name}{dict(sorted(self.labels))}"


class Prometheus:
    """The real program, with our rules, `factor` times as fast, and what it was seen to warn of."""

    def __init__(self, folder: Path, targets: Mapping[str, Iterable[str]], factor: float) -> None:
        """targets: job → addresses."""
        self.port = free_port()
        self.log = folder / "prometheus.log"
        self.fired: dict[Alert, list[float]] = {}
        """Alert → each time (monotonic) at which it was found firing after it had not been."""
        self._firing: set[Alert] = set()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._over = threading.Event()
        self._watching = threading.Thread(target=self._watch, name="alerts")
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("rules.yml", "alerts.yml"):
            rules = yaml.safe_load((RULES / name).read_text())
            (folder / name).write_text(yaml.safe_dump(hastened(rules, factor)))
        config = yaml.safe_load((RULES / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config["scrape_configs"] = [
            {"job_name": job["job_name"], "static_configs": [{"targets": list(targets.get(job["job_name"], ()))}]}
            for job in config["scrape_configs"]
        ]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def __enter__(self) -> Prometheus:
        self._process = start_child(
            [
                program("prometheus"),
                f"--config.file={self._folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            log=self.log,
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._watching.is_alive():
            self._watching.join()
        if self._process is not None:
            stop_child(self._process)

    def vector(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Labels → value, now."""
        found = self._asked("query", query=expression)["result"]
        return {tuple(sorted(each["metric"].items())): float(each["value"][1]) for each in found}

    def number(self, expression: str) -> float:
        """The only value; not a number where there is none."""
        (found,) = self.vector(expression).values() or (float("nan"),)
        return found

    def lines(self, expression: str, start: float, end: float, step: float) -> dict[str, list[tuple[float, float]]]:
        """Series → (time, value) of each step, between two times of day."""
        found = self._asked("query_range", query=expression, start=start, end=end, step=step)["result"]
        return {
            json.dumps(each["metric"], sort_keys=True): [(float(at), float(value)) for at, value in each["values"]]
            for each in found
        }

    def firing(self) -> set[Alert]:
        """What it warns of now."""
        return {
            Alert(alert["labels"]["alertname"], frozenset(alert["labels"].items()))
            for alert in self._asked("alerts")["alerts"]
            if alert["state"] == "firing"
        }

    def evaluated(self) -> float:
        """Time of day since which every group of rules has been evaluated."""
        groups = self._asked("rules")["groups"]
        return min(datetime.fromisoformat(group["lastEvaluation"]).timestamp() for group in groups)

    def since(self, moment: float) -> dict[Alert, float]:
        """What began to fire after this moment (monotonic), and how many seconds after it."""
        began = {alert: [at for at in times if at > moment] for alert, times in list(self.fired.items())}
        return {alert: min(times) - moment for alert, times in began.items() if times}

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            now, firing = time.monotonic(), self.firing()
            for alert in firing - self._firing:
                self.fired.setdefault(alert, []).append(now)
            self._firing = firing

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def _asked(self, what: str, **words: object) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}?{urllib.parse.urlencode(words)}"
        with urllib.request.urlopen(url, timeout=30) as reply:
            return json.load(reply)["data"]
