"""Does the simulation see it when the code is wrong? `python -m tests.simulation.mutations`.

Each mutation takes away one thing that the promises rest on, by changing a passage of a module's text before it is
imported. In a fresh process the simulation in memory then plays seeds until one fails. A mutation under which all of
them pass has survived: either the simulation is blind there, or the code did not need the passage.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.simulation.patched import Patch, install

SEEDS = 2_000


@dataclass(frozen=True)
class Mutation:
    """What is taken away, and how."""

    name: str
    patches: tuple[Patch, ...]


MUTATIONS = (
    Mutation(
        "events below a row's offset are folded again",
        (
            Patch(
                "efficientrec.profile",
                "    outcome = np.empty(len(run), np.uint8)\n",
                '    outcome = np.empty(len(run), np.uint8)\n    kept["offset"] = -1\n',
            ),
            Patch(
                "efficientrec.profile",
                "    counted = outcome == 0\n",
                '    counted = outcome == 0\n    np.maximum(rows.offset, kept["offset"], out=kept["offset"])\n',
            ),
        ),
    ),
    Mutation(
        "the next run passes one that was left undone",
        (
            Patch(
                "streams.worker",
                "            writer.give_up()\n            self._leave(run, lost)\n",
                "            self._leave(run, lost)\n",
            ),
            Patch(
                "streams.worker",
                "        except Exception:\n            writer.give_up()\n            raise\n",
                "        except Exception:\n            raise\n",
            ),
        ),
    ),
    Mutation(
        "a run passes one that was lost on its way",
        (Patch("streams.worker", "if not run.is_next():", "if False:"),),
    ),
    Mutation(
        "lists go out before rows",
        (
            Patch(
                "streams.worker",
                "            offset = await writer.append(self._topics.changelog, changelog, now)\n",
                "            await writer.append(self._topics.lists, lists, now)\n"
                "            offset = await writer.append(self._topics.changelog, changelog, now)\n",
            ),
            Patch(
                "streams.worker",
                "            # 4.\n            await writer.append(self._topics.lists, lists, now)\n",
                "",
            ),
        ),
    ),
    Mutation(
        "rows are on disk before the broker has them",
        (
            Patch(
                "streams.worker",
                "            offset = await writer.append(self._topics.changelog, changelog, now)\n",
                "            known = self._store._disks[writer.partition].offset\n"
                "            self._store.write(writer.partition, changelog, -1 if known is None else known)\n"
                "            offset = await writer.append(self._topics.changelog, changelog, now)\n",
            ),
        ),
    ),
    Mutation(
        "a batch counts as appended though the broker did not say so",
        (
            Patch(
                "streams.writer",
                "        first = await self._writers.wire.append("
                "topic, self.partition, producer, sequence, batch, timestamp_ms)\n",
                "        try:\n"
                "            first = await self._writers.wire.append("
                "topic, self.partition, producer, sequence, batch, timestamp_ms)\n"
                "        except KafkaError as error:\n"
                "            if not error.retriable:\n"
                "                raise\n"
                "            return 0\n",
            ),
        ),
    ),
    Mutation(
        "the disk does not know up to where it is a copy",
        (
            Patch(
                "streams.worker",
                "self._store.write(writer.partition, changelog, offset)",
                "self._store.write(writer.partition, changelog, -1)",
            ),
        ),
    ),
    Mutation(
        "the disk has its changelog offset before its rows",
        (
            Patch(
                "streams.worker",
                "self._store.write(writer.partition, changelog, offset)",
                "[self._store.write(writer.partition, rows, offset) for rows in ([], changelog)]",
            ),
        ),
    ),
    Mutation("nobody is fenced off", (Patch("streams.writer", "        if writers.fences:\n", "        if False:\n"),)),
    Mutation(
        "without fencing, the lease is not looked at",
        (Patch("streams.writer", "            if writers.alive():\n", "            if True:\n"),),
    ),
    Mutation(
        "runs of an earlier generation are handled",
        (
            Patch(
                "streams.writer",
                "        if writer is None or writer.generation != generation:\n",
                "        if writer is None:\n",
            ),
        ),
    ),
    Mutation(
        "an abandoned run counts as handled",
        (
            Patch(
                "streams.worker",
                "        self._metrics.abandoned.inc()\n",
                "        self._metrics.abandoned.inc()\n        run.handled = True\n",
            ),
        ),
    ),
    Mutation(
        "repeated event ids count",
        (Patch("efficientrec.profile", "        admission.repeat_ids,\n", "        0,\n"),),
    ),
    Mutation(
        "erased users come back with a run that is delivered again",
        (Patch("streams.refresh", "] = taken_in[unknown] - 1\n", "] = -1\n"),),
    ),
    Mutation(
        "an erasure that is delivered again erases what came since",
        (
            Patch(
                "streams.worker",
                "user_changes([each for each in run.records if each.offset >= progress.users])",
                "user_changes(run.records)",
            ),
        ),
    ),
    Mutation(
        "nulls are not sent again",
        (Patch("streams.worker", "strict=True) if not count]\n", "strict=True) if False]\n"),),
    ),
    Mutation(
        "lists of a run that is delivered again are left out",
        (
            Patch(
                "streams.refresh",
                "        due, causes = self._due(records, decoded, folded.rows)\n",
                "        due, causes = self._due(records, decoded, folded.rows)\n"
                "        causes = [cause for user, cause in zip(due, causes) if folded.changed[user]]\n"
                "        due = due[folded.changed[due]]\n",
            ),
        ),
    ),
    Mutation(
        "a batch that is tried again has a new number",
        (
            Patch(
                "streams.writer",
                "        producer: ProducerId = self._producer\n",
                "        producer: ProducerId = self._producer\n"
                "        self._sequence[topic] = (sequence + len(batch)) % SEQUENCES\n",
            ),
        ),
    ),
)


def first_failure(mutation: Mutation | None, seeds: range) -> dict[str, object] | None:
    """The first seed that fails under this mutation and why, found in a process of its own; None if all pass."""
    name = "" if mutation is None else mutation.name
    command = [sys.executable, "-m", __spec__.name, "--play", name, str(seeds.start), str(seeds.stop)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        raise RuntimeError(f"{name}: the process failed\n{child.stderr}")
    found: dict[str, object] | None = json.loads(child.stdout.splitlines()[-1])
    return found


def _play(name: str, start: str, stop: str) -> None:
    """In the process of a mutation."""
    install([patch for mutation in MUTATIONS if mutation.name == name for patch in mutation.patches])
    from tests.simulation.memory import play

    for seed in range(int(start), int(stop)):
        try:
            outcome = play(seed)
        except Exception as error:  # what a mutation breaks may be anything
            print(json.dumps({"seed": seed, "problem": repr(error)}))
            return
        if outcome.problems:
            print(json.dumps({"seed": seed, "problem": outcome.problems[0]}))
            return
    print("null")


def main(
    seeds: Annotated[int, typer.Option(help="How many each mutation may survive.")] = SEEDS,
    lanes: Annotated[int, typer.Option(help="Mutations that are tried at a time.")] = 2,
) -> None:
    """Take away one thing after the other, and expect the simulation in memory to fail; exit status 1 if it does not.

    First nothing is taken away: then no seed may fail."""
    table = Table("what is wrong", "first failing seed", "what the simulation says")
    survived = []
    with ThreadPoolExecutor(lanes) as pool:
        tried: Iterator[dict[str, object] | None] = pool.map(
            lambda mutation: first_failure(mutation, range(seeds if mutation else min(seeds, 300))), (None, *MUTATIONS)
        )
        for mutation, found in zip((None, *MUTATIONS), tried, strict=True):
            if (found is None) != (mutation is None):
                survived.append(mutation)
            seed, problem = ("none", "") if found is None else (str(found["seed"]), str(found["problem"]))
            table.add_row("nothing" if mutation is None else mutation.name, seed, problem[:100])
    Console().print(table)
    sys.exit(bool(survived))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--play"]:
        _play(*sys.argv[2:])
    else:
        app = typer.Typer(pretty_exceptions_enable=False)
        app.command()(main)
        app()
