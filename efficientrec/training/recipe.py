"""Every number a training depends on, in one place; all of them go into the artifact's manifest."""

from __future__ import annotations

from dataclasses import dataclass, field

from efficientrec.training.elcrec_recipe import ElcrecRecipe
from efficientrec.training.elfm_recipe import ElfmRecipe

DAY = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train. One recipe for all data: what should follow the data is derived from it, with a factor set here."""

    seed: int = 0
    """Of every random choice."""
    encoder: str = "efficientrec"
    """Which encoder is learned: one of registry.ENCODERS."""
    elfm: ElfmRecipe = field(default_factory=ElfmRecipe)
    elcrec: ElcrecRecipe = field(default_factory=ElcrecRecipe)
    half_life_seconds: float = 90 * DAY
    """Age at which an interaction counts half in a profile."""
    popularity_half_life_seconds: float = 7 * DAY
    """Age at which an interaction counts half for what is popular."""
    validation_share: float = 0.1
    """The latest part of the interactions, on which weights between the voices are chosen and scores reported."""
    examples_max: int = 2000
    """Held-out interactions that are predicted for a score. 2,000 put a hit rate of 0.1 within ± 0.013."""

    feature_dim: int = 32
    """Width of v_i, what an item's description says of it."""
    item_dim: int = 128
    """Width of e_i, what is learned of an item. With v_i at most 190, so that a row stays under 4 KiB."""
    tokens_max: int = 3000
    """Tokens of item descriptions that are told apart, the most frequent first."""
    token_items_min: int = 3
    """Items that must share a token before it can say anything."""
    exact_items: int = 8000
    """Items up to which the weights between them are exact; the inverse behind them takes seconds at this size, and
    minutes at 20,000."""
    exact_items_of_few: int = 12_000
    """The same where users and tokens together are a third of the items or fewer, which takes a third of the time."""
    nearest: int = 64
    """Items on which each is regressed where there are more."""
    ridge: float = 10.0
    """Factor of λ, which also grows with the root of the mean popularity of an interaction's item."""
    dropout: float = 0.6
    """Share of a history that is thought to be missing when weights between items are learned."""
    length_power: float = 0.25
    """How much less each like counts of who has many: likes enter as n to the minus this."""
    popularity_power: float = 0.15
    """How much frequent items are damped: scores are divided by their number of likes to this power."""
    description_weight: float = 20.0
    """How much a token that two items share counts, against a user whom they share."""

    hidden: int = 64
    """Width of the two layers before the memberships."""
    clusters: int = 256
    """Soft clusters at most; few users have fewer."""
    users_per_cluster: int = 16
    """Fewer users than this to a cluster would make its shortlist hearsay."""
    clusters_kept: int = 8
    """c: clusters that vote for a user."""
    cluster_shortlist: int = 120
    """L: items in a cluster's shortlist."""
    fitted_shortlists: bool = True
    """Whether a cluster's credits are fitted to exact scores, or are the means of what its members like."""
    prior: float = 5.0
    """a: members by which a cluster's credits are shrunk."""
    steps: int = 300
    """Batches of the membership head."""
    batch: int = 256
    """Users of a batch, each as two halves of what he did."""
    trait_users_min: int = 20
    """Users that must share a demographic trait before it can say anything."""
    trait_dim: int = 8
    """Width of what is learned of a demographic trait."""
    learning_rate: float = 1e-2
    margin: float = 0.3
    """By which another user must be further away than one's own other half, in cosine distance of memberships."""
    triplet_loss: float = 1.0
    """Weight of the loss by which halves of one user agree."""
    group_loss: float = 0.3
    """Weight of the loss that keeps clusters near the groups that tastes fall into."""
    head_users: int = 50_000
    """Users of whom the membership head learns, at most."""

    dislikes: bool = True
    """Whether what a user disliked says anything of him."""

    transition_window: int = 10
    """Interactions after an item that are taken to follow it."""
    transition_backward: float = 0.5
    """What an item that came before counts, against one that came after."""
    anchor_shortlist: int = 50
    """L': items that an item leads to."""
    neighbour_shortlist: int = 100
    """M: items that an item resembles."""
    popular: int = 200
    """Items kept as popular."""

    scored_share: float = 0.1
    """Share of the items that may be scored for a list, on average."""
    scored_min: int = 300
    """Items that may be scored however small the catalogue."""
