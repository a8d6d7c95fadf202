"""How well near-duplicates are found."""
