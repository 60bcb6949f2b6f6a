"""How loud each voice speaks: found through the code that serves, in units that any encoder shares."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from efficientrec.model import Blend, Model
from efficientrec.recommend import recommend
from efficientrec.shortlists import Shortlists
from efficientrec.training import blending, trials
from efficientrec.training.blending import Unvoiced, Voices
from efficientrec.training.recipe import Recipe
from efficientrec.training.trials import Gains, Judged, Jury
from tests.toy import like, rows_after, toy_model

MODEL = Unvoiced(toy_model(), np.linspace(1, 0, 16), unit=0.5)


def jury(judged: Judged) -> Jury:
    return Jury(users=judged, newcomers=judged)


def test_weights_are_in_units_of_what_tells_items_apart() -> None:
    voices = Voices(cluster_weight=2.0, anchor_weight=4.0, neighbour_weight=6.0, popularity=8.0)

    model = MODEL.speaking(voices)

    assert (model.blend.cluster_weight, model.blend.anchor_weight, model.blend.neighbour_weight) == (1.0, 2.0, 3.0)
    assert model.blend.popularity * model.item_bias[0] == 4.0
    model.check()


def test_where_votes_alone_rank_they_have_weights_of_their_own() -> None:
    model = MODEL.speaking(Voices(anchor_weight=0.0, anchors=1, alone=Voices(anchor_weight=100.0, anchors=1)))
    rows = rows_after(model, like("ann", "b7"))  # b8 follows, which no cluster has

    beside, alone = (recommend(model, rows, 16, exact=exact) for exact in (True, False))

    assert alone.items[0, 0] == model.items.ids.index("b8")
    assert beside.items[0, 0] != model.items.ids.index("b8")


def test_shortlists_are_brought_to_one_level_and_keep_their_order() -> None:
    lists = Shortlists(np.array([[1, 0], [0, -1]], np.int32), np.array([[6.0, 3.0], [2.0, 0.0]], np.float32))

    level = blending.leveled(lists)

    assert level.scores.tolist() == [[1.5, 0.75], [0.5, 0.0]]


def test_the_voices_that_do_best_are_found_and_noise_changes_nothing() -> None:
    start = Voices()

    def judged(model: object) -> Gains:
        blend = model.blend  # type: ignore[attr-defined]  # any model will do
        best = blend.anchor_weight == 4.0 * MODEL.unit and blend.anchors > 0
        return Gains(np.full(4, 1.0 if best else 0.5), np.ones(4, np.int32))

    chosen = blending.choose(MODEL, jury([judged]), Recipe())

    assert chosen.anchor_weight == 4.0
    assert replace(chosen, anchor_weight=start.anchor_weight, neighbours=start.neighbours, alone=None) == start


def test_a_voice_that_adds_nothing_is_silenced() -> None:
    chosen = blending.choose(MODEL, jury([lambda model: Gains(np.full(4, 0.5), np.ones(4, np.int32))]), Recipe())

    assert (chosen.neighbours, chosen.anchors) == (0, 0)
    MODEL.speaking(chosen).check()


@pytest.mark.parametrize(("lucky", "anchor_weight"), [(1, Voices().anchor_weight), (40, 4.0)])
def test_what_helps_one_user_of_many_may_be_luck(lucky: int, anchor_weight: float) -> None:
    def judged(model: object) -> Gains:
        each = np.full(100, 0.5)
        change = float(model.blend.anchor_weight == 4.0 * MODEL.unit)  # type: ignore[attr-defined]
        each[:lucky] += 0.5 * change
        each[-1] -= 0.4 * change
        return Gains(each, np.ones(100, np.int32))

    assert blending.choose(MODEL, jury([judged]), Recipe()).anchor_weight == anchor_weight


def test_what_is_plainly_worse_is_not_asked_everything() -> None:
    """Of two parts the second is put to what may be best only."""
    asked: list[list[Blend]] = [[], []]

    def part(number: int) -> Callable[[Model], Gains]:
        def judged(model: Model) -> Gains:
            asked[number].append(model.blend)
            good = model.blend.anchor_weight > 0
            return Gains(np.where(np.arange(250) % 10 == 0, 0.4, 0.6) * good, np.ones(250, np.int32))

        return judged

    blending.choose(MODEL, jury([part(0), part(1)]), Recipe())

    assert any(blend.anchor_weight == 0 for blend in asked[0])
    assert not any(blend.anchor_weight == 0 for blend in asked[1])


@pytest.mark.parametrize("count", [1, 250, 499, 500, 6000])
def test_questions_are_put_in_parts_that_double(count: int) -> None:
    parts = list(trials.in_parts(count, seed=3))

    assert np.sort(np.concatenate(parts)).tolist() == list(range(count))
    assert all((np.diff(part) > 0).all() for part in parts)
    before = np.cumsum([len(part) for part in parts])[:-1]
    assert all(len(part) == done for part, done in zip(parts[1:-1], before[:-1], strict=True)), "all but the last"
    assert len(parts[0]) < 500


def test_what_helps_only_together_is_found() -> None:
    """All of the last interactions, the old as much as the new, and louder: fewer changes are worse than none."""

    def judged(model: Model) -> Gains:
        blend = model.blend
        loud = blend.neighbour_weight >= 2.0 * MODEL.unit
        changed = (blend.neighbours == 64) + (blend.neighbour_decay == 1.0) + loud
        return Gains(np.full(4, (0.5, 0.4, 0.4, 0.6)[changed]), np.ones(4, np.int32))

    chosen = blending.choose(MODEL, jury([judged]), Recipe())

    assert (chosen.neighbours, chosen.neighbour_decay) == (64, 1.0)
    assert chosen.neighbour_weight >= 2.0


def test_what_scores_too_many_items_is_marked_down() -> None:
    def judged(model: object) -> Gains:
        greedy = model.blend.neighbour_nominees > 50  # type: ignore[attr-defined]
        return Gains(np.full(4, 0.6 if greedy else 0.5), np.full(4, 10_000 if greedy else 10))

    assert blending.choose(MODEL, jury([judged]), Recipe()).neighbour_nominees <= 50


@pytest.mark.parametrize(("cost", "expected"), [(0.0, (10.0, 20)), (0.01, (10.0, 5))])
def test_newcomers_are_greeted_as_far_as_it_costs_nobody_else(cost: float, expected: tuple[float, int]) -> None:
    """The louder, up to 10, and the longer it is, the better for newcomers; users pay for more than 5 events."""

    def newcomers(model: Model) -> Gains:
        loud, long = model.blend.newcomer_popularity, model.blend.newcomer_events
        gain = 0.1 * (loud == 10.0) + 0.01 * long * (loud > 0)
        return Gains(np.full(4, 0.5 + gain), np.ones(4, np.int32))

    def users(model: Model) -> Gains:
        paid = model.blend.newcomer_popularity > 0 and model.blend.newcomer_events > 5
        return Gains(np.full(4, 0.5 - cost * paid), np.ones(4, np.int32))

    chosen = blending.choose(MODEL, Jury([users], [newcomers]), Recipe())

    assert chosen.alone is not None
    for voices in (chosen, chosen.alone):
        assert (voices.newcomer_popularity, voices.newcomer_events) == expected
