"""Films in, arrays out: what readers stated and what the model answered, row for row.

N films that were answered, C findings of the model's ontology, D findings that the model has boxes for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cxr_mtl.bundle import Bundle
from cxr_mtl.config import LabelsConfig
from cxr_mtl.data.geometry import rescale_boxes
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.policy import measured_labels
from cxr_mtl.errors import DataError, ImageError
from cxr_mtl.evaluate.ask import Answerer, Looker, ask, read
from cxr_mtl.metrics.localize import Boxes, Flags, askable, make_boxes, median_sizes
from cxr_mtl.predict.admit import Admitted
from cxr_mtl.types import Answer

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Unread:
    """A film that could not be read, or that the bundle's gate refused, and why.

    ``present``: the findings that it is stated to show.
    """

    image_id: str
    code: str
    message: str
    present: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, str]:
        return {"image_id": self.image_id, "code": self.code, "message": self.message}


@dataclass(frozen=True)
class Answered:
    """A split, as stated and as answered.

    Attributes:
        manifest: the N films that were answered.
        presence: (N, C) 1 present, 0 absent, nan unknown or uncertain; agrees with the tree.
        probability: (N, C) of the findings head; nan where never trained.
        hierarchy: (N, C) of the tree.
        conditional: (N, C) of the tree, given that all parents are present.
        novelty: (N,) how unlike each is to the films learned from; nan where nobody says.
        frames: (N, 2) width and height of the frame that all boxes of a film are in.
        annotated: boxes that readers drew, of the D findings.
        proposed: boxes of the model.
        asked: (N, D) where a proposed box can be called right or wrong.
        box_sizes: (D, 2) usual width and height of a finding's box as shares of the frame; nan where unknown.
        box_sizes_from: the split that the sizes are from.
        unread: the films that were not answered.
    """

    manifest: Manifest
    presence: Floats
    probability: Floats
    hierarchy: Floats
    conditional: Floats
    novelty: Floats
    frames: Floats
    annotated: Boxes
    proposed: Boxes
    asked: Flags
    box_sizes: Floats
    box_sizes_from: str
    unread: tuple[Unread, ...]

    def located(self, findings: Sequence[int]) -> Answered:
        """The same with the boxes of some of the D findings alone, counted anew in the order given."""
        columns = np.asarray(findings, np.intp)
        place = _places(columns, self.asked.shape[1])

        def own(boxes: Boxes) -> Boxes:
            kept = boxes.keep(place[boxes.finding] >= 0)
            return Boxes(kept.film, place[kept.finding], kept.xyxy, kept.score)

        return replace(
            self,
            annotated=own(self.annotated),
            proposed=own(self.proposed),
            asked=self.asked[:, columns],
            box_sizes=self.box_sizes[columns],
        )

    def only(self, films: NDArray[np.intp]) -> Answered:
        """The same with some of the N films alone, counted anew in the order given."""
        place = _places(films, len(self.manifest))

        def own(boxes: Boxes) -> Boxes:
            kept = boxes.keep(place[boxes.film] >= 0)
            return Boxes(place[kept.film], kept.finding, kept.xyxy, kept.score)

        return replace(
            self,
            manifest=replace(self.manifest, table=self.manifest.table.iloc[films].reset_index(drop=True)),
            presence=self.presence[films],
            probability=self.probability[films],
            hierarchy=self.hierarchy[films],
            conditional=self.conditional[films],
            novelty=self.novelty[films],
            frames=self.frames[films],
            annotated=own(self.annotated),
            proposed=own(self.proposed),
            asked=self.asked[films],
        )


def collect(
    predictor: Answerer | Looker, manifest: Manifest, split: str, *, batch_size: int, progress: bool
) -> Answered:
    """Read every film of a split and ask the model.

    Args:
        manifest: all films; those of ``train`` only say how large boxes usually are.
        split: the films to ask for.
        batch_size: films asked for at once.
        progress: whether to show a bar.

    Raises:
        DataError: the split is empty, no film of it can be read, or it shares no finding with the model.
    """
    films = manifest.where(split=split)
    if not len(films):
        counts = manifest.table["split"].fillna("none").value_counts()
        held = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(f"No film of the manifest is in split {split!r}.", hint=f"It has: {held}.")
    ontology = predictor.bundle.ontology
    if not set(ontology.names) & set(films.ontology.names):
        what = f"The model's ontology {ontology.name!r} and the manifest's {films.ontology.name!r} share no finding."
        raise DataError(what, hint="Import the dataset with the model's ontology.")
    rows: list[int] = []
    sizes: list[tuple[int, int]] = []
    answers: list[Answer] = []
    novelty: list[float] = []
    refused: dict[int, ImageError] = {}
    with tqdm(total=len(films), desc=f"evaluate {split}", unit="film", disable=None if progress else True) as bar:
        for batch in read(predictor.bundle, films, batch_size):
            good = {row: seen for row, seen in batch if isinstance(seen, Admitted)}
            refused |= {row: error for row, error in batch if isinstance(error, ImageError)}
            if good:
                said, unlike = ask(predictor, list(good.values()))
                answers += said
                novelty += unlike
                rows += good
                sizes += [(seen.film.width, seen.film.height) for seen in good.values()]
            bar.update(len(batch))
    if not rows:
        first = next(iter(refused.values()))
        raise DataError(f"None of the {len(films)} films of split {split!r} can be judged; first: {first.message}")
    answered = _align(predictor.bundle, _only(films, rows), manifest, sizes, answers)
    return replace(answered, novelty=np.array(novelty, np.float64), unread=_unread(predictor.bundle, films, refused))


def _only(films: Manifest, rows: Sequence[int]) -> Manifest:
    return replace(films, table=films.table.iloc[list(rows)].reset_index(drop=True))


def _places(kept: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """(size,) where each row goes when only ``kept`` stay; -1 for the others."""
    place = np.full(size, -1, np.intp)
    place[kept] = np.arange(len(kept))
    return place


def _unread(bundle: Bundle, films: Manifest, refused: Mapping[int, ImageError]) -> tuple[Unread, ...]:
    if not refused:
        return ()
    stated = stated_presence(bundle, _only(films, list(refused))) == 1
    return tuple(
        Unread(
            str(films.table["image_id"].iat[row]),
            error.code,
            error.message,
            tuple(name for name, present in zip(bundle.ontology.names, shown, strict=True) if present),
        )
        for (row, error), shown in zip(refused.items(), stated, strict=True)
    )


def _align(
    bundle: Bundle,
    read: Manifest,
    whole: Manifest,
    sizes: Sequence[tuple[int, int]],
    answers: Sequence[Answer],
) -> Answered:
    """Put labels and boxes of the manifest beside the answers, in the model's findings and the manifest's frames."""
    stated, frames = read.frames, np.array(sizes, np.float64)
    frames = np.where(np.isnan(stated), frames, stated)
    presence = stated_presence(bundle, read)
    order = {name: d for d, name in enumerate(bundle.located)}
    annotated = _annotated(read, order)
    columns = [bundle.ontology.index(name) for name in bundle.located]
    box_sizes, source = _usual_sizes(whole, order, annotated, frames)
    return Answered(
        manifest=read,
        presence=presence,
        probability=np.array([a.finding_probability for a in answers], np.float64),
        hierarchy=np.array([a.hierarchy_probability for a in answers], np.float64),
        conditional=np.array([a.hierarchy_conditional for a in answers], np.float64),
        frames=frames,
        annotated=annotated,
        proposed=_proposed(answers, order, sizes, frames),
        asked=askable(presence[:, columns], annotated, read.boxed_exhaustively(bundle.located)),
        box_sizes=box_sizes,
        box_sizes_from=source,
        novelty=np.full(len(read), np.nan),
        unread=(),
    )


def stated_presence(bundle: Bundle, manifest: Manifest) -> Floats:
    """(N, C) labels in the model's order: uncertain unknown, blanks of the run's own datasets as it read them."""
    policy, own = label_policy(bundle)
    return measured_labels(manifest.expressed_in(bundle.ontology), policy, own).astype(np.float64)


def label_policy(bundle: Bundle) -> tuple[LabelsConfig, frozenset[str]]:
    """How the bundle's run read uncertain and blank labels, and the datasets whose blanks it read so."""
    policy = LabelsConfig.model_validate(bundle.description.config.get("data", {}).get("labels", {}))
    return policy, bundle.description.learned_datasets


def _annotated(manifest: Manifest, order: dict[str, int]) -> Boxes:
    return make_boxes(
        (film, order[box.finding], box.xyxy, 1.0)
        for film in range(len(manifest))
        for box in manifest.boxes(film)
        if box.finding in order
    )


def _proposed(
    answers: Sequence[Answer], order: dict[str, int], sizes: Sequence[tuple[int, int]], frames: Floats
) -> Boxes:
    """The model's boxes, moved from the file's pixels to the frame that the readers' boxes are in."""
    rows = []
    for film, answer in enumerate(answers):
        width, height = (int(side) for side in frames[film])
        moved = rescale_boxes([box.xyxy for box in answer.boxes], sizes[film], (width, height))
        rows += [(film, order[b.finding], xyxy, b.score) for b, xyxy in zip(answer.boxes, moved, strict=True)]
    return make_boxes(rows)


def _usual_sizes(whole: Manifest, order: dict[str, int], annotated: Boxes, frames: Floats) -> tuple[Floats, str]:
    """Median box of each finding on training films; of the evaluated films where training films have none."""
    train = whole.where(split="train")
    known = train.frames
    boxes = _annotated(train, order)
    boxes = boxes.keep(np.flatnonzero(~np.isnan(known[boxes.film]).any(axis=1)))
    own, usual = median_sizes(annotated, frames, len(order)), median_sizes(boxes, known, len(order))
    borrowed = np.isnan(usual) & ~np.isnan(own)
    return np.where(np.isnan(usual), own, usual), "train, else evaluated" if borrowed.any() else "train"
