"""How well features serve: which labels a probe sees, and what is measured."""
