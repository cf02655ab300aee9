"""The features of FID: Inception v3 by torch-fidelity, with weights that the user gives.

torch-fidelity would fetch weights when it is given none; here it is always given a file, whose
SHA-256 must be the one asked for and which holds nothing but tensors.
"""

import hashlib
import tempfile
import urllib.request
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.storage import open_storage

_CHANNELS = 3


class InceptionNetwork:
    """uint8 images (B,C,H,W), C = 1 or 3, to the 2048 features before the last layer."""

    def __init__(self, weights: str, sha256: str, device: torch.device) -> None:
        """Load the network.

        Raises:
            InputError: torch-fidelity is not installed, or the weights are missing, others than
                `sha256` says, or not those of this network.
        """
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise InputError(
                f"features.kind=inception needs the extra `quality` ({error}); pip install "
                "'vdm-pipeline[quality]' with the torchvision of your torch, or take "
                "features.kind=classifier"
            ) from error
        with tempfile.TemporaryDirectory(prefix="vdm-inception-") as folder:
            file = Path(folder) / "weights.pth"
            file.write_bytes(read_weights(weights, sha256))
            try:
                torch.load(file, weights_only=True)  # nothing but tensors, before it is trusted
                self.network = FeatureExtractorInceptionV3(
                    "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(file)
                ).to(device)
            except Exception as error:
                raise InputError(f"{weights} are not weights of Inception v3: {error}") from error

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """(B,2048), float32; grey images are shown in three equal channels."""
        if images.shape[1] == 1:
            images = images.expand(-1, _CHANNELS, -1, -1)
        (features,) = self.network(images.contiguous())
        return features.flatten(1).float()


def read_weights(url_or_path: str, sha256: str) -> bytes:
    """The file, from a path, `s3://`, `gs://` or `https://`, if it is the one asked for.

    Raises:
        InputError: it cannot be read, or has another digest.
    """
    try:
        if url_or_path.startswith("https://"):
            with urllib.request.urlopen(url_or_path, timeout=60) as response:
                data: bytes = response.read()
        else:
            data = open_storage(url_or_path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read features.weights={url_or_path}: {error}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise InputError(
            f"{url_or_path} has SHA-256 {found}, and features.sha256 asks for {sha256}: it is "
            "another or a damaged file"
        )
    return data
