"""What is shown to who has liked nothing yet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efficientrec.evaluation.questions import Question
from efficientrec.evaluation.ranks import Scorer


@dataclass(frozen=True, slots=True)
class OrPopular:
    """A scorer, and popularity for users without a history of known items that they liked."""

    scorer: Scorer
    count: NDArray[np.float32]
    """(items,) likes."""

    @property
    def items(self) -> int:
        return self.scorer.items

    def scores(self, question: Question) -> NDArray[np.float32]:
        scores = self.scorer.scores(question)
        scores[np.diff(question.history(self.items).indptr) == 0] = self.count
        return scores
