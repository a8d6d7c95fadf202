"""Images to features as a scikit-learn transformer: any network, fitted statistics included."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn

from gan_core.devices import resolve_device
from gan_core.errors import DataError
from gan_core.features import extract
from gan_core.features.external.network import ExternalNetwork, Range
from gan_core.features.modes import BatchNormCReLU, Pool, select_layers
from gan_core.networks.snapshot import Snapshot, chosen_snapshot, load_snapshot


class FeatureExtractor(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Activations of a network's layers as features, as the stage `extract` takes them.

    `fit` measures batch-norm statistics over its images, `transform` leaves the network as it is,
    so an image's features depend on no other image of its batch. The given network is copied.

    Args:
        network: an `nn.Module`, a `Snapshot`, or the path of a snapshot or of a train artifact.
        layers: names of layers; None: the choice of `mode`.
        mode, grid, pool: see `gan_core.features.modes`.
        role: of a snapshot: 'discriminator', 'encoder', ...; None: the method's own choice.
        statistics: 'real': batch-norm statistics over the images given to `fit`; 'running': those
            that the network comes with.
        side, values: of an `nn.Module`: the side that images are resized to, and the range of
            values it was trained on.
        max_images: at most this many images are used for the statistics.
        batch: images at a time; changes nothing but the rounding of the last bit.
        device: 'auto', 'cpu' or 'cuda'.
        seed: order of the images for the statistics.

    Attributes:
        sizes_: the layers with their shapes, in the order of the columns.
        n_features_out_: values for each image.
    """

    def __init__(
        self,
        network: nn.Module | Snapshot | str | Path,
        layers: list[str] | None = None,
        *,
        mode: str = "dcgan",
        grid: int = 4,
        pool: Pool = "max",
        role: str | None = None,
        statistics: Literal["real", "running"] = "real",
        side: int | None = None,
        values: Range = "-1..1",
        max_images: int = 10_000,
        batch: int = 128,
        device: str = "auto",
        seed: int = 0,
    ) -> None:
        self.network = network
        self.layers = layers
        self.mode = mode
        self.grid = grid
        self.pool = pool
        self.role = role
        self.statistics = statistics
        self.side = side
        self.values = values
        self.max_images = max_images
        self.batch = batch
        self.device = device
        self.seed = seed

    def fit(self, X: npt.NDArray[np.uint8], y: Any = None) -> FeatureExtractor:
        """Measures the statistics over images uint8 [n, height, width, 3]; `y` is not used.

        Raises: DataError: other images; RequestError: the network does not run on them;
            UnknownName: a layer that is not there.
        """
        images = check_images(X)
        self.device_ = resolve_device(self.device)
        self.network_ = self._network(images.shape[1])
        _check_side(self.network_, images)
        self.network_.without_labels = True
        columns = self.network_.columns(self.layers) if self.layers else None
        selection = select_layers(self.network_, self.mode, columns, self.grid, self.pool)
        self.sizes_ = selection.sizes
        self.n_features_out_ = sum(size.dims for size in selection.sizes)
        self._selection = selection
        if self.statistics == "real":
            extract.set_statistics(
                self.network_,
                lambda rows: images[rows],
                len(images),
                self.max_images,
                self.seed,
                self.device_,
            )
        self._after = BatchNormCReLU() if selection.crelu else None
        if self._after is not None:
            some = images[: self.max_images]
            self._after.measure(
                extract.pooled(
                    self.network_.activations,
                    some,
                    selection,
                    batch=self.batch,
                    device=self.device_,
                )
            )
        return self

    def transform(self, X: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Features of images uint8 [n, height, width, 3]: float32 [n, n_features_out_], layer by
        layer, channel-major within a layer.

        Raises: DataError: other images, or activations that are not numbers.
        """
        check_is_fitted(self, "network_")
        images = check_images(X)
        _check_side(self.network_, images)
        out = np.empty((len(images), self.n_features_out_), np.float32)
        # by parts, so that float16 and float32 of all images are never held together
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            found, _ = extract.extract_features(
                self.network_.activations,
                part,
                self._selection,
                batch=self.batch,
                device=self.device_,
                after=self._after,
                names=[str(start + row) for row in range(len(part))],
            )
            flat = [found[size.name].reshape(len(part), -1) for size in self.sizes_]
            out[start : start + len(part)] = np.concatenate(flat, axis=1)
        return out

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """'<layer>_<number>' for each column."""
        check_is_fitted(self, "network_")
        names = [f"{size.name}_{i}" for size in self.sizes_ for i in range(size.dims)]
        return np.array(names, object)

    def _network(self, side: int) -> Any:
        """The network to run, a copy on the device."""
        given: Any = self.network
        if isinstance(given, str | Path):
            path = Path(given)
            given = load_snapshot(chosen_snapshot(path) if path.is_dir() else path)
        if isinstance(given, Snapshot):
            return copy.deepcopy(given.feature_network(self.role)).to(self.device_).eval()
        module = copy.deepcopy(given).to(self.device_)
        return ExternalNetwork(module, self.side, self.values, given=side)


def check_images(images: Any) -> npt.NDArray[np.uint8]:
    """The images as uint8 [n, height, width, 3]; DataError for anything else."""
    array = images.cpu().numpy() if isinstance(images, torch.Tensor) else np.asarray(images)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or not len(array):
        raise DataError(
            f"Images of {array.dtype} {array.shape} were given.",
            expected="uint8 [n, height, width, 3], RGB, at least one",
        )
    return array


def _check_side(network: Any, images: npt.NDArray[np.uint8]) -> None:
    """A network of this project takes one size; `ExternalNetwork` resizes."""
    if not network.assumed and tuple(network.input_shape[1:]) != images.shape[1:3]:
        raise DataError(
            f"The network takes images of {network.input_shape[1]} x {network.input_shape[2]}, "
            f"and these are {images.shape[1]} x {images.shape[2]}.",
            expected="images of the network's size",
            remedy="resize the images, or crop them with `gan_core.run(..., until='crop')`",
        )
