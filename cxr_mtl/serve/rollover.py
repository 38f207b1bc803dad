"""Another version of a model takes over while the server answers. No request fails for it."""

from __future__ import annotations

import io
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from PIL import Image

from cxr_mtl.errors import ServeError
from cxr_mtl.predict.remote import read_key
from cxr_mtl.serve.drain import wait_until_idle
from cxr_mtl.serve.logs import cause, mark
from cxr_mtl.serve.management import Management, ModelStatus, NoControl
from cxr_mtl.serve.state import ServerInfo, load_state, only_starter
from cxr_mtl.serve.store import Archive, age, read_archive, read_store


@dataclass(frozen=True, slots=True)
class Rolled:
    """``new`` answers for ``name``. ``old`` did before; it is gone, or still loaded because somebody asks for it."""

    name: str
    new: str
    old: str | None
    old_is_gone: bool


def roll_over(state_dir: Path, model_store: Path, file: Path | None, *, wait: float, drain: float) -> list[Rolled]:
    """Loads archives beside what is served, checks that they answer, and lets them take over.

    Args:
        state_dir: of the running server.
        model_store: its model store.
        file: the archive; one from elsewhere is copied into the store. None for every one in the store that is newer
            than what is served.
        wait: seconds until a new version must answer.
        drain: seconds that the old one has to answer what was asked of it; after that it stays.

    Raises:
        ServeError: no server runs, or the archive does not load or answer; then the old version goes on serving and
            the store is as it was.
    """
    state = load_state(state_dir)
    if state is None or state.process() is None:
        raise ServeError(f"{model_store}: no server is running.", hint="`cxr-mtl serve` starts one.")
    with only_starter(state_dir), Management(state.info) as management:
        if file is None:
            archives = _newer(read_store(model_store), management.models())
            return [_roll(management, state.info, archive, wait, drain) for archive in archives]
        archive, brought = _bring(read_archive(file), model_store)
        try:
            return [_roll(management, state.info, archive, wait, drain)]
        except BaseException:
            if brought:
                archive.file.unlink(missing_ok=True)
            raise


def _newer(archives: list[Archive], models: tuple[ModelStatus, ...]) -> list[Archive]:
    """The newest of each name in the store where it is newer than what answers for that name, or nobody does."""
    served = {model.name: model.version for model in models if model.default}
    newest = {archive.name: archive for archive in reversed(archives)}.values()
    return [new for new in newest if new.name not in served or age(new.version) > age(served[new.name])]


def _bring(archive: Archive, model_store: Path) -> tuple[Archive, bool]:
    """The archive inside the store, and whether it had to be copied there."""
    if archive.file.resolve().parent == model_store.resolve():
        return archive, False
    target = model_store / f"{archive.name}-{archive.version}.mar"
    there = {(other.name, other.version): other.file for other in read_store(model_store)}
    if target.exists() or (archive.name, archive.version) in there:
        other = there.get((archive.name, archive.version), target)
        hint = f"Roll over to that one, or give the new one another version: {other}"
        raise ServeError(f"{model_store} holds {archive.name} {archive.version} already.", hint=hint)
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.copyfile(archive.file, part)
        part.rename(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ServeError(f"{archive.file} could not be copied to {target}: {error.strerror}.") from None
    return Archive(target, archive.name, archive.version), True


def _roll(management: Management, info: ServerInfo, archive: Archive, wait: float, drain: float) -> Rolled:
    name, new = archive.name, archive.version
    versions = {model.version: model for model in management.models() if model.name == name}
    old = next((model for model in versions.values() if model.default), None)
    if old is not None and old.version == new:
        raise ServeError(f"{name} {new} is what is served already.", hint="A new archive needs a version of its own.")
    if new not in versions:
        _load(management, info, archive, len(old.workers) if old else 1, wait)
    management.set_default(name, new)
    if old is None:
        return Rolled(name, new, None, old_is_gone=True)
    idle = wait_until_idle(management, lambda model: (model.name, model.version) == (name, old.version), drain)
    if idle:
        with suppress(NoControl):  # Then a version can step back, but not be let go.
            management.unregister(name, old.version)
            return Rolled(name, new, old.version, old_is_gone=True)
    return Rolled(name, new, old.version, old_is_gone=False)


def _load(management: Management, info: ServerInfo, archive: Archive, workers: int, wait: float) -> None:
    """Registers an archive whose version is not loaded, and asks it for an answer; leaves nothing of one that fails."""
    name, version, before = archive.name, archive.version, mark(info.log_dir)
    try:
        management.register(archive.file, max(workers, 1), wait)
        _check_answer(info, name, version, wait)
    except BaseException as error:
        with suppress(ServeError):
            if any((model.name, model.version) == (name, version) for model in management.models()):
                management.unregister(name, version)
        if not isinstance(error, ServeError) or isinstance(error, NoControl):
            raise
        why = cause(info.log_dir, before) or error.message
        hint = f"What was served goes on. {archive.file} must not stay in the store: the next start would load it."
        raise ServeError(f"{name} {version} does not load: {why}", hint=hint) from None


def _check_answer(info: ServerInfo, name: str, version: str, wait: float) -> None:
    """One drawn film must get an answer in our form; that it is no chest may be the answer."""
    film = io.BytesIO()
    Image.linear_gradient("L").save(film, "PNG")
    headers = {"Authorization": f"Bearer {read_key(info.key_file)}"}
    url = f"{info.url}/predictions/{name}/{version}"
    try:
        # Our own process on this machine: its certificate names it as others do, who have to check.
        answer = httpx.put(url, content=film.getvalue(), headers=headers, timeout=wait, trust_env=False, verify=False)
        good = answer.status_code < 500 and bool({"schema", "error"} & set(answer.json()))
    except (httpx.HTTPError, ValueError):
        good = False
    if not good:
        raise ServeError("it loads, but does not answer.")
