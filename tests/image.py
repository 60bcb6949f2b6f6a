"""The steps of deploy/Dockerfile without Docker: a layer over this machine for each stage, and a container without a
daemon. This machine stands for the base image, so it needs Python 3.11; and root, for layers are overlay mounts.

    with built("worker", folder) as image:
        subprocess.run(image.container("topics", "create"))

Mounts and network are those of namespaces that one process holds: when it ends, they are gone. The network has loopback
and nothing else; `beside` runs a program of this machine in it.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
VOLUMES = ("state", "server", "models", "log")
PYTHON = Path(sys.base_prefix)


class ImageFailed(Exception):
    """A step ended otherwise than it must."""


@dataclass(frozen=True)
class Step:
    """One instruction of a stage."""

    word: str
    text: str


@dataclass
class Stage:
    """What is between two lines that begin with FROM."""

    name: str
    parent: str
    steps: list[Step] = field(default_factory=list)


def stages(dockerfile: str) -> dict[str, Stage]:
    """Name → stage, of a Dockerfile whose stages all have names."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    found: dict[str, Stage] = {}
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        word, _, text = line.strip().partition(" ")
        if word == "FROM":
            parent, _, name = text.partition(" AS ")
            found[name] = stage = Stage(name, parent)
        elif word and found:
            stage.steps.append(Step(word, text.strip()))
    return found


def sent(dockerignore: str, source: str) -> bool:
    """Whether what lies there gets past .dockerignore: the last line that fits decides."""
    out = False
    parts = [source, *map(str, Path(source).parents)]
    for line in (line.strip() for line in dockerignore.splitlines()):
        pattern = line.removeprefix("!").removeprefix("**/")
        if pattern and not line.startswith("#") and any(fnmatch.fnmatch(part, pattern) for part in parts):
            out = not line.startswith("!")
    return not out


class Image:
    """A built stage: a root of files, with what the Dockerfile says of how to run it."""

    def __init__(self, holder: int, layers: Path, made: set[str]) -> None:
        """made: stages whose files lie there already."""
        self._holder = holder
        self._layers = layers
        self._made = made
        self.environment: dict[str, str] = {}
        self.user = "0:0"
        self.folder = "/"
        self.entrypoint: list[str] = []
        self.command: list[str] = []
        self.health: list[str] = []
        self._arguments: dict[str, str] = {}

    @property
    def root(self) -> Path:
        return self._layers / "root"

    def build(self, name: str, found: Mapping[str, Stage]) -> None:
        """All steps of the stage, those of the stages that it stands on first."""
        stage = found[name]
        if stage.parent in found:
            self.build(stage.parent, found)
        for step in stage.steps:
            if name not in self._made or step.word not in ("RUN", "COPY"):
                self._take(step, found)
        self._made.add(name)

    def _take(self, step: Step, found: Mapping[str, Stage]) -> None:
        match step.word:
            case "ENV" | "ARG":
                for part in shlex.split(step.text):
                    key, _, value = part.partition("=")
                    (self.environment if step.word == "ENV" else self._arguments)[key] = value
            case "WORKDIR":
                self.folder = step.text
                self._outside(["mkdir", "-p", str(self._inside_path(step.text))])
            case "RUN":
                command = re.sub(r"^--mount=\S+\s+", "", step.text)
                line = self.command_line(["sh", "-c", command], environ=self._arguments)
                _done(line[:1] + line[2:])  # not in the network of the container: pip needs this machine's
            case "COPY":
                self._copy(step.text, found)
            case "USER":
                self.user = step.text
            case "ENTRYPOINT":
                self.entrypoint = json.loads(step.text)
            case "CMD":
                self.command = json.loads(step.text)
            case "HEALTHCHECK":
                self.health = json.loads(step.text.partition("CMD ")[2])
            case "EXPOSE":
                pass
            case _:
                raise ImageFailed(f"{step.word} is not known here")

    def _copy(self, text: str, found: Mapping[str, Stage]) -> None:
        *sources, target = text.split()
        if sources[0].startswith("--from="):
            # One root for all stages: what the other stage has made lies there already, at the same path.
            other = Image(self._holder, self._layers, self._made)
            other.build(sources[0].removeprefix("--from="), found)
            assert sources[1:] == [target], f"{text!r} moves files from stage to stage"
            return
        ignored = (ROOT / ".dockerignore").read_text()
        for source in sources:
            assert sent(ignored, source), f"{source} is in .dockerignore"
            place = self._inside_path(target)
            into = place / Path(source).name if target.endswith("/") else place
            self._outside(["mkdir", "-p", str(into.parent)])
            self._outside(["cp", "-rT", str(ROOT / source), str(into)])
            self._outside(["find", str(into), "-name", "__pycache__", "-prune", "-exec", "rm", "-r", "{}", "+"])

    def _inside_path(self, target: str) -> Path:
        absolute = target if target.startswith("/") else f"{self.folder}/{target}"
        return self.root / absolute.lstrip("/")

    def _outside(self, command: Sequence[str]) -> None:
        """On this machine, where the mounts can be seen."""
        _done(["nsenter", f"--mount=/proc/{self._holder}/ns/mnt", *command])

    def command_line(self, command: Sequence[str], environ: Mapping[str, str] | None = None) -> list[str]:
        """What runs the command in the image as its user, with nothing of this process's environment."""
        uid, gid = self.user.split(":")
        path = f"{PYTHON}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        variables = {"PATH": path, "HOME": "/root" if uid == "0" else "/", **self.environment, **(environ or {})}
        return [
            *("nsenter", f"--net=/proc/{self._holder}/ns/net", f"--mount=/proc/{self._holder}/ns/mnt"),
            *("chroot", str(self.root)),
            *("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs"),
            *(("--bounding-set=-all", "--inh-caps=-all") if uid != "0" else ()),
            *("env", "-i", f"--chdir={self.folder}", *(f"{key}={value}" for key, value in variables.items())),
            *command,
        ]

    def container(self, *arguments: str, environ: Mapping[str, str] | None = None) -> list[str]:
        """The command line of a container with these arguments, or with those of the Dockerfile."""
        return self.command_line([*self.entrypoint, *(arguments or self.command)], environ)

    def beside(self, *command: str) -> list[str]:
        """The command line of a program of this machine that can be reached from the container."""
        return ["nsenter", f"--net=/proc/{self._holder}/ns/net", *command]

    def seal(self) -> None:
        """From now on the root is read-only; /tmp and the volumes are empty and can be written, the latter by the
        image's user."""
        uid, gid = self.user.split(":")
        self._outside(["mount", "-o", "remount,ro", str(self.root)])
        self._outside(["mount", "-t", "tmpfs", "-o", "mode=1777,noexec,nosuid,nodev", "tmp", str(self.root / "tmp")])
        for name in VOLUMES:
            target = str(self.root / "var/lib/efficientrec" / name)
            self._outside(["mount", "-t", "tmpfs", "-o", f"uid={uid},gid={gid},mode=0755", name, target])


@contextmanager
def built(target: str, folder: Path) -> Iterator[Image]:
    """The image of a stage, sealed."""
    if os.geteuid() != 0:
        raise ImageFailed("layers are overlay mounts, which only root can make")
    folder.mkdir(parents=True, exist_ok=True)
    holder = subprocess.Popen(
        [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--net",
            "--propagation",
            "private",
            "sleep",
            "infinity",
        ]
    )
    try:
        _wait_until_apart(holder)
        image = Image(holder.pid, folder, set())
        lower, upper, work, root = (folder / name for name in ("layer", "layer/upper", "layer/work", "root"))
        root.mkdir()
        lower.mkdir()
        _done(image.beside("ip", "link", "set", "lo", "up"))
        image._outside(["mount", "-t", "tmpfs", "layer", str(lower)])
        image._outside(["mkdir", str(upper), str(work)])
        image._outside(
            ["mount", "-t", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", "image", str(root)]
        )
        image._outside(["mount", "-t", "proc", "proc", str(root / "proc")])
        image._outside(["mount", "--bind", "/dev", str(root / "dev")])
        # What a base image does not have, and this machine may: a Python that only root can reach.
        for parent in reversed(PYTHON.parents):
            image._outside(["chmod", "o+x", str(root / str(parent).lstrip("/"))])
        image._outside(["sh", "-c", f"rm -rf {root}/opt/efficientrec {root}/build {root}/var/lib/efficientrec"])
        image.build(target, stages(DOCKERFILE.read_text()))
        image.seal()
        yield image
    finally:
        holder.kill()
        holder.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_apart(holder: subprocess.Popen[bytes]) -> None:
    """Until the process has left this one's mount namespace, which it does before it becomes `sleep`."""
    while Path(f"/proc/{holder.pid}/comm").read_text().strip() != "sleep":
        if holder.poll() is not None:
            raise ImageFailed(f"unshare ended with {holder.returncode}")


def _done(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ImageFailed(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done
