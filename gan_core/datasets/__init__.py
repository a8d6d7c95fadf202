"""Kinds of sources: one file each, named in a recipe as `dataset`."""
