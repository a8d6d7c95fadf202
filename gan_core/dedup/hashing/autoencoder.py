"""The hash of the DCGAN paper (section 4.1): a 3072-128-3072 denoising, dropout-regularised ReLU
autoencoder.

The paper gives the network, "down-sampled center-crops" of 32x32 and the binarisation "thresholding
the ReLU activation"; it names neither noise, dropout rates, loss nor optimiser. Those here: input
[0, 1] minus the pixel mean, masking noise, dropout on the code, mean squared error, Adam.

The gradients are written out: the network is two matrix products each way, and without autograd's
buffers a step takes half the time. Where the processor multiplies bfloat16 in hardware the products
run in it (four times faster, measured on 2 cores of an EPYC with avx512_bf16); weights, moments and
the codes' threshold stay in float32.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from gan_core.dedup.hashing.codes import BITS, pack_bits
from gan_core.devices import bf16_is_fast
from gan_core.errors import DataError, StoreError
from gan_core.files import atomic_write_bytes, canonical_json
from gan_core.progress import Progress, Throttled, silent
from gan_core.randomness import torch_stream

if TYPE_CHECKING:
    import torch

    from gan_core.config import HashConfig

SIDE = 32
INPUTS = SIDE * SIDE * 3
FORMAT = 1
WEIGHT_BITS = 32  # of an encoder weight when codes are computed: 32 + 8 + log2(3072) < 53
NOISE_ROWS = 2048  # images' worth of masking noise drawn for an epoch

Pixels = npt.NDArray[np.uint8]


def resize_to(pixels: Pixels, side: int = SIDE) -> Pixels:
    """Square images [n, S, S, 3] at another side: area interpolation down, linear up; unchanged
    when S == side.
    """
    if pixels.ndim != 4 or pixels.shape[3] != 3:
        raise ValueError(f"images are uint8 [n, height, width, 3], not {pixels.shape}")
    if pixels.shape[1:3] == (side, side):
        return pixels
    how = cv2.INTER_AREA if min(pixels.shape[1:3]) > side else cv2.INTER_LINEAR
    out = np.empty((len(pixels), side, side, 3), np.uint8)
    for number, image in enumerate(pixels):
        cv2.resize(image, (side, side), dst=out[number], interpolation=how)
    return out


@dataclass(frozen=True)
class Autoencoder:
    """A fitted autoencoder; applying it needs no torch.

    Attributes:
        weights: float32 arrays: `encoder.weight` [128, 3072], `encoder.bias` [128],
            `decoder.weight` [3072, 128], `decoder.bias` [3072], `mean` [3072] (pixel mean of the
            rows it was fitted on, in [0, 1]); values run over height, width, channel.
        about: settings and figures of the fit: plain JSON.
    """

    weights: dict[str, npt.NDArray[np.float32]]
    about: dict[str, Any]

    def embed(self, pixels: Pixels, *, batch: int = 512) -> npt.NDArray[np.float32]:
        """ReLU activations of the code: float32 [n, 128], >= 0. Args: pixels: uint8 [n, S, S, 3]
        RGB, any S.
        """
        out = np.empty((len(pixels), BITS), np.float32)
        for start, values in self._activations(pixels, batch):
            np.maximum(values, 0, out=out[start : start + len(values)])
        return out

    def encode(self, pixels: Pixels, *, batch: int = 512) -> Pixels:
        """Codes: uint8 [n, 16], bit k (most significant first) set where activation k > 0. Pixels
        as in `embed`.
        """
        out = np.empty((len(pixels), BITS // 8), np.uint8)
        for start, values in self._activations(pixels, batch):
            out[start : start + len(values)] = pack_bits(values > 0)
        return out

    def reconstruct(self, pixels: Pixels, *, batch: int = 512) -> npt.NDArray[np.float32]:
        """Decoded images: float32 [n, 32, 32, 3], about [0, 1]."""
        out = np.empty((len(pixels), SIDE, SIDE, 3), np.float32)
        for start, values in self._activations(pixels, batch):
            flat = (
                np.maximum(values, 0).astype(np.float32) @ self.weights["decoder.weight"].T
                + self.weights["decoder.bias"]
            )
            out[start : start + len(values)] = (flat + self.weights["mean"]).reshape(
                -1, SIDE, SIDE, 3
            )
        return out

    def _activations(
        self, pixels: Pixels, batch: int
    ) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
        """(first row, activations before the ReLU, float64 [n, 128]) of each block.

        A float32 product rounds differently on every CPU and at every place in a batch. Here it is
        exact: pixels are integers of 8 bits, weights are rounded to integers of `WEIGHT_BITS` bits,
        so every partial sum is an integer below 2^53. Equal pixels give equal codes everywhere.
        NumPy, because one product a block takes less time than the import of torch.
        """
        weight = self.weights["encoder.weight"].astype(np.float64)
        scale = 2.0 ** (WEIGHT_BITS - np.frexp(np.abs(weight).max(initial=0.0))[1])
        integers = np.ascontiguousarray(np.rint(weight * scale).T)
        centre = weight * self.weights["mean"]
        bias = self.weights["encoder.bias"] - np.array([math.fsum(row) for row in centre.tolist()])
        flat = np.empty((batch, INPUTS))
        for start in range(0, len(pixels), batch):
            small = resize_to(pixels[start : start + batch])
            block = flat[: len(small)]
            block[:] = small.reshape(len(small), INPUTS)
            yield start, (block @ integers) / (255 * scale) + bias

    def save(self, path: Path) -> None:
        """Writes weights, pixel mean and settings as one safetensors file; equal fits give equal
        bytes.
        """
        tensors = {
            name: np.ascontiguousarray(array) for name, array in sorted(self.weights.items())
        }
        atomic_write_bytes(
            path, save(tensors, {"discern": canonical_json({"format": FORMAT, **self.about})})
        )

    @classmethod
    def load(cls, path: Path) -> Autoencoder:
        """Reads what `save` wrote.

        Raises:
            StoreError: no such file, or not an encoder of this format.
        """
        shapes = {
            "encoder.weight": [BITS, INPUTS],
            "encoder.bias": [BITS],
            "decoder.weight": [INPUTS, BITS],
            "decoder.bias": [INPUTS],
            "mean": [INPUTS],
        }
        try:
            with safe_open(path, framework="np") as file:
                about = json.loads((file.metadata() or {}).get("discern", "{}"))
                names = file.keys()  # no mapping: it has no __iter__
                weights = {name: file.get_tensor(name) for name in names}
        except (OSError, SafetensorError, ValueError) as error:
            raise StoreError(
                f"The encoder {path.name} cannot be read: {error}.",
                expected="a safetensors file written by the hash stage",
                remedy=(
                    "give the encoder.safetensors of a hash artifact, or let a new one be fitted"
                ),
            ) from error
        found = {name: list(array.shape) for name, array in weights.items()}
        if found != shapes or about.pop("format", None) != FORMAT:
            raise StoreError(
                f"The file {path.name} is no encoder of this format: it holds {found}.",
                expected=f"format {FORMAT} with {shapes}",
                remedy=(
                    "give the encoder.safetensors of a hash artifact, or let a new one be fitted"
                ),
            )
        return cls(weights, about)


def fit(
    pixels: Pixels,
    config: HashConfig,
    seed: int,
    device: str = "cpu",
    progress: Progress = silent,
) -> Autoencoder:
    """Fits the autoencoder; the same pixels, settings, seed, thread count and machine give the same
    bits on a CPU.

    Args:
        pixels: uint8 [n, S, S, 3] RGB, resized to 32x32 by area; n >= 1, fewer than a batch is
            fine.
        config: epochs, batch, rates; at least `min_steps` steps are taken, so that a small set is
            shown more often.
        seed: of weights, order and noise (stream 'hash').

    Raises:
        DataError: no images.
    """
    import torch

    if not len(pixels):
        raise DataError(
            "There is no image to fit the autoencoder on.",
            expected="at least one usable training crop",
            remedy="check the reasons in images.parquet and crops.parquet",
        )
    data = torch.from_numpy(np.ascontiguousarray(resize_to(pixels))).reshape(len(pixels), INPUTS)
    batch = min(config.batch, len(data))
    trainer = _Trainer(data, config, batch, seed, device)
    per_epoch = -(-len(data) // batch)
    epochs = max(config.epochs, -(-config.min_steps // per_epoch))
    report, loss, done = Throttled(progress), float("nan"), 0
    with torch.inference_mode():
        for epoch in range(epochs):
            trainer.new_epoch()
            total = 0.0
            for rows in torch.split(torch.randperm(len(data), generator=trainer.order), batch):
                error = trainer.step(rows)
                if epoch == epochs - 1:
                    total += float(torch.linalg.vector_norm(error, dtype=torch.float32)) ** 2
                done += 1
                report(done, epochs * per_epoch, "steps", epoch=epoch + 1)
            loss = total / (len(data) * INPUTS)
    settings = config.model_dump(mode="json")
    about = {
        "settings": settings,
        "seed": seed,
        "rows": len(data),
        "epochs": epochs,
        "mean_squared_error": round(loss, 8),
    }
    return Autoencoder(trainer.weights(), about)


class _Trainer:
    """One step of Adam at a time, gradients by hand, large results into buffers: fresh memory costs
    a page fault for every 4 KiB.
    """

    def __init__(
        self, data: torch.Tensor, config: HashConfig, batch: int, seed: int, device: str
    ) -> None:
        import torch

        self.data, self.config, self.device = data, config, device
        self.dtype = torch.bfloat16 if bf16_is_fast(device) else torch.float32
        weights = torch_stream(seed, "hash", "weights")
        # He's initialisation for the ReLU layer, and 1/sqrt(inputs) for the linear one.
        self.w1 = (torch.randn(BITS, INPUTS, generator=weights) * (2 / INPUTS) ** 0.5).to(device)
        self.w2 = (torch.randn(INPUTS, BITS, generator=weights) * (1 / BITS) ** 0.5).to(device)
        self.b1 = torch.zeros(BITS, device=device)
        self.b2 = torch.zeros(INPUTS, device=device)
        self.mean = self._pixel_mean().to(device)
        self.order = torch_stream(seed, "hash", "order")
        self.noise = torch_stream(seed, "hash", "noise", device=device)
        self.parameters = [self.w1, self.b1, self.w2, self.b2]
        for parameter in self.parameters:
            parameter.grad = torch.empty_like(parameter)
        self.optimiser = torch.optim.Adam(self.parameters, lr=config.learning_rate, fused=True)
        self.rounded = [parameter.to(self.dtype) for parameter in self.parameters]
        self.rows = torch.empty(batch, INPUTS, dtype=torch.uint8)
        self.clean, self.noisy, self.error = (
            torch.empty(batch, INPUTS, dtype=self.dtype, device=device) for _ in range(3)
        )
        self.slopes = [
            torch.empty(BITS, INPUTS, dtype=self.dtype, device=device),
            torch.empty(INPUTS, BITS, dtype=self.dtype, device=device),
        ]

    def _pixel_mean(self) -> torch.Tensor:
        """Mean of every value in [0, 1]. Sums of 512 levels are whole numbers in float32: exact,
        whatever the thread count.
        """
        import torch

        total = torch.zeros(INPUTS, dtype=torch.int64)
        for block in torch.split(self.data, 512):
            total += block.float().sum(0).long()
        return (total.double() / (255 * len(self.data))).float()

    def _keep_factors(self, rows: int, columns: int, rate: float) -> torch.Tensor:
        """Dropout's factors [rows, columns]: 0 for about `rate` of them (one random byte decides
        each), else 1 / (1 - rate).
        """
        import torch

        words = torch.empty(-(-rows * columns // 8), dtype=torch.int64, device=self.device)
        words.random_(-(2**63), None, generator=self.noise)
        kept = words.view(torch.uint8)[: rows * columns] >= round(rate * 256)
        return kept.view(rows, columns).to(self.dtype).mul_(1 / (1 - rate))

    def new_epoch(self) -> None:
        """Draws the epoch's stock of input noise: each step takes a random stretch of it, which
        costs no pass over memory.
        """
        self.stock = self._keep_factors(NOISE_ROWS, INPUTS, self.config.input_dropout).view(-1)

    def _input_noise(self, rows: int) -> torch.Tensor:
        import torch

        if rows * INPUTS > len(self.stock):
            return self._keep_factors(rows, INPUTS, self.config.input_dropout)
        start = torch.randint(len(self.stock) - rows * INPUTS + 1, (), generator=self.order)
        return self.stock[int(start) :][: rows * INPUTS].view(rows, INPUTS)

    def step(self, rows: torch.Tensor) -> torch.Tensor:
        """One update on the given rows; returns the errors, decoded minus clean [rows, 3072]."""
        import torch

        count, dtype = len(rows), self.dtype
        w1, b1, w2, b2 = (
            rounded.copy_(exact)
            for rounded, exact in zip(self.rounded, self.parameters, strict=True)
        )
        pixels = torch.index_select(self.data, 0, rows, out=self.rows[:count])
        clean = self.clean[:count].copy_(pixels).mul_(1 / 255).sub_(self.mean.to(dtype))
        noisy = torch.mul(clean, self._input_noise(count), out=self.noisy[:count])
        code = torch.addmm(b1, noisy, w1.t()).relu_()
        factors = self._keep_factors(count, BITS, self.config.code_dropout)
        dropped = code * factors
        error = torch.addmm(b2, dropped, w2.t(), out=self.error[:count]).sub_(clean)
        # The loss is the mean over rows and values; its gradient is scaled here by the rows only.
        # Adam does not see the
        # difference but for its epsilon, and the numbers stay of a size that suits bfloat16. The
        # factor goes into the narrow
        # matrices: the wide ones are memory traffic.
        scale = 2 / count
        d_code = (error @ w2).mul_(factors.mul_(scale)).mul_(code > 0)
        # torch's own sums of bfloat16 over rows are slower than a product
        ones = torch.full((1, count), scale, dtype=dtype, device=self.device)
        slopes = (
            torch.mm(d_code.t(), noisy, out=self.slopes[0]),
            d_code.sum(0),
            torch.mm(error.t(), dropped.mul_(scale), out=self.slopes[1]),
            (ones @ error)[0],
        )
        for parameter, slope in zip(self.parameters, slopes, strict=True):
            parameter.grad.copy_(slope)
        self.optimiser.step()
        return error

    def weights(self) -> dict[str, npt.NDArray[np.float32]]:
        """The fitted weights."""
        named = {
            "encoder.weight": self.w1,
            "encoder.bias": self.b1,
            "decoder.weight": self.w2,
            "decoder.bias": self.b2,
            "mean": self.mean,
        }
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in named.items()}
