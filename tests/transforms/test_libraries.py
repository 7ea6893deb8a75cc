"""The layers in the pipelines of other libraries, where these are there: they want a torch of their own."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from kit.tiny import some_images, tiny_denoiser
from PIL import Image

import eclipse
from eclipse.diffusion.denoiser import Denoiser
from eclipse.transforms import Compensate, Purify

GRAY = Compensate(p=1, noise=0)
PHOTO = Image.fromarray(some_images(1, 20, 26)[0].transpose(1, 2, 0))
SQUARE = np.asarray(PHOTO)[2:18, 5:21]  # its middle, 16x16


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    return tiny_denoiser()


@pytest.fixture
def purify(denoiser: Denoiser) -> Purify:
    return Purify(denoiser)


def expected(pixels: Any, denoiser: Denoiser, id: str) -> Any:
    return eclipse.purify(np.asarray(pixels).transpose(2, 0, 1)[None], denoiser, ids=[id], device="cpu")[0]


def test_torchvision_of_both_versions(purify: Purify) -> None:
    v1 = pytest.importorskip("torchvision.transforms", reason="torchvision wants a torch of its own")
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    wanted = torch.from_numpy(purify(SQUARE)).movedim(-1, 0)
    assert torch.equal((v1.Compose([v1.CenterCrop(16), purify, v1.ToTensor()])(PHOTO) * 255).round().byte(), wanted)
    assert torch.equal((v1.Compose([v1.CenterCrop(16), v1.ToTensor(), purify])(PHOTO) * 255).round().byte(), wanted)
    pipeline = v2.Compose([v2.ToImage(), v2.CenterCrop(16), purify])
    image, label = pipeline(PHOTO, 7)
    assert isinstance(image, tv_tensors.Image) and torch.equal(image.as_subclass(torch.Tensor), wanted) and label == 7
    sample = v2.Compose([v2.ToImage(), GRAY, v2.ToDtype(torch.float32, scale=True)])({"image": PHOTO, "label": 7})
    assert isinstance(sample["image"], tv_tensors.Image) and sample["label"] == 7
    assert torch.equal(sample["image"][0], sample["image"][2])


def test_albumentations(purify: Purify) -> None:
    a = pytest.importorskip("albumentations", reason="it is here only beside a torch of its own")

    def purified(image: Any, **_: Any) -> Any:
        return purify(image)

    done = a.Compose([a.CenterCrop(16, 16), a.Lambda(image=purified)])(image=np.asarray(PHOTO))["image"]
    assert np.array_equal(done, purify(image=SQUARE)["image"])


def test_webdataset(purify: Purify, denoiser: Denoiser, tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset", reason="it is here only beside a torch of its own")
    with wds.TarWriter(str(tmp_path / "0.tar")) as tar:
        tar.write({"__key__": "a", "png": PHOTO, "cls": 7})
    shards = wds.WebDataset(str(tmp_path / "0.tar"), shardshuffle=False)
    ((image, label),) = shards.decode("pil").map(purify).to_tuple("png", "cls")
    assert np.array_equal(np.asarray(image).transpose(2, 0, 1), expected(PHOTO, denoiser, "a")) and label == 7


def test_the_transform_of_a_hugging_face_dataset(denoiser: Denoiser) -> None:
    features = datasets.Features(image=datasets.Image(), uid=datasets.Value("string"))
    rows = datasets.Dataset.from_dict({"image": [PHOTO, PHOTO], "uid": ["a", "b"]}, features=features)
    seen = rows.with_transform(Purify(denoiser, id_key="uid"))
    assert np.array_equal(np.asarray(seen[1]["image"]).transpose(2, 0, 1), expected(PHOTO, denoiser, "b"))
    stream = next(iter(rows.to_iterable_dataset().map(Purify(denoiser, id_key="uid"))))
    assert np.array_equal(np.asarray(stream["image"]).transpose(2, 0, 1), expected(PHOTO, denoiser, "a"))
