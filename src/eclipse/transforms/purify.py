"""Purification as a layer of a training pipeline, without a second copy of the data set."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from eclipse.compute.device import compute_dtype, resolve_device
from eclipse.data.pixels import Stored, quantize, to_unit
from eclipse.data.sample import called_with, images_of, opened
from eclipse.diffusion.checkpoint import fingerprint_denoiser, load_denoiser
from eclipse.diffusion.denoiser import Denoiser, check_denoiser
from eclipse.diffusion.presets import preset_of
from eclipse.errors import EclipseError
from eclipse.purification.algorithm import prepare, purification
from eclipse.purification.arrays import purified_parts
from eclipse.transforms.cache import Cache, FolderCache, MemoryCache


class Purify:
    """Purify images on their way into training, each once; the results are kept.

    It stands where an image has its size for training and has not been changed at random yet: after ``Resize`` and
    ``CenterCrop``, before flips, random crops, ``Compensate`` and normalization. The noise of an image depends on
    (seed, id) alone, and the result has the bytes that ``eclipse.purify`` gives for the same seed and id.

    It can be pickled, and works in the workers of a DataLoader: on the CPU, and with the results in a folder, since
    what one worker has in memory no other sees.

    Args:
        denoiser: from ``train_denoiser`` or ``load_denoiser``; by default the general one that comes with the package.
        seed: decides the noise, together with the ids.
        sigma: noise level t* as a standard deviation on the [0, 1] scale (32 / 255); the preset's by default.
        steps: network evaluations; the preset's by default.
        sampler: a name in ``samplers.SAMPLERS``; the preset's by default.
        device: ``cpu``, ``cuda`` (not in workers that are forked) or ``auto``; across kinds of device bytes differ.
        cache: a folder for the results, for all processes and runs on this machine; None keeps them in memory.
        cache_mib: what the results may take; what is more is purified each time. 0 keeps none.
        image_key: of the images in a mapping; by default ``image`` or another usual name.
        id_key: of the ids in a mapping, where it has them.

    Raises:
        EclipseError: a level that the denoiser was not made for, settings that do not go together, a cache that cannot
            be used.
    """

    def __init__(
        self,
        denoiser: Denoiser | None = None,
        *,
        seed: int = 0,
        sigma: float | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        device: str = "cpu",
        cache: str | Path | None = None,
        cache_mib: float = 1024,
        image_key: str | None = None,
        id_key: str = "__key__",
    ) -> None:
        denoiser = load_denoiser() if denoiser is None else denoiser
        check_denoiser(denoiser)
        if not cache_mib >= 0:
            raise EclipseError(f"cache_mib {cache_mib}; expected 0 or more")
        where = resolve_device(device)
        self.seed, self.image_key, self.id_key, self.cache, self.cache_mib = seed, image_key, id_key, cache, cache_mib
        self.how = purification(preset_of(denoiser.config), denoiser.config, sigma=sigma, steps=steps, sampler=sampler)
        self._ready = prepare(denoiser, where)
        most = int(cache_mib * 2**20)
        self._kept: Cache = FolderCache(cache, most) if cache is not None and most else MemoryCache(most)
        decides = {
            **self.how.numbers(),
            "seed": seed,
            "denoiser": fingerprint_denoiser(denoiser),
            "schedule": repr(denoiser.config.schedule),
            "device": torch.device(where).type,
            "precision": str(compute_dtype(where)[0]),
        }
        self._decides = json.dumps(decides, sort_keys=True)

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name}={value!r}" for name, value in self.how.numbers().items())
        return f"Purify(seed={self.seed}, {numbers}, cache={self.cache!r})"

    def __call__(self, *sample: Any, id: Any = None, **named: Any) -> Any:
        """Purify an image, a batch, or the images of a sample.

        Args:
            sample: a tensor (B, C, H, W) or (C, H, W), C = 3 or 1, uint8 or float in [0, 1], which is rounded to 8
                bits, also a tv_tensor; an array with the channels last, (H, W), (H, W, C) or (B, H, W, C); a PIL
                image, RGB or L; a list of these; a tuple or list that begins with images, such as (image, label); or
                a mapping, in which they are found by ``image_key`` or the usual names; several arguments are one
                sample.
            id: what identifies the image in its set, such as its row number or path; a sequence of these for several.
                By default that of the mapping, or else a digest of the pixels.
            named: the sample in named arguments instead, ``image=...``, as Albumentations calls its transforms.

        Returns:
            The same kind, shape and type, a mapping as a dict.

        Raises:
            EclipseError: another kind, shape or type, floats out of range, a size that the denoiser does not take, no
                image in a mapping, another number of ids than of images.
        """
        return self.together([called_with(sample, named)], [id])[0]

    def together(self, samples: Sequence[Any], ids: Sequence[Any]) -> list[Any]:
        """Purify samples at once, which is faster for images below 128 pixels; arguments and errors as of a call.

        Args:
            samples: any number.
            ids: one for each sample.
        """
        parts = [self._opened(sample, id) for sample, id in zip(samples, ids, strict=True)]
        new = iter(
            self._purified([image for part in parts for image in part.stored], [n for p in parts for n in p.ids])
        )
        return [part.back([next(new) for _ in part.stored]) for part in parts]

    def dataset(
        self,
        data: Any,
        transform: Callable[[Any], Any] | None = None,
        *,
        ids: Sequence[str] | None = None,
    ) -> "PurifiedDataset":
        """The samples of a map-style data set, purified when they are asked for.

        Args:
            data: with ``len(data)`` and ``data[i]``, a sample as in a call. Its own transforms come before the
                purification, so they must not be random.
            transform: of the image of each sample, after the purification: the place for what is random.
            ids: one for each sample; by default the row numbers, as ``eclipse.purify`` has them.

        Raises:
            EclipseError: a data set without rows, another number of ids.
        """
        return PurifiedDataset(self, data, transform, ids)

    def _opened(self, sample: Any, id: Any) -> "_Part":
        images, back = images_of(sample, self.image_key)
        if id is None and isinstance(sample, Mapping):
            id = sample.get(self.id_key)
        several = isinstance(images, list)
        found = [_stored(image) for image in (images if several else [images])]
        stored = [image for part, _ in found for image in part]
        ids = _names(id, stored)

        def put(new: list[Stored]) -> Any:
            rest = iter(new)
            made = [restored(np.stack([next(rest) for _ in part])) for part, restored in found]
            return back(made if several else made[0])

        return _Part(stored, ids, put)

    def _purified(self, images: list[Stored], ids: list[str]) -> list[Stored]:
        keys = [self._key(image, id) for image, id in zip(images, ids, strict=True)]
        done = self._kept.get(keys)
        missing = {key: i for i, key in enumerate(keys) if key not in done}
        by_shape: dict[tuple[int, ...], list[str]] = {}
        for key, i in missing.items():
            self._ready.config.check_size(*images[i].shape[1:])
            by_shape.setdefault(images[i].shape, []).append(key)
        made: dict[str, Stored] = {}
        for members in by_shape.values():
            rows = [missing[key] for key in members]
            stack, names = np.stack([images[i] for i in rows]), [ids[i] for i in rows]
            for span, part in purified_parts(stack, names, self._ready, self.how, self.seed):
                made.update(zip(members[span], part, strict=True))
        self._kept.put(made)
        done |= made
        return [done[key] for key in keys]

    def _key(self, image: Stored, id: str) -> str:
        """All that decides the bytes of a result."""
        digest = hashlib.sha256(json.dumps([self._decides, id, image.shape]).encode())
        digest.update(np.ascontiguousarray(image).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class _Part:
    """The images of a sample, (C, H, W) each, their ids, and what puts others in their place."""

    stored: list[Stored]
    ids: list[str]
    back: Callable[[list[Stored]], Any]


def _stored(image: Any) -> tuple[Stored, Callable[[Stored], Any]]:
    """An image or batch as uint8, (B, C, H, W), and what makes the same kind of others."""
    x, back = opened(image)
    pixels = x if x.dtype == torch.uint8 else quantize(x.float())
    stored: Stored = pixels.reshape(-1, *x.shape[-3:]).cpu().numpy()

    def restored(new: Stored) -> Any:
        y: Tensor = torch.from_numpy(new).to(x.device).reshape(x.shape)
        return back(y if x.dtype == torch.uint8 else to_unit(y).to(x.dtype))

    return stored, restored


def _names(id: Any, images: list[Stored]) -> list[str]:
    """The ids of images as text; without any, digests of their pixels."""
    if id is None:
        return [hashlib.sha256(repr(i.shape).encode() + np.ascontiguousarray(i).tobytes()).hexdigest() for i in images]
    id = id.tolist() if isinstance(id, Tensor | np.ndarray | np.generic) else id
    ids = list(id) if isinstance(id, Sequence) and not isinstance(id, str) else [id]
    if len(ids) != len(images):
        raise EclipseError(f"{len(ids)} ids for {len(images)} images; expected one id per image")
    if not all(isinstance(one, str | int) for one in ids):
        raise EclipseError(f"the id {ids[0]!r} of a {type(ids[0]).__name__}; expected text or a whole number")
    return [str(one) for one in ids]


class PurifiedDataset(Dataset[Any]):
    """The samples of a data set, purified: see ``Purify.dataset``; for a DataLoader, which gets them in batches."""

    def __init__(
        self, purify: Purify, data: Any, transform: Callable[[Any], Any] | None, ids: Sequence[str] | None
    ) -> None:
        if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
            raise EclipseError(
                f"a {type(data).__name__} has no rows by number; expected len(data) and data[i]: use data.map(purify)"
            )
        if ids is not None and len(ids) != len(data):
            raise EclipseError(f"{len(ids)} ids for {len(data)} samples; expected one id per sample")
        self.purify, self.data, self.transform, self.ids = purify, data, transform, ids

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Several samples, purified together."""
        rows = [range(len(self))[int(index)] for index in indices]
        ids = rows if self.ids is None else [self.ids[row] for row in rows]
        return [self._transformed(s) for s in self.purify.together([self.data[row] for row in rows], ids)]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def _transformed(self, sample: Any) -> Any:
        if self.transform is None:
            return sample
        image, back = images_of(sample, self.purify.image_key)
        return back(self.transform(image))
