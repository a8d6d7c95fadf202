"""The denoising-autoencoder hash and look-ups by code."""
