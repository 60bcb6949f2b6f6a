"""SASRec (arXiv 1808.09781) as a baseline: the transformer of sequence.py without intents, votes or shortlists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from efficientrec.evaluation.baselines.baseline import Fit, Judge, Parameters
from efficientrec.evaluation.questions import Question
from efficientrec.training.data import TrainingData
from efficientrec.training.sequence import SequenceNet, Sequences, fit_sequence
from efficientrec.training.sequence_recipe import SequenceRecipe


@dataclass(frozen=True, slots=True)
class NextItem:
    """Scores for what comes after the last items of each asked user."""

    net: SequenceNet
    items: int

    @torch.no_grad()
    def scores(self, question: Question) -> NDArray[np.float32]:
        item = question.given.item[question.event]
        kept = (question.given.weight[question.event] >= 0) & (item < self.items)
        before = np.concatenate(([0], np.cumsum(kept)))[question.start]
        states = self.net.last_states(Sequences(item[kept].astype(np.int64), before.astype(np.int64)))
        return np.asarray(self.net.scores(states, self.net.ranking_vectors()).numpy(), np.float32)


class SASRec:
    """Ends by users that it holds out from what it learns from; its other numbers are sequence_recipe.py's."""

    def grid(self, data: TrainingData) -> Sequence[Parameters]:
        return [{"layers": 1}]

    def fit(self, data: TrainingData, parameters: Parameters, seed: int, judge: Judge | None) -> Fit:
        fitted = fit_sequence(data, SequenceRecipe(layers=int(parameters["layers"])), seed)
        fitted.net.eval()
        return Fit(NextItem(fitted.net, len(data.items)), parameters)
