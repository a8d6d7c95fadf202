"""The denoising-autoencoder hash and look-ups by code."""

SIDE = 32  # of the images that are hashed and compared
