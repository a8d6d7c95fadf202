"""What features are compared with, made as features of their own: raw pixels, the same network
untrained, K-means; and Fisher vectors, another read-out of the trained network.

A file here is a baseline's name in a recipe. It has `Options`, `VERSION`, `TITLE` and `ABOUT`;
`NEEDS`, what it reads in addition to the crops ('pack': the training images, 'network': the
architecture and the settings of extract, 'snapshot': the trained networks); `dims(options, size,
network)`, the number of features for estimates; and `make(job, images, progress)`, its
`gan_core.features.extractor.Extractor`.
"""
