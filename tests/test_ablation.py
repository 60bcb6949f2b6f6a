"""Each part can be left out, and what is left still recommends."""

from dataclasses import replace

import numpy as np
import pytest

from efficientrec.evaluation import histories
from efficientrec.recommend import recommend
from efficientrec.training.ablation import PARTS, without
from efficientrec.training.blending import Voices
from efficientrec.training.train import build
from tests.test_training import QUICK, WORLD

RECIPE = replace(QUICK, steps=20)


@pytest.mark.parametrize("part", PARTS)
def test_without_any_part_a_user_gets_what_he_has_not_met(part: str) -> None:
    model = build(WORLD, without(part, RECIPE), "toy", lambda step, share: None).speaking(Voices())
    rows = histories.all_of(model, WORLD)

    lists = recommend(model, rows, 5)

    model.check()
    assert (lists.items[:, :3] >= 0).all()
    met = set(zip(WORLD.user.tolist(), WORLD.item.tolist(), strict=True))
    assert not met & {(user, item) for user, items in enumerate(lists.items.tolist()) for item in items}


def test_without_dislikes_a_dislike_changes_no_cluster() -> None:
    lasting = replace(RECIPE, half_life_seconds=1e12)
    model = build(WORLD, without("dislikes", lasting), "toy", lambda step, share: None).speaking(Voices())
    kinder = WORLD.chosen(WORLD.weight > 0)

    all_of, liked = (histories.all_of(model, world) for world in (WORLD, kinder))

    np.testing.assert_allclose(model.encoder.vector(all_of), model.encoder.vector(liked), rtol=1e-5, atol=1e-6)
