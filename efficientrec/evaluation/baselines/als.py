"""Implicit ALS (Hu, Koren, Volinsky 2008) by the package `implicit`; asked users are folded in."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficientrec.evaluation.baselines.baseline import Fit, Judge, Parameters, Unfit, matrix, product
from efficientrec.evaluation.questions import Question
from efficientrec.training.data import TrainingData

ITERATIONS = 15


@dataclass(frozen=True, slots=True)
class Factors:
    """Vectors of items, and what makes those of users from what they liked."""

    model: Any
    """implicit.als.AlternatingLeastSquares"""

    @property
    def items(self) -> int:
        return len(self.model.item_factors)

    def scores(self, question: Question) -> NDArray[np.float32]:
        asked = np.arange(len(question))
        with _one_thread():
            users = self.model.recalculate_user(asked, question.history(self.items))
        return np.asarray(users @ self.model.item_factors.T, np.float32)


class ImplicitALS:
    """Factors, and how much a like weighs against everything that was not chosen."""

    def grid(self, data: TrainingData) -> Sequence[Parameters]:
        return product({"factors": (32, 64, 128), "alpha": (2.0, 10.0), "regularization": (10.0, 50.0)})

    def fit(self, data: TrainingData, parameters: Parameters, seed: int, judge: Judge | None) -> Fit:
        try:
            from implicit.cpu.als import AlternatingLeastSquares
        except ImportError as error:
            raise Unfit("the package implicit is missing: pip install 'efficientrec[evaluate]'") from error
        with _one_thread():
            model = AlternatingLeastSquares(
                factors=int(parameters["factors"]),
                alpha=parameters["alpha"],
                regularization=parameters["regularization"],
                iterations=ITERATIONS,
                random_state=seed,
                num_threads=1,
            )
            model.fit(matrix(data), show_progress=False)
        return Fit(Factors(model), parameters)


def _one_thread() -> AbstractContextManager[Any]:
    """Keeps BLAS to one thread: more of them make `implicit` many times slower, and sums depend on their number."""
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[Any] = threadpool_limits(1, "blas")
    return limits
