"""The same few rows in every layout, and the bytes of an output."""

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from eclipse.data.picture import Pixels

N = 13


NAMES = ("ant", "bee", "cow")


def image_of(i: int) -> Pixels:
    """A different image for each row, (32, 32, 3)."""
    return np.random.default_rng(i).integers(0, 200, (32, 32, 3), dtype=np.uint8)


def png_of(i: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_of(i)).save(buffer, "PNG")
    return buffer.getvalue()


def arrow_table(n: int = N, names: bool = True) -> pa.Table:
    images = [{"bytes": png_of(i), "path": f"photos.d/{i}.jpeg"} for i in range(n)]
    table = pa.table(
        {
            "caption": pa.array([f"no {i}" for i in range(n)]).dictionary_encode(),
            "image": pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
            "label": [i % 3 for i in range(n)],
            "boxes": [[i, i + 1] for i in range(n)],
        }
    )
    features = {"image": {"_type": "Image"}, "label": {"names": list(NAMES), "_type": "ClassLabel"}}
    return table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}}), "mine": "kept"} if names else None
    )


def put(root: Path, files: dict[str, bytes]) -> Path:
    """Write files below a folder."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def pack(path: Path, members: dict[str, bytes]) -> Path:
    """Write a tar of these members."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def old_string(data: bytes) -> bytes:
    return b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + len(data).to_bytes(4, "little") + data


def old_batch(rows: range, label_key: bytes = b"labels") -> bytes:
    """A batch as Python 2 pickled it: the instructions of the published CIFAR files."""
    pixels = b"".join(image_of(i).transpose(2, 0, 1).tobytes() for i in rows)
    count = b"K" + bytes([len(rows)])
    return (
        b"\x80\x02}q\x01(" + old_string(b"batch_label") + b"q\x02" + old_string(b"training batch 1 of 5") + b"q\x03"
        + old_string(label_key) + b"q\x04]q\x05(" + b"".join(b"K" + bytes([i % 3]) for i in rows) + b"e"
        + old_string(b"data") + b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85"
        + b"U\x01b\x87Rq\t(K\x01" + count + b"M\x00\x0c\x86cnumpy\ndtype\nq\nU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNN"
        + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + old_string(pixels) + b"tb"
        + old_string(b"filenames") + b"q\x0c]q\r(" + b"".join(old_string(b"img_%d.png" % i) for i in rows) + b"eu."
    )  # fmt: skip


def make_folder(root: Path) -> Path:
    for i in range(N):
        path = root / NAMES[i % 3] / ("deep" if i % 2 else "") / f"{i:02d}.x.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png_of(i))
    (root / "metadata.jsonl").write_text("{}\n")
    (root / "bee" / "00.txt").write_text("a caption")
    (root / ".hidden.png").write_text("not an image")
    return root


def make_parquet(root: Path) -> Path:
    pq.write_table(arrow_table(), root.with_suffix(".parquet"), row_group_size=5)
    return root.with_suffix(".parquet")


def make_parquet_folder(root: Path) -> Path:
    root.mkdir()
    pq.write_table(arrow_table().slice(0, 6), root / "train-0.parquet")
    pq.write_table(arrow_table().slice(6), root / "train-1.parquet")
    (root / "README.md").write_text("read me")
    return root


def make_arrow(root: Path) -> Path:
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=list(NAMES)), caption=datasets.Value("string")
    )
    columns = {
        "image": [{"bytes": png_of(i), "path": None} for i in range(N)],
        "label": [i % 3 for i in range(N)],
        "caption": [f"no {i}" for i in range(N)],
    }
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(root), num_shards=2)
    return root


def make_shards(root: Path) -> Path:
    root.mkdir()
    for shard, rows in enumerate((range(0, 7), range(7, N))):
        with tarfile.open(root / f"s-{shard:03d}.tar", "w", format=tarfile.GNU_FORMAT) as tar:
            for i in rows:
                parts = {"txt": f"no {i}".encode(), "jpg": png_of(i), "mask.png": b"a mask", "cls": str(i % 3).encode()}
                for ending, data in parts.items():
                    member = tarfile.TarInfo(f"part/{i:03d}.{ending}")
                    member.size, member.mtime = len(data), 1_600_000_000 + i
                    tar.addfile(member, io.BytesIO(data))
    return root


def make_shard_range(root: Path) -> Path:
    return make_shards(root) / "s-{000..001}.tar"


def make_one_shard(root: Path) -> Path:
    make_shards(root)
    with tarfile.open(root.with_suffix(".tar"), "w") as out:
        for shard in sorted(root.iterdir()):
            with tarfile.open(shard) as tar:
                for member in tar:
                    out.addfile(member, tar.extractfile(member))
    return root.with_suffix(".tar")


def make_npz(root: Path) -> Path:
    images = np.stack([image_of(i) for i in range(N)])
    np.savez_compressed(
        root.with_suffix(".npz"),
        labels=np.arange(N) % 3,
        images=images,
        index=np.arange(N),
        class_names=np.array(NAMES),
    )
    return root.with_suffix(".npz")


def make_npz_planes(root: Path) -> Path:
    images = np.stack([image_of(i).transpose(2, 0, 1) for i in range(N)])
    np.savez(root.with_suffix(".npz"), labels=np.arange(N) % 3, images=images)
    return root.with_suffix(".npz")


def make_cifar(root: Path) -> Path:
    root.mkdir()
    (root / "data_batch_1").write_bytes(old_batch(range(0, 6)))
    (root / "data_batch_2").write_bytes(old_batch(range(6, N)))
    (root / "test_batch").write_bytes(old_batch(range(3)))
    (root / "batches.meta").write_bytes(pickle.dumps({"label_names": list(NAMES), "num_vis": 3072}, 2))
    return root


def make_new_cifar(root: Path, protocol: int = 4, order: str = "C") -> Path:
    pixels = np.stack([image_of(i).transpose(2, 0, 1).reshape(-1) for i in range(N)])
    entries = {
        b"fine_labels": [i % 3 for i in range(N)],
        b"data": np.asarray(pixels, order=order),
        b"coarse": ["x"] * N,
    }
    root.write_bytes(pickle.dumps(entries, protocol))
    return root


def make_old_protocol_cifar(root: Path) -> Path:
    return make_new_cifar(root, protocol=2)


def make_fortran_cifar(root: Path) -> Path:
    return make_new_cifar(root, protocol=5, order="F")


def make_eclipse(root: Path, protocol: int = 3) -> Path:
    root.with_suffix(".pkl").write_bytes(pickle.dumps([(image_of(i).tobytes(), i % 3) for i in range(N)], protocol))
    return root.with_suffix(".pkl")


def make_old_eclipse(root: Path) -> Path:
    return make_eclipse(root, protocol=2)


def make_framed_eclipse(root: Path) -> Path:
    return make_eclipse(root, protocol=5)


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    name.removeprefix("make_"): make for name, make in sorted(globals().items()) if name.startswith("make_")
}


def tree_bytes(root: Path) -> dict[str, bytes]:
    if root.is_file():
        return {"": root.read_bytes()}
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
