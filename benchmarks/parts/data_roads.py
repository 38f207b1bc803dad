"""The roads of benchmarks/data.py: how films get from disk to the network, ours and others'."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2

from cxr_mtl.config import AugmentConfig
from cxr_mtl.data.augment import augment, draw
from cxr_mtl.data.change import change_on_device
from cxr_mtl.data.manifest import Manifest, make_manifest
from cxr_mtl.data.pack import make_pack
from cxr_mtl.data.read import read_image
from cxr_mtl.data.transforms import to_input
from cxr_mtl.model.multitask import normalise
from cxr_mtl.ontology import load_ontology
from cxr_mtl.types import Batch, Record

BATCH, PACKED = 64, 512
CONFIG = AugmentConfig()


@dataclass
class Road:
    """One way to get films; ``run(n)`` takes n of them all the way."""

    group: str
    name: str
    side: int
    run: Callable[[int], object]
    step: int = 1
    wall: bool = False
    rates: list[float] = field(default_factory=list)

    def measure(self, seconds: float) -> None:
        clock = time.perf_counter if self.wall else time.process_time
        if not self.rates:
            self.num, self.rates = self.step, []
            for _ in range(2):  # the first warms up
                started = clock()
                self.run(self.step)
                spent = max(clock() - started, 1e-6)
            self.num = self.step * max(1, min(4096, round(seconds / spent)))
        started = clock()
        self.run(self.num)
        self.rates.append(self.num / (clock() - started))

    @property
    def row(self) -> dict[str, Any]:
        low, _, high = quantiles(self.rates, n=4)
        name = f"{self.name}, {self.side} px"
        return {"name": name, "metric": self.group, "value": self.rate, "unit": "films/s", "low": low, "high": high}

    @property
    def rate(self) -> float:
        return median(self.rates)


def make_roads(sources: dict[str, list[Path]], side: int, scratch: Path) -> Iterator[Road]:
    scratch.mkdir()
    moves = augmentations(side)
    for source, files in sources.items():
        decode = decoders(side)
        for name, read in decode.items():
            yield Road(f"{source}: decode and resize", name, side, cycle(files, read))
        yield Road(
            f"{source}: decode and resize", "MONAI PersistentDataset, hit", side, persistent(files, side, scratch)
        )
        for reader, mover in (
            ("PIL", "torchvision v2"),
            ("torchvision.io", "torchvision v2"),
            ("OpenCV", "OpenCV"),
            ("torchvision.io, OpenCV resize", "OpenCV"),
            ("MONAI", "MONAI"),
        ):
            whole = cycle(files, lambda file, r=decode[reader], m=moves[mover]: m(r(file)))
            yield Road(per_film(source), f"{reader} + {mover}", side, whole)
        few = manifest_of(files[:PACKED])
        for workers in (1, 2):
            yield packing(source, few, side, workers, scratch)
    files = list(sources.values())[-1][:PACKED]  # once they are packed, what they were does not matter
    manifest = manifest_of(files)
    pack = make_pack(manifest, side, scratch / "pack")
    one = pack.films(np.array([0]))[0]
    for name, move in moves.items():
        yield Road("augmentation alone, film by film", name, side, lambda n, m=move: [m(one) for _ in range(n)])
    order = np.random.default_rng(0).permutation(len(files))

    def batch(start: int) -> Batch:
        rows = order[np.arange(start, start + BATCH) % len(order)]
        films = torch.from_numpy(pack.films(rows))[:, None]
        none = [torch.zeros(0, 4)] * BATCH, [torch.zeros(0, dtype=torch.int64)] * BATCH
        flags = torch.zeros(BATCH, dtype=torch.bool)
        index = torch.from_numpy(rows)
        return Batch(films, torch.zeros(BATCH, 15), *none, flags, flags[:, None], index, index, index)

    def batches(work: Callable[[Batch], object]) -> Callable[[int], object]:
        return lambda n: [work(batch(start)) for start in range(0, n, BATCH)]

    def ours(b: Batch) -> torch.Tensor:
        return augment(b, CONFIG, seed=0, epoch=0).images

    def theirs(b: Batch) -> torch.Tensor:
        return change_on_device(b.images, draw(b.index.numpy(), CONFIG, seed=0, epoch=0, side=side))

    kind = f"batches of {BATCH} from a pack"
    yield Road(kind, "reading", side, batches(lambda b: b), BATCH)
    yield Road(kind, "reading + augmentation", side, batches(ours), BATCH)
    yield Road(kind, "reading + augmentation, as float32", side, batches(lambda b: normalise(ours(b))), BATCH)
    yield Road(kind, "reading + augmentation, the GPU's road on a CPU", side, batches(theirs), BATCH)
    if torch.cuda.is_available():

        def on_gpu(b: Batch) -> None:
            augment(b, CONFIG, seed=0, epoch=0, device=torch.device("cuda"))
            torch.cuda.synchronize()

        yield Road(kind, "reading + augmentation on the GPU", side, batches(on_gpu), BATCH, wall=True)
    yield from shards(pack.films(np.arange(len(files))), side, scratch)


def decoders(side: int) -> dict[str, Callable[[Path], Any]]:
    """Each gives (S, S) of one file; only ours keeps the aspect, the others stretch a film that is not square."""
    import monai.transforms as mt
    from monai.data import PILReader, set_track_meta

    set_track_meta(False)
    reader = PILReader(reverse_indexing=False, converter=lambda image: image.convert("L"))
    monai = mt.Compose(
        [
            mt.LoadImage(reader, image_only=True),
            mt.EnsureChannelFirst(channel_dim="no_channel"),
            mt.Resize((side, side), anti_aliasing=True),
        ]
    )
    bilinear = Image.Resampling.BILINEAR

    def from_torchvision(file: Path) -> torch.Tensor:
        return decode_image(read_file(str(file)), ImageReadMode.GRAY)

    def resized(film: torch.Tensor) -> np.ndarray:
        return F.interpolate(film[None], (side, side), mode="bilinear", antialias=True)[0, 0].numpy()

    def shrunk(film: np.ndarray) -> np.ndarray:
        return cv2.resize(film, (side, side), interpolation=cv2.INTER_AREA)

    return {
        "PIL": lambda file: np.asarray(Image.open(file).convert("L").resize((side, side), bilinear)),
        "torchvision.io": lambda file: resized(from_torchvision(file)),
        "torchvision.io, OpenCV resize": lambda file: shrunk(from_torchvision(file)[0].numpy()),
        "OpenCV": lambda file: shrunk(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)),
        "MONAI": lambda file: np.asarray(monai(str(file)))[0],
        "ours (read_image, to_input)": lambda file: to_input(read_image(file).pixels, side)[0],
    }


def augmentations(side: int) -> dict[str, Callable[[Any], Any]]:
    """The same kind of change for one film, (S, S) uint8, by each library's own parts."""
    import monai.transforms as mt

    turn, grow, shift = np.deg2rad(CONFIG.rotate), CONFIG.scale, CONFIG.shift
    monai = mt.Compose(
        [
            mt.ScaleIntensityRange(0, 255, 0, 1),
            mt.RandAffine(1.0, turn, None, shift * side, grow, mode="bilinear", padding_mode="zeros"),
            mt.RandScaleIntensityFixedMean(1.0, CONFIG.contrast),
            mt.RandShiftIntensity(CONFIG.brightness, prob=1.0),
            mt.RandAdjustContrast(1.0, (1 / (1 + CONFIG.gamma), 1 + CONFIG.gamma)),
            mt.RandGaussianNoise(1.0, std=CONFIG.noise),
        ]
    )
    bilinear = v2.InterpolationMode.BILINEAR
    vision = v2.Compose(
        [
            v2.RandomAffine(CONFIG.rotate, (shift, shift), (1 - grow, 1 + grow), interpolation=bilinear),
            v2.ToDtype(torch.float32, scale=True),
            v2.ColorJitter(CONFIG.brightness, CONFIG.contrast),
            v2.GaussianNoise(0.0, CONFIG.noise),
        ]
    )
    rng, noise, levels = np.random.default_rng(0), np.empty((side, side), np.int16), np.arange(256)

    def opencv(film: np.ndarray) -> np.ndarray:
        a = rng.uniform(-1, 1, 7)
        matrix = cv2.getRotationMatrix2D((side / 2, side / 2), a[0] * CONFIG.rotate, 1 + a[1] * grow)
        matrix[:, 2] += a[2:4] * shift * side
        moved = cv2.warpAffine(film, matrix, (side, side), flags=cv2.INTER_LINEAR)
        exposed = (levels - 128) * (1 + a[4] * CONFIG.contrast) + 128 + a[5] * CONFIG.brightness * 255
        table = 255 * np.clip(exposed / 255, 0, 1) ** (1 + a[6] * CONFIG.gamma)
        cv2.randn(noise, 0, CONFIG.noise * 255)
        return cv2.add(cv2.LUT(moved, table.astype(np.uint8)), noise, dtype=cv2.CV_8U)

    return {
        "MONAI": lambda film: monai(torch.tensor(film)[None]),
        "torchvision v2": lambda film: vision(torch.tensor(film)[None]),
        "OpenCV": lambda film: opencv(np.asarray(film)),
    }


def persistent(files: list[Path], side: int, scratch: Path) -> Callable[[int], object]:
    import monai.transforms as mt
    from monai.data import PersistentDataset

    read = decoders(side)["OpenCV"]
    keep = mt.Lambda(lambda file: torch.from_numpy(read(Path(file)))[None])
    dataset = PersistentDataset([str(f) for f in files[:64]], keep, cache_dir=scratch / f"cache{len(files)}")
    for item in range(len(dataset)):
        dataset[item]
    return lambda n: [dataset[i % len(dataset)] for i in range(n)]


def packing(source: str, manifest: Manifest, side: int, workers: int, scratch: Path) -> Road:
    folders = iter(range(10**9))

    def run(n: int) -> None:
        for _ in range(n // len(manifest)):
            make_pack(manifest, side, scratch / f"{source[:4]}_{workers}_{next(folders)}", workers=workers)

    name = f"{workers} worker{'s' * (workers > 1)}"
    return Road(f"{source}: writing a pack, by the clock", name, side, run, len(manifest), wall=True)


def shards(films: np.ndarray, side: int, scratch: Path) -> Iterator[Road]:
    """The same films from the shard libraries that are installed."""
    if version_of("webdataset"):
        import webdataset as wds

        with wds.TarWriter(str(scratch / "films.tar")) as sink:
            for i, film in enumerate(films):
                sink.write({"__key__": f"{i:06d}", "npy": film})

        def sequential(n: int) -> None:
            tar = wds.WebDataset(str(scratch / "films.tar"), shardshuffle=False).decode().repeat()
            for _, _film in zip(range(n), tar, strict=False):
                pass

        yield Road("other stores", "webdataset, in its own order", side, sequential, BATCH)
    if version_of("litdata"):
        yield from _litdata(films, side, scratch / "litdata")


def _litdata(films: np.ndarray, side: int, store: Path) -> Iterator[Road]:
    from litdata import StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(store), chunk_bytes="64MB")
    for i, film in enumerate(films):
        writer.add_item(i, film)
    writer.done()
    writer.merge(1)
    dataset = StreamingDataset(str(store), shuffle=False)
    order = np.random.default_rng(0).permutation(len(films)).tolist()
    for name, rows in (("litdata, any order", order), ("litdata, in its own order", sorted(order))):
        yield Road("other stores", name, side, lambda n, r=rows: [dataset[r[i % len(r)]] for i in range(n)], BATCH)


def manifest_of(files: list[Path]) -> Manifest:
    records = [
        Record(image_path=f.name, image_id=f.stem, patient_id=f.stem, study_id=f.stem, dataset="nih") for f in files
    ]
    return make_manifest(records, files[0].parent, load_ontology("nih14"), {})


def cycle(files: list[Path], work: Callable[[Path], object]) -> Callable[[int], object]:
    place = iter(range(10**12))
    return lambda n: [work(files[next(place) % len(files)]) for _ in range(n)]


def per_film(source: str) -> str:
    return f"{source}: decode, resize, augment"


def version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
