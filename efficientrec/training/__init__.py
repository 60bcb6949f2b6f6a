"""Learning a model from interactions: `train.train` is the way in. `memberships` alone imports torch."""
