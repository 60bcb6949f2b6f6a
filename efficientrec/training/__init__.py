"""Learning a model from interactions. The only place that imports torch."""
