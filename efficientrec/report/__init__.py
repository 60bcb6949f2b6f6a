"""One page of everything that was measured: which runs are missing, what they gave, and how it looks."""
