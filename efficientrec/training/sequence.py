"""A small causal transformer that tells a user's next item from his last ones (SASRec, arXiv 1808.09781).

What differs from the paper, and why:
- *Softmax* over all items, or over a sample whose sum stands for all of them, instead of one negative for each
  positive: the greatest gain known for such nets (arXiv 2309.07602).
- *Positions count from the end*, as a bias of attention by distance: all positions of a window then are examples of the
  last position that is served, and what the first layer makes of an item depends on the item alone.
- *Scores are cosines* over a temperature, and a bias of the item that starts at half the logarithm of how often it was
  met: what is popular need not be learned into directions. On Beauty's validation items NDCG@20 was .075 after five
  epochs, against .056 with products of vectors.
- Norms stand before attention and before the dense layers.

Numbers in, numbers out: this is the net that sequence_kernel.py serves, and the baseline of evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import nn
from torch.nn import functional

from efficientrec.encoders.elcrec import ElcrecEncoder
from efficientrec.spans import steps
from efficientrec.training import loop
from efficientrec.training.data import TrainingData
from efficientrec.training.descriptions import token_matrix
from efficientrec.training.loop import Checkpoint, Course, Epochs
from efficientrec.training.sequence_recipe import SequenceRecipe
from efficientrec.vocabulary import Vocabulary

AT_ONCE = 512  # users read together: enough that the overhead of a call does not count
SCORED_TOP = 20  # of the NDCG by which training ends
POOL = 16  # batches whose windows are sorted by length together: little padding, and still a random mix


class Beside(Protocol):
    """What is learned with the net, and gives losses beside the next item's."""

    def begin_epoch(self, sequences: Sequences, draw: np.random.Generator) -> None: ...

    def loss(self, batch: Batch, states: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
        """states (windows, dim): of the net, at the place that tells the last item of each window."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some windows that are learned from together."""

    items: torch.Tensor
    """(windows, T)"""
    length: torch.Tensor
    """(windows,) how many of them count; behind them stands anything."""
    vectors: torch.Tensor
    """(items, dim) of all items, as of this step."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """What users did, one after the other."""

    items: NDArray[np.int64]
    """(events,) each user's items in time order, without those that he disliked."""
    starts: NDArray[np.int64]
    """(users + 1,) where each user begins; the last is the end."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    def of(self, users: NDArray[np.int64]) -> Sequences:
        """Those of some users."""
        count = self.lengths[users]
        starts = np.concatenate(([0], np.cumsum(count)))
        place = np.arange(starts[-1]) - np.repeat(starts[:-1] - self.starts[users], count)
        return Sequences(self.items[place], starts)

    def without_last(self, users: NDArray[np.int64]) -> Sequences:
        """The same without the last item of these users, each of whom has one."""
        kept = np.ones(len(self.items), np.bool_)
        kept[self.starts[users + 1] - 1] = False
        shorter = self.lengths
        shorter[users] -= 1
        return Sequences(self.items[kept], np.concatenate(([0], np.cumsum(shorter))))


def tokens_of(data: TrainingData, recipe: SequenceRecipe) -> csr_matrix:
    """(items, tokens) what the items' descriptions share, each item's tokens at length 1."""
    tokens = token_matrix(data.tokens, recipe.token_items_min, recipe.tokens_max)
    length = np.sqrt(np.asarray(tokens.multiply(tokens).sum(axis=1), np.float32).ravel())
    return csr_matrix(tokens.multiply(1 / np.maximum(length, np.float32(1e-9))[:, None]))


def sequences_of(data: TrainingData) -> Sequences:
    """The sequences that the encoder would read in the rows of these users, were a row endless."""
    kept = data.weight >= 0
    user = data.user[kept]
    count = np.bincount(user, minlength=data.users)
    return Sequences(
        data.item[kept][np.argsort(user, kind="stable")].astype(np.int64), np.concatenate(([0], np.cumsum(count)))
    )


class Layer(nn.Module):
    """Attention to what was before, and two dense layers; each adds to what it got."""

    def __init__(self, recipe: SequenceRecipe) -> None:
        super().__init__()
        dim, wide = recipe.dim, recipe.widening * recipe.dim
        self.heads, self.dropout = recipe.heads, recipe.dropout
        self.before_attention = nn.LayerNorm(dim)
        self.before_dense = nn.LayerNorm(dim)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.up, self.down = nn.Linear(dim, wide), nn.Linear(wide, dim)
        self.nearness = nn.Parameter(torch.zeros(recipe.heads, recipe.length))

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """(windows, T, dim) to the same."""
        windows, length, dim = state.shape
        normed = self.before_attention(state)
        query, key, value = (
            part(normed).view(windows, length, self.heads, dim // self.heads).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        step = torch.arange(length)
        distance = step[:, None] - step[None, :]
        asked = query @ key.transpose(2, 3) / math.sqrt(dim // self.heads) + self.nearness[:, distance.clamp(min=0)]
        share = asked.masked_fill(distance < 0, -torch.inf).softmax(dim=-1)
        share = functional.dropout(share, self.dropout, self.training)
        read = self.out((share @ value).transpose(1, 2).reshape(windows, length, dim))
        state = state + functional.dropout(read, self.dropout, self.training)
        wide = functional.dropout(torch.relu(self.up(self.before_dense(state))), self.dropout, self.training)
        return state + functional.dropout(self.down(wide), self.dropout, self.training)


class SequenceNet(nn.Module):
    """From items to the state after each of them, and from a state to a score of every item."""

    def __init__(self, tokens: csr_matrix, touched: NDArray[np.integer], recipe: SequenceRecipe, seed: int) -> None:
        """tokens (items, tokens): what items have in common by their descriptions. touched: the items that users did
        something with. Only they are told from each other: others would all be learned to be the wrong ones."""
        super().__init__()
        self.recipe = recipe
        self.own_vectors = nn.Parameter(torch.empty(tokens.shape[0], recipe.dim))
        self.token_vectors = nn.Parameter(torch.empty(tokens.shape[1], recipe.dim))
        self._tokens = (
            torch.from_numpy(tokens.indices.astype(np.int64)),
            torch.from_numpy(tokens.indptr[:-1].astype(np.int64)),
            torch.from_numpy(tokens.data.astype(np.float32)),
        )
        self.layers = nn.ModuleList(Layer(recipe) for _ in range(recipe.layers))
        self.last_norm = nn.LayerNorm(recipe.dim, elementwise_affine=False)
        count = np.bincount(touched, minlength=tokens.shape[0])
        self._touched = torch.from_numpy(np.flatnonzero(count))
        popularity = np.log(np.maximum(count, 1)).astype(np.float32) / 2
        self.item_bias = nn.Parameter(torch.from_numpy(popularity - popularity.mean()))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, value in self.named_parameters():
                if value.ndim == 2 and not name.endswith("nearness"):
                    value.normal_(0, 0.02, generator=generator)
                elif name.startswith("layers") and name.endswith("bias"):
                    value.zero_()

    def item_vectors(self) -> torch.Tensor:
        """(items, dim): what is learned of each item by itself, and what its description says."""
        if not len(self.token_vectors):
            return self.own_vectors
        tokens, starts, weights = self._tokens
        described = functional.embedding_bag(tokens, self.token_vectors, starts, mode="sum", per_sample_weights=weights)
        return self.own_vectors + described

    def forward(self, items: torch.Tensor, vectors: torch.Tensor, shown: torch.Tensor | None = None) -> torch.Tensor:
        """States (windows, T, dim). items (windows, T): shorter ones are filled up behind with any item, which changes
        nothing before it. vectors: `item_vectors()`. shown (windows, T): what is not stands there as zeros."""
        state = functional.embedding(items, vectors)
        if shown is not None:
            state = state * shown[:, :, None]
        state = functional.dropout(state, self.recipe.dropout, self.training)
        for layer in self.layers:
            state = layer(state)
        normed: torch.Tensor = self.last_norm(state)
        return normed

    def next_item_loss(
        self, states: torch.Tensor, targets: torch.Tensor, vectors: torch.Tensor, draw: np.random.Generator
    ) -> torch.Tensor:
        """How surprising the true next items are. states (predictions, dim), targets (predictions,).

        With sampled negatives, each of them counts for as many items as it stands for: log(items / negatives) is added
        to its score (logQ correction). One that is the true item itself does not count.
        """
        items, count = len(self._touched), self.recipe.negatives
        states = functional.normalize(states, dim=1) / self.recipe.temperature
        if count >= items:
            directions = functional.normalize(functional.embedding(self._touched, vectors), dim=1)
            scores = states @ directions.T + self.item_bias[self._touched]
            return functional.cross_entropy(scores, torch.searchsorted(self._touched, targets))
        others = self._touched[torch.from_numpy(draw.choice(items, count, replace=False))]
        directions = functional.normalize(functional.embedding(targets, vectors), dim=1)
        true = (states * directions).sum(dim=1, keepdim=True) + self.item_bias[targets][:, None]
        directions = functional.normalize(functional.embedding(others, vectors), dim=1)
        false = states @ directions.T + self.item_bias[others] + math.log((items - 1) / count)
        false = false.masked_fill(others[None, :] == targets[:, None], -torch.inf)
        return (torch.logsumexp(torch.cat((true, false), dim=1), dim=1) - true[:, 0]).mean()

    @torch.no_grad()
    def place_untouched(self) -> None:
        """Gives items that nobody touched what the others have on average beside their descriptions, and the bias of
        the least popular."""
        untouched = torch.ones(len(self.own_vectors), dtype=torch.bool)
        untouched[self._touched] = False
        self.own_vectors[untouched] = self.own_vectors[self._touched].mean(dim=0)
        self.item_bias[untouched] = self.item_bias[self._touched].min()

    @torch.no_grad()
    def last_states(self, sequences: Sequences) -> torch.Tensor:
        """(users, dim) the state after the last item of each user; zeros for a user without any."""
        length = np.minimum(sequences.lengths, self.recipe.length)
        order = np.argsort(length, kind="stable")
        order = order[length[order] > 0]
        states, vectors = torch.zeros(len(sequences), self.recipe.dim), self.item_vectors()
        for first in range(0, len(order), AT_ONCE):
            users = order[first : first + AT_ONCE]
            end = sequences.starts[users + 1]
            items, _ = _filled(sequences.items, end - length[users], end)
            states[users] = self(items, vectors)[torch.arange(len(users)), torch.from_numpy(length[users] - 1)]
        return states

    @torch.no_grad()
    def ranking_vectors(self) -> torch.Tensor:
        """(items, dim + 1): directions over the temperature, and the bias."""
        directions = functional.normalize(self.item_vectors(), dim=1) / self.recipe.temperature
        return torch.cat((directions, self.item_bias[:, None]), dim=1)

    @torch.no_grad()
    def scores(self, states: torch.Tensor, ranking_vectors: torch.Tensor) -> torch.Tensor:
        """(users, items) for the next item. ranking_vectors: `ranking_vectors()`."""
        units = functional.normalize(states, dim=1)
        return units @ ranking_vectors[:, :-1].T + ranking_vectors[:, -1]

    def encoder(self, key: int, items: Vocabulary, scale: float = 1.0) -> ElcrecEncoder:
        """The encoder that serves this net. scale: of its states, and so of its scores."""
        layers = [layer for layer in self.layers if isinstance(layer, Layer)]

        def arrays(of: Callable[[Layer], torch.Tensor]) -> NDArray[np.float32]:
            return np.ascontiguousarray(torch.stack([of(layer) for layer in layers]).detach().numpy())

        def norms(layer: Layer) -> torch.Tensor:
            return torch.stack([torch.stack((n.weight, n.bias)) for n in (layer.before_attention, layer.before_dense)])

        def parts(layer: Layer) -> tuple[nn.Linear, ...]:
            return layer.query, layer.key, layer.value, layer.out

        return ElcrecEncoder(
            key=key,
            items=items,
            item_vectors=self.item_vectors().detach().numpy().copy(),
            nearness=arrays(lambda layer: layer.nearness),
            norms=arrays(norms),
            attention=arrays(lambda layer: torch.stack([part.weight.T for part in parts(layer)])),
            attention_bias=arrays(lambda layer: torch.stack([part.bias for part in parts(layer)])),
            up=arrays(lambda layer: layer.up.weight.T),
            up_bias=arrays(lambda layer: layer.up.bias),
            down=arrays(lambda layer: layer.down.weight.T),
            down_bias=arrays(lambda layer: layer.down.bias),
            scale=scale,
        )


@dataclass(frozen=True, slots=True)
class Fitted:
    """A net that has learned, and how it went."""

    net: SequenceNet
    course: Course

    def score(self, given: TrainingData, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """Scores (users, items) for the next item after what these users did."""
        self.net.eval()
        states = self.net.last_states(sequences_of(given))[torch.from_numpy(users.astype(np.int64))]
        return np.asarray(self.net.scores(states, self.net.ranking_vectors()).numpy(), np.float32)


def fit_sequence(
    data: TrainingData,
    recipe: SequenceRecipe,
    seed: int = 0,
    *,
    progress: loop.Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> Fitted:
    """Learns from everything in data but the items held out to tell when to end."""
    sequences = sequences_of(data)
    net = SequenceNet(tokens_of(data, recipe), sequences.items, recipe, seed)
    return Fitted(net, learn_net(net, net, sequences, seed, progress=progress, checkpoint=checkpoint))


def learn_net(
    net: SequenceNet,
    whole: nn.Module,
    sequences: Sequences,
    seed: int,
    *,
    beside: Beside | None = None,
    progress: loop.Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> Course:
    """Teaches the net. whole: the module with all that is learned; the net itself, or what has the net as a part and
    is `beside` it."""
    recipe = net.recipe
    draw = np.random.default_rng(seed)
    asked = _held_out(sequences, recipe, draw)
    rest = sequences.without_last(asked) if len(asked) else sequences
    targets = sequences.items[sequences.starts[asked + 1] - 1]
    given = rest.of(asked)

    def losses(draw: np.random.Generator) -> Iterator[torch.Tensor]:
        if beside is not None:
            beside.begin_epoch(rest, draw)
        for begin, end in _batches(rest, recipe, draw):
            batch = Batch(*_filled(rest.items, begin, end), net.item_vectors())
            states = net(batch.items[:, :-1], batch.vectors)
            told = torch.arange(states.shape[1])[None, :] < batch.length[:, None] - 1
            loss = net.next_item_loss(states[told], batch.items[:, 1:][told], batch.vectors, draw)
            if beside is not None:
                loss = loss + beside.loss(batch, states[torch.arange(len(states)), batch.length - 2], draw)
            yield loss

    course = loop.run(
        whole,
        torch.optim.Adam(whole.parameters(), lr=recipe.learning_rate),
        losses,
        Epochs(most=recipe.epochs, patience=recipe.patience, seed=seed),
        score=(lambda: ndcg(net, given, targets)) if len(asked) else None,
        progress=progress,
        checkpoint=checkpoint,
    )
    net.place_untouched()
    return course


def ndcg(net: SequenceNet, given: Sequences, targets: NDArray[np.int64]) -> float:
    """NDCG@20 of one target for each user, ranked among all items that were not given."""
    gains = np.zeros(len(given))
    states, vectors = net.last_states(given), net.ranking_vectors()
    for first in range(0, len(given), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        scores = net.scores(states[part], vectors).numpy()
        row = np.repeat(np.arange(len(scores)), given.lengths[part])
        scores[row, given.items[given.starts[first] : given.starts[min(first + AT_ONCE, len(given))]]] = -np.inf
        true = scores[np.arange(len(scores)), targets[part]][:, None]
        rank = (scores > true).sum(axis=1) + ((scores == true).sum(axis=1) - 1) / 2
        gains[part] = np.where(rank < SCORED_TOP, 1 / np.log2(rank + 2), 0)
    return float(gains.mean())


def _held_out(sequences: Sequences, recipe: SequenceRecipe, draw: np.random.Generator) -> NDArray[np.int64]:
    """Users whose last item is held out: each is new to him, and leaves two to learn from."""
    able = np.flatnonzero(sequences.lengths >= 3)
    count = min(int(recipe.held_out_share * len(able)), recipe.held_out_max)
    users = np.sort(draw.permutation(able)[:count])
    first, last = sequences.starts[users], sequences.starts[users + 1] - 1
    new = [sequences.items[end] not in sequences.items[begin:end] for begin, end in zip(first, last, strict=True)]
    return users[np.array(new, np.bool_)]


def windows(
    sequences: Sequences, length: int, draw: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where windows begin and end, so that every item but a user's first is predicted in exactly one of them.

    A user's items are one window where `length` of them tell the last; a longer sequence is cut at random places,
    others in each epoch, since what stands at the start of a window is told from little.
    """
    users = np.flatnonzero(sequences.lengths >= 2)
    told = sequences.lengths[users] - 1
    first = np.where(told <= length, told, draw.integers(1, length + 1, len(users)))
    count = 1 + -((first - told) // length)
    user = np.repeat(np.arange(len(users)), count)
    number = steps(count)
    start = sequences.starts[users][user]
    begin = np.where(number > 0, first[user] + (number - 1) * length, 0)
    end = np.minimum(first[user] + number * length, told[user])
    return start + begin, start + end + 1


def _batches(
    sequences: Sequences, recipe: SequenceRecipe, draw: np.random.Generator
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Where the windows of each batch begin and end; a batch has windows of like length, and the batches no order."""
    begin, end = windows(sequences, recipe.length, draw)
    if not len(begin):
        return
    told = end - begin - 1
    order = draw.permutation(len(begin))
    pool = np.arange(len(order)) // max(1, int(POOL * recipe.batch / told.mean()))
    order = order[np.lexsort((told[order], pool))]
    batch = (np.cumsum(told[order]) - 1) // recipe.batch
    batches = np.split(order, np.flatnonzero(np.diff(batch)) + 1)
    for number in draw.permutation(len(batches)):
        yield begin[batches[number]], end[batches[number]]


def _filled(
    items: NDArray[np.int64], begin: NDArray[np.int64], end: NDArray[np.int64]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The items of windows (windows, T), each filled up with its last one, and how long each is."""
    length = end - begin
    place = begin[:, None] + np.minimum(np.arange(length.max()), length[:, None] - 1)
    return torch.from_numpy(items[place]), torch.from_numpy(length)
