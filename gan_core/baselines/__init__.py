"""What features must beat, made as features of their own: raw pixels, the same network untrained,
K-means.

A file here is a baseline's name in a recipe. It has `Options`, `VERSION`, `TITLE` and `ABOUT`;
`NEEDS`, what it reads beside the crops ('pack': the training images, 'network': the architecture
and the settings of extract); `dims(options, size, network)`, the number of features for estimates;
and `make(job, images, progress)`, its `gan_core.features.extractor.Extractor`.
"""
