"""What features are compared with, made as features of their own: raw pixels, the same network
untrained, K-means; and Fisher vectors, another read-out of the trained network.

A baseline is a file of this folder with

    ABOUT, VERSION, TITLE  as every plug-in (`gan_core.registry`)
    Options  optional: its settings (`gan_core.config.Section`)
    NEEDS  what it reads in addition to the crops: "pack" (the training images), "network" (the
           architecture and the settings of extract), "snapshot" (the trained networks)
    EXAMPLES  optional: options with which the contract test runs it in a moment
    GRIDS  optional: probe to the values that are tried on its features when a recipe names none

    dims(options, size, network) -> number of features, for estimates; size: side of a crop,
        network: number of the network's own features
    make(job, images, progress) -> `gan_core.features.extractor.Extractor`
"""
