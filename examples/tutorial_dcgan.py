"""The two networks of PyTorch's DCGAN tutorial, with its names of layers: weights saved by the
tutorial's own script fit.

Nothing here knows of Discern: this is the `my_module` of `discern extract --network
    my_module:Discriminator`.
"""

import torch.nn as nn

nc, nz, ngf, ndf = 3, 100, 64, 64


class Generator(nn.Module):
    """Latents [n, 100, 1, 1] to images [n, 3, 64, 64] in [-1, 1]."""

    def __init__(self, ngpu):
        super().__init__()
        self.ngpu = ngpu
        widths = [ngf * 8, ngf * 4, ngf * 2, ngf]
        layers = [
            nn.ConvTranspose2d(nz, widths[0], 4, 1, 0, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(True),
        ]
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [
                nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(True),
            ]
        self.main = nn.Sequential(
            *layers, nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=False), nn.Tanh()
        )

    def forward(self, input):
        return self.main(input)


class Discriminator(nn.Module):
    """Images [n, 3, 64, 64] in [-1, 1] to the probability that they are real, [n, 1, 1, 1]."""

    def __init__(self, ngpu):
        super().__init__()
        self.ngpu = ngpu
        self.main = nn.Sequential(
            nn.Conv2d(nc, ndf, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf, ndf * 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 2, ndf * 4, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 4),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 4, ndf * 8, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 8),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 8, 1, 4, 1, 0, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, input):
        return self.main(input)
