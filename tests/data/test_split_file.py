"""A split leaves and comes back as a file, with the seed and the hash that tell it from others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_mtl.data.manifest import Manifest, make_manifest
from cxr_mtl.data.split import split_by_patient, split_hash
from cxr_mtl.data.split_file import read_split, split_text, take_split
from cxr_mtl.errors import DataError
from cxr_mtl.ontology import load_ontology
from cxr_mtl.types import Record

SHARES = {"train": 0.7, "test": 0.3}


@pytest.fixture
def manifest() -> Manifest:
    rng = np.random.default_rng(0)
    films = [
        Record(
            f"{i}.png", f'film "{i}", left', f"p{i // 2}", f"s{i}", "mine", labels={"Mass": float(rng.random() < 0.3)}
        )
        for i in range(60)
    ]
    return split_by_patient(
        make_manifest(films, Path("films"), load_ontology("nih14"), {}), {"train": 0.7, "test": 0.3}, 5
    )


def test_the_file_gives_the_split_back(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text(split_text(manifest))
    table, about = read_split(tmp_path / "split.csv")
    assert len(table) == 60
    assert about == {
        "sha256": split_hash(manifest),
        "how": "by patient",
        "fractions": {"train": 0.7, "test": 0.3},
        "seed": 5,
    }
    other = split_by_patient(manifest, {"train": 0.5, "test": 0.5}, 1)
    assert split_hash(other) != split_hash(manifest)
    back = take_split(other, tmp_path / "split.csv")
    assert split_hash(back) == split_hash(manifest)
    assert back.info["split"]["seed"] == 5


def test_the_order_of_rows_does_not_matter(manifest: Manifest) -> None:
    turned = replace(manifest, table=manifest.table.iloc[::-1].reset_index(drop=True))
    assert split_text(turned) == split_text(manifest)


def test_a_film_the_file_does_not_name_is_in_no_split(manifest: Manifest, tmp_path: Path) -> None:
    part = replace(manifest, table=manifest.table.iloc[:40].reset_index(drop=True))
    (tmp_path / "split.csv").write_text(split_text(part))
    assert pd.isna(take_split(manifest, tmp_path / "split.csv").table["split"]).sum() == 20


@pytest.mark.parametrize(
    "text",
    ["", "image_id,split\n1,train\n", "# cxr-mtl split {}\nimage_id,split\n1,train\n", "# cxr-mtl split nothing\n"],
)
def test_a_file_that_is_none_is_one_line(manifest: Manifest, tmp_path: Path, text: str) -> None:
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(DataError, match=r"split.csv is no split file"):
        take_split(manifest, tmp_path / "split.csv")


def test_others_films_and_shared_patients_are_refused(manifest: Manifest, tmp_path: Path) -> None:
    text = "# cxr-mtl split {}\n" + split_text(manifest).partition("\n")[2]
    (tmp_path / "split.csv").write_text(text.replace("mine,", "yours,"))
    with pytest.raises(DataError, match="names none of the manifest's films"):
        take_split(manifest, tmp_path / "split.csv")
    lines = text.splitlines()
    lines[2] = lines[2].rpartition(",")[0] + (",test" if lines[2].endswith("train") else ",train")
    (tmp_path / "split.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match="1 patient is in more than one split"):
        take_split(manifest, tmp_path / "split.csv")


def test_a_file_that_was_changed_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    text = split_text(manifest)
    (tmp_path / "split.csv").write_text(text.replace(",test", ",train"))
    with pytest.raises(DataError, match="was changed after it was written"):
        read_split(tmp_path / "split.csv")


def test_a_split_that_was_taken_over_has_its_own_hash(manifest: Manifest, tmp_path: Path) -> None:
    """Of a part of the films the hash is another."""
    (tmp_path / "split.csv").write_text(split_text(manifest))
    part = replace(manifest, table=manifest.table.iloc[:40].reset_index(drop=True))
    (tmp_path / "again.csv").write_text(split_text(take_split(part, tmp_path / "split.csv")))
    assert read_split(tmp_path / "again.csv")[1]["sha256"] == split_hash(part)
