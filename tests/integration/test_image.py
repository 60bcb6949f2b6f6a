"""The worker's image, built and started as deploy/Dockerfile says, without Docker (tests/image.py)."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from streams.settings import Settings
from tests.image import Image, built
from tests.integration.harness import WAIT_SECONDS

pytestmark = pytest.mark.full

HERE = Path(__file__).parent.parent.parent
BROKER_PORT = 9092
ENVIRON = {"EFFICIENTREC_BROKER": f"kafka://127.0.0.1:{BROKER_PORT}", "EFFICIENTREC_FENCING": "off"}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    with built("worker", tmp_path_factory.mktemp("image") / "worker") as image:
        yield image


def ended(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=WAIT_SECONDS)


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command, until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=HERE)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


def wait_until_it_ends_well(command: Sequence[str], process: subprocess.Popen[bytes], log: Path) -> None:
    """Tries the command until its status is 0."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (done := ended(command)).returncode != 0:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, done.stderr + log.read_text()
        time.sleep(0.2)


def test_a_container_is_a_user_without_rights_on_files_that_cannot_be_written(image: Image) -> None:
    assert ended(image.command_line(["id", "-u"])).stdout == "10001\n"
    assert "CapBnd:\t0000000000000000" in ended(image.command_line(["cat", "/proc/self/status"])).stdout
    assert "Read-only file system" in ended(image.command_line(["touch", "/opt/efficientrec/x"])).stderr
    for folder in ("/tmp", *(value for key, value in image.environment.items() if key.endswith("_DIR"))):
        assert ended(image.command_line(["mkdir", "-p", f"{folder}/x"])).returncode == 0, folder


def test_the_image_of_the_worker_has_no_torch(image: Image) -> None:
    done = ended(image.command_line(["/opt/efficientrec/bin/python", "-c", "import torch"]))

    assert "No module named 'torch'" in done.stderr


def test_a_worker_starts_with_the_kernels_of_the_image_and_its_health_check_passes(
    image: Image, tmp_path: Path
) -> None:
    log, told = tmp_path / "worker.log", {**ENVIRON, "NUMBA_DEBUG_CACHE": "1"}
    broker = image.beside(sys.executable, "-m", "streams", "broker", "--port", str(BROKER_PORT))
    with running(broker, tmp_path / "broker.log") as process:
        create = image.container("topics", "create", environ=ENVIRON)
        wait_until_it_ends_well(create, process, tmp_path / "broker.log")
        with running(image.container(environ=told), log) as worker:
            wait_until_it_ends_well(image.command_line(image.health), worker, log)
            wait_until_it_ends_well(["grep", f"serving {Settings().partitions} of", str(log)], worker, log)
        assert worker.returncode == 0, log.read_text()

    output = log.read_text()
    assert len(re.findall(r"^\[cache\] data loaded from '/tmp/numba/", output, re.MULTILINE)) > 10
    assert "data saved" not in output, "a kernel was compiled in the container"


def test_the_kernels_of_every_encoder_are_in_the_image(image: Image) -> None:
    told = {"NUMBA_DEBUG_CACHE": "1", "NUMBA_CACHE_DIR": "/tmp/every"}
    assert ended(image.command_line(["cp", "-R", "/opt/efficientrec/kernels", "/tmp/every"])).returncode == 0

    done = ended(image.command_line(["/opt/efficientrec/bin/python", "-m", "efficientrec.warm"], environ=told))

    assert done.returncode == 0, done.stderr
    assert "elfm_kernel" in done.stdout
    assert "sequence_kernel" in done.stdout
    assert "data saved" not in done.stdout
