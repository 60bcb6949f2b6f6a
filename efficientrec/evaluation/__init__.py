"""How good lists are: metrics, protocols, and the comparison by which a new model is let in or not."""
