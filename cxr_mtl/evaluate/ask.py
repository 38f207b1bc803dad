"""Films read and admitted, and a predictor asked for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

from cxr_mtl.bundle import Bundle
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.read import read_image
from cxr_mtl.errors import ImageError
from cxr_mtl.predict.admit import Admitted, admit_film
from cxr_mtl.predict.predictor import Looked
from cxr_mtl.types import Answer, Radiograph

READERS = 2  # threads that decode the next films while the model looks at these


class Answerer(Protocol):
    """What evaluation needs of a predictor."""

    bundle: Bundle

    def answer(self, films: Sequence[Radiograph]) -> list[Answer]: ...


@runtime_checkable
class Looker(Protocol):
    """One that takes films as they were admitted, and says how unlike they are; ``predict.LocalPredictor`` does."""

    bundle: Bundle

    def look(self, films: Sequence[Admitted]) -> Looked: ...


def read(bundle: Bundle, films: Manifest, batch_size: int) -> Iterator[list[tuple[int, Admitted | ImageError]]]:
    """Batches in order, each being decoded while the one before it is looked at."""

    def one(row: int) -> tuple[int, Admitted | ImageError]:
        try:
            return row, admit_film(bundle, read_image(films.path(row)), films.path(row))
        except ImageError as error:
            return row, error

    with ThreadPoolExecutor(READERS) as pool:
        ahead = [pool.submit(one, row) for row in range(min(batch_size, len(films)))]
        for start in range(0, len(films), batch_size):
            batch = [task.result() for task in ahead]
            following = range(start + batch_size, min(start + 2 * batch_size, len(films)))
            ahead = [pool.submit(one, row) for row in following]
            yield batch


def ask(predictor: Answerer | Looker, films: Sequence[Admitted]) -> tuple[list[Answer], list[float]]:
    """Answers, and how unlike each film is; nan where the predictor does not say."""
    if isinstance(predictor, Looker):
        looked = predictor.look(films)
        return looked.answers, looked.novelty.tolist()
    return predictor.answer([seen.film for seen in films]), [float("nan")] * len(films)
