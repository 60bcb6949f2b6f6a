"""The models in service: the released one, and beside it one that is tried on a share of the users.

An experiment is announced on the topic of releases, under a key of its own, and ends with a null there. What cannot be
served leaves everybody with the released model, and says why.
"""

from __future__ import annotations

import logging
from typing import ClassVar

from streams.arms import TREATMENT, Arms
from streams.follower import Record
from streams.metrics import WorkerMetrics
from streams.records import EXPERIMENT_KEY, Experiment, Release, decode_experiment, moment_ms
from streams.signing import Trust
from streams.slot import Loaded, ModelSlot

log = logging.getLogger(__name__)


class TrialSlot(ModelSlot):
    """Holds the model that is tried; None while no experiment runs."""

    key: ClassVar[bytes] = EXPERIMENT_KEY
    arm_name: ClassVar[str] = TREATMENT
    experiment: Experiment | None = None

    async def offer(self, release: Release) -> bool:
        """Begins an experiment, or changes its share; if its model is refused, none goes on."""
        assert isinstance(release, Experiment)
        installed = await super().offer(release)
        if self.current is None or self.current.version != release.version:
            self._ended()
            return False
        self.experiment, self._released_at = release, moment_ms(release.released_at)
        about = {"model_version": release.version}
        log.info("model %s is tried on %.4g%% of the users", release.version, 100 * release.share, extra=about)
        return installed

    def _decoded(self, value: bytes) -> Experiment:
        return decode_experiment(value)

    def _ended(self) -> bool:
        if self.experiment is not None:
            log.info("the experiment with %s has ended", self.experiment.version)
            self._released_at += 1  # the record that began it, sent once more, begins it no more
        self.current, self.trained_up_to, self.experiment = None, {}, None
        self._metrics.serves_no_more(self.arm_name)
        return True

    def _install(self, release: Release, loaded: Loaded) -> None:
        self.current, self.trained_up_to = loaded.model, loaded.trained_up_to

    def _say_installed(self, version: str, previous: str, seconds: float) -> None:
        """It takes nobody's place."""
        about = {"model_version": version, "seconds": round(seconds, 3)}
        log.info("model %s can be tried, after %.2f s", version, seconds, extra=about)

    def _serving(self) -> str:
        return "the released model"


class Models:
    """Both slots, and what they come to."""

    def __init__(
        self,
        models_dir: str,
        list_size: int,
        metrics: WorkerMetrics,
        list_format: str = "json",
        trust: Trust | None = None,
    ) -> None:
        self.released = ModelSlot(models_dir, list_size, metrics, list_format, trust)
        self.tried = TrialSlot(models_dir, list_size, metrics, list_format, trust)
        metrics.experiment_share.set_function(lambda: self.arms.share)

    @property
    def arms(self) -> Arms:
        """As they are now. A model beside itself, or beside none, is no experiment."""
        control, treatment, experiment = self.released.arm, self.tried.arm, self.tried.experiment
        if experiment is None or control.model is None or treatment.model is None:
            return Arms(control)
        if control.model.version == treatment.model.version:
            return Arms(control)
        return Arms(control, treatment, experiment.share, experiment.salt)

    async def handle(self, records: list[Record]) -> None:
        """Takes releases and experiments as they come."""
        await self.released.handle(records)
        await self.tried.handle(records)
