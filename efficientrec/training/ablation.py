"""What each part is worth: the recipe without it, everything else as it is."""

from __future__ import annotations

from dataclasses import replace

from efficientrec.training.recipe import Recipe

PARTS = (
    "features",
    "dislikes",
    "traits",
    "triplets",
    "groups",
    "clusters",
    "anchors",
    "neighbours",
    "fitted shortlists",
    "missing shares",
    "shorter histories first",
    "damping",
)


def without(part: str, recipe: Recipe) -> Recipe:
    """The recipe without one of PARTS.

    >>> without("triplets", Recipe()).triplet_loss
    0.0
    """
    changed = {
        # The width stays, so that nothing but the words is missing.
        "features": replace(recipe, tokens_max=0, feature_dim=0, item_dim=recipe.feature_dim + recipe.item_dim),
        "dislikes": replace(recipe, dislikes=False),
        "traits": replace(recipe, trait_dim=0),
        "triplets": replace(recipe, triplet_loss=0.0),
        "groups": replace(recipe, group_loss=0.0),
        "clusters": replace(recipe, cluster_shortlist=0),
        "anchors": replace(recipe, anchor_shortlist=0),
        "neighbours": replace(recipe, neighbour_shortlist=0),
        "fitted shortlists": replace(recipe, fitted_shortlists=False),
        "missing shares": replace(recipe, dropout=0.0, ridge=2 * recipe.ridge),  # EASE needs the stronger ridge
        "shorter histories first": replace(recipe, length_power=0.0),
        "damping": replace(recipe, popularity_power=0.0),
    }
    return changed[part]
