"""What of the pages is run here, on what, and what is not, and why. Who adds a command to a page reads this."""

from __future__ import annotations

RUN_PAGES = (
    "docs/own_data.md",
    "docs/datasets.md",
    "docs/training.md",
    "docs/evaluation.md",
    "docs/calibration.md",
    "docs/explanation.md",
    "docs/pretraining.md",
    "docs/learning.md",
    "docs/cluster.md",
    "docs/engines.md",
    "docs/operations.md",
    "docs/data.md",
)
"""Their commands are run in this order, each once, on drawn films. Data comes last, for it splits the films anew."""

MORE = {
    "train": "-s train.epochs=1 -s model.image_size=64 -s data.min_positives=2",
    "pretrain": "-s train.epochs=1 -s train.batch_size=32 -s pretrain.probe_every=0",
    "evaluate": "--resamples 20",
    "compare": "--resamples 20",
    "package": "--engine eager",
}
"""What is said besides, so that it takes seconds."""

SMALL_ENCODER = "-s model.encoder=test_convnext"
"""Said to every run that names no encoder's arguments."""

COPIES = {
    "runs/nih_swin/best": "runs/nih_convnext/best",
    "again.parquet": "nih.parquet",
    "film.png": "data/nih/images/00000001_000.png",
}
"""What no command of the pages makes, and of what it is a copy."""

ANOTHER_TEST = {
    # README: in its own words by the test that is named.
    ("README.md", "make quickstart"): "tests/test_quickstart.py",
    ("README.md", "make test"): ".ci/run",
    ("README.md", "cxr-mtl demo"): "tests/test_line.py",
    ("README.md", "cxr-mtl data doctor"): "tests/test_line.py",
    ("README.md", "cxr-mtl predict"): "tests/test_line.py",
    ("README.md", "deepspeed --num_gpus 2 --module cxr_mtl train"): "tests/test_line.py",
    ("CONTRIBUTING.md", "make"): ".ci/run",
    # Pages that have a test of their own.
    ("docs/predicting.md", "cxr-mtl predict runs"): "tests/predict/test_predicting_docs.py",
    ("docs/predicting.md", "deepspeed --num_gpus 2 --module cxr_mtl predict"): "tests/predict/test_many_ranks.py",
    ("docs/predicting.md", "cxr-mtl predict cxr_mtl"): "tests/serve/test_secure_tls.py",
    ("docs/serving.md", ""): "tests/serve/test_serving.py",
    ("docs/exports.md", ""): "tests/package/test_exports.py",
    ("docs/reports.md", ""): "tests/export/test_reports_docs.py",
    ("docs/demo.md", "cxr-mtl demo --bundle"): "tests/test_line.py",
    ("docs/demo.md", "cxr-mtl demo --url"): "tests/test_line.py",
    ("docs/own_data.md", "cxr-mtl demo"): "tests/test_line.py",
    # Layouts of sets that nobody may copy: those tests write small ones.
    ("docs/datasets.md", "cxr-mtl data import chexpert"): "tests/data/test_chexpert.py",
    ("docs/datasets.md", "cxr-mtl data import mimic"): "tests/data/test_mimic.py",
    (
        "docs/datasets.md",
        "cxr-mtl data import padchest /data/padchest --out padchest.parquet --labels",
    ): "tests/test_cli_data.py",
    ("docs/datasets.md", "cxr-mtl data import padchest"): "tests/data/test_padchest.py",
    ("docs/datasets.md", "cxr-mtl data import vindr"): "tests/data/test_vindr.py",
    ("docs/datasets.md", "cxr-mtl data import vinbigdata"): "tests/data/test_vinbigdata.py",
    ("docs/datasets.md", "cxr-mtl data import rsna"): "tests/data/test_rsna.py",
    ("docs/datasets.md", "cxr-mtl data curate"): "tests/test_cli_data.py",
    ("docs/datasets.md", "cxr-mtl train -c lung10_nih"): "tests/test_run_files.py",
    # Runs from weights that are not here, and launchers.
    ("docs/architectures.md", "cxr-mtl train"): "tests/train/test_start.py",
    ("docs/cluster.md", "torchrun --standalone"): "tests/train/test_two_ranks.py",
    ("docs/cluster.md", "torchrun --nnodes"): "tests/train/test_train_runs.py",
    ("docs/cluster.md", "deepspeed --num_gpus"): "tests/train/test_resume.py",
    ("docs/cluster.md", "sbatch"): "tests/test_cluster.py",
    # A server that changes, and one that stays.
    ("docs/operations.md", "cxr-mtl serve --model-store model_store --foreground"): "tests/serve/test_survive.py",
    ("docs/operations.md", "cxr-mtl serve --model-store model_store --control"): "tests/serve/test_survive.py",
    ("docs/operations.md", "cxr-mtl package NEW_BUNDLE"): "tests/serve/test_survive.py",
    ("docs/operations.md", "cxr-mtl serve --model-store model_store --roll-over"): "tests/serve/test_survive.py",
    ("docs/security.md", "cxr-mtl serve --host"): "tests/serve/test_secure_tls.py",
    ("docs/security.md", "cxr-mtl predict cxr_mtl film.dcm --url https://server"): "tests/serve/test_secure_tls.py",
    ("docs/security.md", "cxr-mtl predict cxr_mtl film.dcm --url https://NAME"): "tests/serve/test_secure_container.py",
    ("docs/security.md", "cxr-mtl package BUNDLE"): "tests/serve/test_secure_container.py",
    # Benchmarks: those tests run them for some seconds.
    ("docs/operations.md", "python benchmarks/faults.py"): "tests/test_benchmarks.py",
    ("docs/operations.md", "python benchmarks/bodies.py"): "tests/test_benchmarks.py",
    ("docs/security.md", "python benchmarks/fuzz.py"): "tests/serve/test_secure_fuzz.py",
    ("docs/speed.md", "python benchmarks/train_speed.py"): "tests/test_benchmarks.py",
}
"""Page and beginning of a command; the test that runs it, or what it comes to, where it can be run."""

CANNOT = {
    ("CONTRIBUTING.md", "pytest"): "it runs the tests, this one too",
    ("docs/predicting.md", "srun"): "no SLURM here; ranks by its variables are in tests/predict/test_shards.py",
    ("docs/predicting.md", "export RANK"): "no SLURM here; the same",
    ("docs/cluster.md", "deepspeed --hostfile"): "wants pdsh and ssh to several machines",
    ("docs/cluster.md", "tail"): "a program of the system",
    (
        "docs/cluster.md",
        "tensorboard",
    ): "stays until it is ended; tests/train/test_checkpoint.py reads what it reads",
    ("docs/security.md", "mkdir"): "would write into the repository",
    ("docs/security.md", "docker"): "no docker here; tests/serve/test_secure_container.py runs what the image starts",
    ("docs/security.md", "kubectl"): "no cluster here; tests/serve/test_secure_files.py holds the file to the schemas",
}
"""Page and beginning of a command that no test can run, and why."""
