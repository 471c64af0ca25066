"""Photos, masks, folders, prepared data sets and episodes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from shotseg.arguments import checked
from shotseg.data.sets import PLANS
from shotseg.errors import UsageError, one_of

if TYPE_CHECKING:
    from shotseg.data.annotations.opened import AnnotatedDataset
    from shotseg.data.folder import FolderDataset
    from shotseg.data.manifest import ManifestDataset


def list_datasets() -> list[str]:
    """The data sets that ``prepare``, ``evaluate`` and ``train`` know; ``folder`` is your own photos."""
    return list(PLANS)


def manifest_folder(name: str, root: str | Path) -> Path:
    """Where the manifest of a data set lies: ``root`` itself if it holds one, else ``root/shotseg/<name>``."""
    return Path(root) if (Path(root) / "manifest.json").is_file() else Path(root) / "shotseg" / name


@checked
def load(name: str, root: str | Path, **view: Any) -> "ManifestDataset | FolderDataset | AnnotatedDataset":
    """A prepared data set as (photo, class) items; ``"folder"`` reads a folder or annotation file as it is.

    root: the folder given to ``shotseg prepare`` as ``--root`` (or as ``--out``).
    view: split, fold, family, folds, novel, min_pixels of :class:`shotseg.data.manifest.ManifestDataset`; for "folder"
          the keywords of :func:`shotseg.data.annotations.opened.open_folder`.
    Raises UsageError for an unknown name or choice, or a data set that was not prepared.
    """
    if name == "folder":
        from shotseg.data.annotations.opened import open_folder

        return open_folder(root, **view)
    if name not in PLANS:
        raise UsageError(f"no data set {name!r}{one_of(name, PLANS)}")
    from shotseg.data.manifest import Manifest, ManifestDataset

    folder = manifest_folder(name, root)
    if not (folder / "manifest.json").is_file():
        raise UsageError(f"{folder}: no manifest.json; run `shotseg prepare {name} --root {root}` first")
    manifest = Manifest.read(folder)
    if manifest.name != name:
        raise UsageError(f"{folder}: the manifest is of {manifest.name}, not {name}; choose another root")
    return ManifestDataset(manifest, **view)
