"""``cxr-mtl data``: films and labels. As in cli.py, every body is one import and one call."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cxr_mtl.errors import ConfigError

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
    source: Annotated[
        str,
        typer.Argument(help="nih chexpert mimic padchest vindr vinbigdata rsna kermany; your own films: folders csv."),
    ],
    root: Annotated[Path | None, typer.Argument(help="The dataset's folder, as it was unpacked.")] = None,
    out: Annotated[Path | None, typer.Option(help="Manifest to write (.parquet).")] = None,
    ontology: Annotated[str, typer.Option(help="Name or YAML file of the tree of findings.")] = "thorax",
    views: Annotated[str | None, typer.Option(help="Keep only these, such as PA,AP. Also: LATERAL, UNKNOWN.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the splits that the dataset does not state.")] = 0,
    validation: Annotated[
        float,
        typer.Option(min=0, max=0.5, help="Share of official training films to validate on, where none are stated."),
    ] = 0.12,
    allow_missing_images: Annotated[bool, typer.Option(help="Keep labels whose film is not there.")] = False,
    name: Annotated[str | None, typer.Option(help="folders, csv: what to call your dataset.")] = None,
    template: Annotated[bool, typer.Option("--template", help="csv: print a table to fill in.")] = False,
    exclusive: Annotated[bool | None, typer.Option(help="folders: a film shows only its own class.")] = None,
    patient_pattern: Annotated[str | None, typer.Option(help="folders, csv: regex of the patient in a path.")] = None,
    boxes: Annotated[
        Path | None, typer.Option(help="csv: the table of boxes, if it is not boxes.csv beside it.")
    ] = None,
    exhaustive: Annotated[bool | None, typer.Option(help="csv: a film without a box shows nothing boxed.")] = None,
    readers: Annotated[str | None, typer.Option(help="vindr, vinbigdata: any, majority or fusion.")] = None,
    labels: Annotated[str | None, typer.Option(help="padchest: all, or physician for those read by people.")] = None,
    supine: Annotated[str | None, typer.Option(help="padchest: keep films of patients lying down, or drop.")] = None,
    labeller: Annotated[
        str | None, typer.Option(help="mimic: chexpert, negbio; chexpert: chexpert, chexbert, visualchexbert.")
    ] = None,
    radiologist: Annotated[bool | None, typer.Option(help="mimic: radiologists' labels where there are any.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="rsna: its JSON of which NIH film each is.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable report.")] = False,
) -> None:
    """Read a dataset's own tables into a manifest, and say what was kept and dropped.

    Example: cxr-mtl data import nih /data/nih --out nih.parquet
    """
    from cxr_mtl.data.manifest_file import save_manifest
    from cxr_mtl.data.sources import import_source

    if template:
        from cxr_mtl.data.sources.own.csv_table import template as csv_template
        from cxr_mtl.ontology import load_ontology

        print(csv_template(load_ontology(ontology)), end="")
        return
    if root is None or out is None:
        raise ConfigError(
            "data import wants a folder and --out.", hint="cxr-mtl data import nih /data/nih --out nih.parquet"
        )
    own: dict[str, Any] = {
        "exclusive": exclusive,
        "patient_pattern": patient_pattern,
        "boxes": boxes,
        "exhaustive": exhaustive,
        "readers": readers,
        "labels": labels,
        "supine": supine,
        "labeller": labeller,
        "mapping": mapping,
        "radiologist": radiologist,
    }
    manifest, report = import_source(
        source,
        root,
        ontology=ontology,
        allow_missing_images=allow_missing_images,
        views=None if views is None else [view.strip().upper() for view in views.split(",")],
        seed=seed,
        validation=validation,
        dataset=name,
        **{option: value for option, value in own.items() if value is not None},
    )
    save_manifest(manifest, out)
    if as_json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        print("\n".join([*report.lines(), f"Wrote {out}. Next: cxr-mtl data doctor {out}"]))


@data.command("curate")
def data_curate(
    config: Annotated[Path, typer.Option("--config", "-c", help="Run file with a section data.curate.")],
    root: Annotated[Path, typer.Argument(help="The dataset's folder, as it was unpacked.")],
    settings: Annotated[list[str] | None, typer.Option("--set", "-s", help="key=value")] = None,
    allow_missing_images: Annotated[bool, typer.Option(help="Keep labels whose film is not there.")] = False,
) -> None:
    """Make the manifest of a run file: a dataset, and the rules by which its films are chosen.

    Example: cxr-mtl data curate -c configs/lung10_nih.yaml /data/nih
    """
    from cxr_mtl.config import load_config
    from cxr_mtl.data.curate import write_curated

    run = load_config(config, settings or [])
    print("\n".join(write_curated(run.data, root, allow_missing_images=allow_missing_images)))


@data.command("merge")
def data_merge(
    manifests: Annotated[list[Path], typer.Argument(help="Two manifests or more.")],
    out: Annotated[Path, typer.Option(help="Manifest to write (.parquet).")],
) -> None:
    """Make one manifest of several: each film keeps its split, and what its dataset does not label stays unknown.

    Example: cxr-mtl data merge nih.parquet kermany.parquet --out both.parquet
    """
    from cxr_mtl.data.manifest_file import load_manifest, save_manifest
    from cxr_mtl.data.merge import merge_manifests
    from cxr_mtl.data.sources.report import Tally, make_report

    merged, notes = merge_manifests([load_manifest(path) for path in manifests])
    save_manifest(merged, out)
    lines = make_report(merged.ontology.name, merged, Tally(notes=list(notes))).lines()
    print("\n".join([*lines, f"Wrote {out}. Next: cxr-mtl data doctor {out}"]))


@data.command("doctor")
def data_doctor(
    manifest: Manifest,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    decode: Annotated[bool, typer.Option(help="Open every film, too.")] = True,
) -> None:
    """Find every problem of a dataset, with path, count and fix. Exit code 1 if any is an error.

    Example: cxr-mtl data doctor nih.parquet
    """
    from tqdm import tqdm

    from cxr_mtl.data.doctor import examine
    from cxr_mtl.data.manifest_file import load_manifest

    loaded = load_manifest(manifest)
    with tqdm(total=len(loaded) if decode else 0, unit="film", disable=None if decode and not as_json else True) as bar:
        problems = examine(loaded, decode=decode, progress=bar.update)
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
    like: Annotated[Path | None, typer.Option(help="Take the splits of this split.csv instead.")] = None,
    save: Annotated[Path | None, typer.Option(help="Also write the split as a file of its own.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="With --save: leave the split as it is.")] = False,
) -> None:
    """Split a manifest anew by patient, findings in proportion; replaces the split it had, but with --keep.

    Example: cxr-mtl data split mine.parquet --train 0.7 --val 0.1 --test 0.2
    """
    from cxr_mtl.data.manifest_file import load_manifest, save_manifest
    from cxr_mtl.data.split import split_by_patient, split_hash
    from cxr_mtl.data.split_file import save_split, take_split

    if keep and (save is None or like is not None):
        raise ConfigError("data split --keep wants --save, and no --like.", hint="It writes the split that is there.")
    loaded = load_manifest(manifest)
    if keep:
        done = loaded
    elif like:
        done = take_split(loaded, like)
    else:
        done = split_by_patient(loaded, {"train": train, "val": val, "test": test}, seed)
    if save:  # first, so that a manifest is not changed by a command that fails
        save_split(done, save)
    if not keep:
        save_manifest(done, manifest)
    how = "as it was" if keep else f"like {like}" if like else f"seed {seed}"
    counts = done.table["split"].fillna("none").value_counts().to_dict()
    told = ", ".join(f"{name} {num:,}" for name, num in counts.items())
    print(f"{manifest}: {told}; split {split_hash(done)[:12]}, {how}.")


@data.command("pack")
def data_pack(
    manifest: Manifest,
    size: Annotated[int, typer.Option(min=64, max=4096, help="Side of the model's input, pixels.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding threads; one a core by default.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check a finished pack, and mend it; exit 1 if it was bad.")
    ] = False,
) -> None:
    """Decode every film once into a file that maps into memory; training reads it. Goes on where it was stopped.

    Example: cxr-mtl data pack nih.parquet --size 224 --out nih.pack224
    """
    from tqdm import tqdm

    from cxr_mtl.data.manifest_file import load_manifest
    from cxr_mtl.data.pack import is_pack, make_pack, verify_pack

    loaded = load_manifest(manifest)
    damaged = verify_pack(out) if verify and is_pack(out) else []
    for block in damaged:
        print(f"{out}: {block}.", file=sys.stderr)
    with tqdm(total=len(loaded), unit="film", disable=None) as bar:
        pack = make_pack(loaded, size, out, workers=workers, progress=bar.update, verify=verify)
    for name, reason in pack.unread.items():
        print(f"{name}: {reason}", file=sys.stderr)
    print(f"{out}: {len(loaded) - len(pack.unread)} films at {size} px, {len(pack.unread)} could not be read.")
    if damaged:
        print(f"{out}: {len(damaged)} damaged blocks were decoded again.")
        raise typer.Exit(1)
