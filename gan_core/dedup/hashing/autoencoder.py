"""The hash of the DCGAN paper (section 4.1): a 3072-128-3072 denoising, dropout-regularised ReLU
autoencoder.

The paper gives the network, "down-sampled center-crops" of 32x32 and the binarisation "thresholding
the ReLU activation"; it names neither noise, dropout rates, loss nor optimiser. Those here: input
[0, 1] minus the pixel mean, masking noise, dropout on the code, mean squared error, Adam.

The gradients and Adam are written out in NumPy: the network is two matrix products each way, and
the import of torch and its optimiser takes half as long as fitting 50,000 images
(docs/architecture.md).
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
from threadpoolctl import threadpool_limits

from gan_core.dedup.hashing import SIDE
from gan_core.dedup.hashing.codes import BITS, pack_bits
from gan_core.errors import DataError, StoreError
from gan_core.files import atomic_write_bytes, canonical_json
from gan_core.progress import Progress, Throttled, silent
from gan_core.randomness import numpy_stream

if TYPE_CHECKING:
    from gan_core.config import HashConfig

INPUTS = SIDE * SIDE * 3
FORMAT = 1
WEIGHT_BITS = 32  # of an encoder weight when codes are computed: 32 + 8 + log2(3072) < 53
NOISE_ROWS = 2048  # images' worth of masking noise drawn for an epoch
BLOCK = 1 << 16  # parameters that Adam updates at a time

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


def fit(pixels: Pixels, config: HashConfig, seed: int, progress: Progress = silent) -> Autoencoder:
    """Fits the autoencoder; the same pixels, settings, seed and machine give the same bits.

    On one thread: the products are so small that BLAS's threads would wait for each other, and busy
    at that (a step takes four times the processor time with two).

    Args:
        pixels: uint8 [n, S, S, 3] RGB, resized to 32x32 by area; n >= 1, fewer than a batch is
            fine.
        config: epochs, batch, rates; at least `min_steps` steps are taken, so that a small set is
            shown more often.
        seed: of weights, order and noise (stream 'hash').

    Raises:
        DataError: no images.
    """
    if not len(pixels):
        raise DataError(
            "There is no image to fit the autoencoder on.",
            expected="at least one usable training crop",
            remedy="check the reasons in images.parquet and crops.parquet",
        )
    data = resize_to(pixels).reshape(len(pixels), INPUTS)
    batch = min(config.batch, len(data))
    trainer = _Trainer(data, config, seed)
    per_epoch = -(-len(data) // batch)
    epochs = max(config.epochs, -(-config.min_steps // per_epoch))
    report, loss, done = Throttled(progress), float("nan"), 0
    with threadpool_limits(1, user_api="blas"):
        for epoch in range(epochs):
            trainer.new_epoch()
            order, total = trainer.order.permutation(len(data)), 0.0
            for start in range(0, len(data), batch):
                error = trainer.step(order[start : start + batch])
                if epoch == epochs - 1:
                    total += float(np.vdot(error, error))
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
    """One step of Adam at a time, gradients by hand.

    All parameters lie in one array, and so do their gradients: `w1` [3072, 128] (the encoder,
    transposed: both layouts are the ones that multiply quickest), `b1`, `w2` [3072, 128], `b2` are
    views of it.
    """

    def __init__(self, data: Pixels, config: HashConfig, seed: int) -> None:
        self.data, self.config, self.steps = data, config, 0
        # values, their gradients, and Adam's two moments
        count = 2 * INPUTS * BITS + BITS + INPUTS
        self.values, self.slopes, *self.moments = np.zeros((4, count), np.float32)
        self.w1, self.b1, self.w2, self.b2 = _views(self.values)
        weights = numpy_stream(seed, "hash", "weights")
        # He's initialisation for the ReLU layer, and 1/sqrt(inputs) for the linear one.
        for weight, scale in ((self.w1, 2 / INPUTS), (self.w2, 1 / BITS)):
            weights.standard_normal(dtype=np.float32, out=weight)
            weight *= np.float32(scale**0.5)
        self.mean = self._pixel_mean()
        self.order = numpy_stream(seed, "hash", "order")
        self.noise = numpy_stream(seed, "hash", "noise")

    def _pixel_mean(self) -> npt.NDArray[np.float32]:
        """Mean of every value in [0, 1], from exact sums."""
        total = np.zeros(INPUTS, np.int64)
        for start in range(0, len(self.data), 256):
            # 256 bytes add up to less than 2^16
            total += self.data[start : start + 256].sum(axis=0, dtype=np.uint16)
        return (total / (255 * len(self.data))).astype(np.float32)

    def _keep_factors(self, rows: int, columns: int, rate: float) -> npt.NDArray[np.float32]:
        """Dropout's factors [rows, columns]: 0 for about `rate` of them (one random byte decides
        each), else 1 / (1 - rate).
        """
        kept = np.frombuffer(self.noise.bytes(rows * columns), np.uint8) >= round(rate * 256)
        return (kept * np.float32(1 / (1 - rate))).reshape(rows, columns)

    def new_epoch(self) -> None:
        """Draws the epoch's stock of input noise: each step takes a random stretch of it."""
        self.stock = self._keep_factors(NOISE_ROWS, INPUTS, self.config.input_dropout).ravel()

    def _input_noise(self, rows: int) -> npt.NDArray[np.float32]:
        if rows > NOISE_ROWS:
            return self._keep_factors(rows, INPUTS, self.config.input_dropout)
        start = self.order.integers(len(self.stock) - rows * INPUTS + 1)
        return self.stock[start : start + rows * INPUTS].reshape(rows, INPUTS)

    def step(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """One update on the given rows; returns the errors, decoded minus clean [rows, 3072]."""
        clean = self.data[rows] * np.float32(1 / 255)
        clean -= self.mean
        error = self._gradients(clean)
        self._adam()
        return error

    def _gradients(self, clean: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Fills `slopes` with the gradients of the squared errors' sum over values and mean over
        rows; returns the errors.
        """
        count = len(clean)
        noisy = clean * self._input_noise(count)
        code = noisy @ self.w1
        code += self.b1
        factors = self._keep_factors(count, BITS, self.config.code_dropout)
        factors *= code > 0
        dropped = code * factors
        error: npt.NDArray[np.float32] = np.matmul(dropped, self.w2.T)
        error += self.b2
        error -= clean
        # The factor goes into the narrow matrices: the wide ones are memory traffic.
        scale = np.float32(2 / count)
        d_code = error @ self.w2
        d_code *= factors
        d_code *= scale
        dropped *= scale
        d_w1, d_b1, d_w2, d_b2 = _views(self.slopes)
        np.matmul(noisy.T, d_code, out=d_w1)
        np.sum(d_code, axis=0, out=d_b1)
        np.matmul(error.T, dropped, out=d_w2)
        np.sum(error, axis=0, out=d_b2)
        d_b2 *= scale
        return error

    def _adam(self) -> None:
        """Kingma and Ba (2015), algorithm 1, with the default rates; in blocks that stay in the
        processor's cache. The moments are kept without their factors 0.1 and 0.001.
        """
        self.steps += 1
        unbiased = math.sqrt((1 - 0.999**self.steps) / 0.001)
        rate = np.float32(self.config.learning_rate * unbiased / (1 - 0.9**self.steps) * 0.1)
        epsilon = np.float32(1e-8 * unbiased)
        for start in range(0, len(self.values), BLOCK):
            value, slope, first, second = (
                array[start : start + BLOCK] for array in (self.values, self.slopes, *self.moments)
            )
            first *= np.float32(0.9)
            first += slope
            second *= np.float32(0.999)
            slope *= slope
            second += slope
            change = np.sqrt(second, out=slope)
            change += epsilon
            np.divide(first, change, out=change)
            change *= rate
            value -= change

    def weights(self) -> dict[str, npt.NDArray[np.float32]]:
        """The fitted weights."""
        return {
            "encoder.weight": np.ascontiguousarray(self.w1.T),
            "encoder.bias": self.b1.copy(),
            "decoder.weight": self.w2.copy(),
            "decoder.bias": self.b2.copy(),
            "mean": self.mean,
        }


def _views(
    values: npt.NDArray[np.float32],
) -> tuple[
    npt.NDArray[np.float32],
    npt.NDArray[np.float32],
    npt.NDArray[np.float32],
    npt.NDArray[np.float32],
]:
    """Encoder weights [3072, 128] and bias [128], decoder weights [3072, 128] and bias [3072] in
    one array.
    """
    w1, w2, b1, b2 = np.split(values, np.cumsum([INPUTS * BITS, INPUTS * BITS, BITS]))
    return w1.reshape(INPUTS, BITS), b1, w2.reshape(INPUTS, BITS), b2
