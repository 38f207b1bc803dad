"""``cxr-mtl data``: films and labels. As in cli.py, every body is one import and one call."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

data = typer.Typer(help="Films and labels: import, check, split, pack.", no_args_is_help=True)

Manifest = Annotated[Path, typer.Argument(help="Manifest (Parquet) written by `cxr-mtl data import`.")]


@data.command("synth")
def data_synth(
    n: Annotated[int, typer.Option("--n", min=10, help="Number of films.")],
    out: Annotated[Path, typer.Option(help="New or empty folder.")],
    seed: Annotated[int, typer.Option(min=0)] = 0,
    size: Annotated[int, typer.Option(min=64, max=2048, help="Side of a film, pixels.")] = 512,
) -> None:
    """Draw a study set in NIH's layout: films, labels, boxes, lists. Drawn, not patients.

    Example: cxr-mtl data synth --n 200 --out drawn
    """
    from cxr_mtl.data.synthetic import write_study_set

    write_study_set(out, n, seed, size)
    print(f"{out}: {n} drawn films in NIH's layout. Next: cxr-mtl data import nih {out} --out {out}.parquet")


@data.command("import")
def data_import(
    source: Annotated[str, typer.Argument(help="Dataset: nih.")],
    root: Annotated[Path, typer.Argument(help="The dataset's folder, as it was unpacked.")],
    out: Annotated[Path, typer.Option(help="Manifest to write (.parquet).")],
    ontology: Annotated[str, typer.Option(help="Name or YAML file of the tree of findings.")] = "thorax",
    seed: Annotated[int, typer.Option(min=0, help="Of the validation split where the dataset has none.")] = 0,
    allow_missing_images: Annotated[bool, typer.Option(help="Keep labels whose film is not there.")] = False,
) -> None:
    """Read a dataset's own tables into a manifest, and say what was kept and dropped.

    Example: cxr-mtl data import nih /data/nih --out nih.parquet
    """
    from cxr_mtl.data.manifest_file import save_manifest
    from cxr_mtl.data.sources import import_source

    manifest, report = import_source(
        source, root, ontology=ontology, allow_missing_images=allow_missing_images, seed=seed
    )
    save_manifest(manifest, out)
    print("\n".join([*report.lines(), f"Wrote {out}. Next: cxr-mtl data doctor {out}"]))


@data.command("doctor")
def data_doctor(
    manifest: Manifest,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    decode: Annotated[bool, typer.Option(help="Open every film, too.")] = True,
) -> None:
    """Find every problem of a dataset, with path, count and fix. Exit code 1 if any is an error.

    Example: cxr-mtl data doctor nih.parquet
    """
    from cxr_mtl.data.doctor import examine
    from cxr_mtl.data.manifest_file import load_manifest

    loaded = load_manifest(manifest)
    problems = examine(loaded, decode=decode)
    if as_json:
        print(json.dumps([p.to_dict() for p in problems], indent=2))
    else:
        for problem in problems:
            print(problem)
        errors = sum(p.level == "error" for p in problems)
        print(f"{manifest}: {len(loaded)} films, {errors} errors, {len(problems) - errors} warnings.")
    if any(p.level == "error" for p in problems):
        raise typer.Exit(1)


@data.command("split")
def data_split(
    manifest: Manifest,
    train: Annotated[float, typer.Option(min=0, max=1)] = 0.7,
    val: Annotated[float, typer.Option(min=0, max=1)] = 0.1,
    test: Annotated[float, typer.Option(min=0, max=1)] = 0.2,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Split a manifest anew by patient, findings in proportion; replaces the split it had.

    Example: cxr-mtl data split mine.parquet --train 0.7 --val 0.1 --test 0.2
    """
    from cxr_mtl.data.manifest_file import load_manifest, save_manifest
    from cxr_mtl.data.split import split_by_patient, split_hash

    shares = {"train": train, "val": val, "test": test}
    done = split_by_patient(load_manifest(manifest), shares, seed)
    save_manifest(done, manifest)
    counts = done.table["split"].value_counts().to_dict()
    print(f"{manifest}: {counts}, split {split_hash(done)[:12]}, seed {seed}.")


@data.command("pack")
def data_pack(
    manifest: Manifest,
    size: Annotated[int, typer.Option(min=64, max=4096, help="Side of the model's input, pixels.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding threads.")] = None,
) -> None:
    """Decode every film once into a file that maps into memory; training reads it.

    Example: cxr-mtl data pack nih.parquet --size 224 --out nih.pack224
    """
    from tqdm import tqdm

    from cxr_mtl.data.manifest_file import load_manifest
    from cxr_mtl.data.pack import make_pack

    loaded = load_manifest(manifest)
    with tqdm(total=len(loaded), unit="film", disable=None) as bar:
        pack = make_pack(loaded, size, out, workers=workers, progress=bar.update)
    for name, reason in pack.unread.items():
        print(f"{name}: {reason}", file=sys.stderr)
    print(f"{out}: {len(loaded) - len(pack.unread)} films at {size} px, {len(pack.unread)} could not be read.")
