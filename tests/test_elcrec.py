"""The sequence encoder serves the net that was trained, and the net learns what follows what."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from torch.nn import functional

from efficientrec import profile
from efficientrec.encoders.elcrec import ElcrecEncoder
from efficientrec.interactions import key_of
from efficientrec.training.sequence import SequenceNet
from efficientrec.training.sequence_recipe import SequenceRecipe
from efficientrec.vocabulary import Vocabulary
from tests import strategies
from tests.toy import dislike, like, run_of, view

ITEMS = [*strategies.KNOWN, *(f"i{number}" for number in range(12, 30))]
SMALL = SequenceRecipe(length=12, dim=16, layers=1, heads=2, widening=2, negatives=30)
NO_TOKENS = csr_matrix(np.zeros((len(ITEMS), 0), np.float32))


def random_net(recipe: SequenceRecipe, seed: int = 0) -> SequenceNet:
    """A net of nothing in particular, with every number far from where it starts."""
    net = SequenceNet(NO_TOKENS, np.arange(len(ITEMS)), recipe, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in net.parameters():
            value.add_(torch.randn(value.shape, generator=generator) / 2)
    return net.eval()


def served(net: SequenceNet, scale: float = 1.0) -> ElcrecEncoder:
    return net.encoder(key_of("v"), Vocabulary(ITEMS), scale)


@given(
    histories=strategies.known_items,
    layers=st.integers(1, 3),
    heads=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 50),
)
def test_what_is_served_is_what_was_trained(histories: list[list[str]], layers: int, heads: int, seed: int) -> None:
    net = random_net(SequenceRecipe(length=12, dim=16, layers=layers, heads=heads, widening=2), seed)
    users = [f"u{number}" for number in range(len(histories))]
    acts = [like(user, item) for user, items in zip(users, histories, strict=True) for item in items]
    encoder = served(net)

    rows = profile.fold(profile.empty(len(users)), run_of(acts, users=users), encoder).rows
    vector, scores = encoder.vector(rows), encoder.taste(rows) @ net.ranking_vectors().numpy().T

    for user, items in enumerate(histories):
        if not items:
            assert not vector[user].any()
            assert not scores[user].any()
            continue
        with torch.no_grad():
            read = torch.tensor([[ITEMS.index(item) for item in items[-12:]]])
            state = net(read, net.item_vectors())[:, -1]
        assert vector[user] == pytest.approx(functional.normalize(state, dim=1)[0].numpy(), abs=1e-5)
        assert scores[user] == pytest.approx(net.scores(state, net.ranking_vectors())[0].numpy(), abs=3e-4)


def test_disliked_and_unknown_items_are_not_read_and_leave_room_for_others() -> None:
    encoder = served(random_net(SMALL))
    plain = [like("anna", f"i{number}") for number in range(12)]
    mixed = [act for each in plain for act in (each, dislike("anna", "i20"), like("anna", "never seen"))]

    rows = [profile.fold(profile.empty(1), run_of(acts), encoder).rows for acts in (plain, mixed)]

    assert encoder.taste(rows[0]).tobytes() == encoder.taste(rows[1]).tobytes()


def test_the_order_of_items_counts() -> None:
    encoder = served(random_net(SMALL))
    histories = (["i1", "i2", "i3"], ["i2", "i1", "i3"])

    rows = [profile.fold(profile.empty(1), run_of([view("a", i) for i in items]), encoder).rows for items in histories]

    assert np.abs(encoder.vector(rows[0]) - encoder.vector(rows[1])).max() > 1e-5


def test_a_scale_is_one_of_scores_and_leaves_intents() -> None:
    net = random_net(SMALL)
    rows = profile.fold(profile.empty(1), run_of([like("anna", "i1"), like("anna", "i2")]), served(net)).rows

    assert served(net, 0.25).taste(rows) == pytest.approx(0.25 * served(net).taste(rows), abs=1e-6)
    assert served(net, 0.25).vector(rows) == pytest.approx(served(net).vector(rows), abs=1e-6)
