"""What features must beat, made as features of their own: raw pixels, the same network untrained,
K-means.
"""
