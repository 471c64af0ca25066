"""``shotseg segment``: the main job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from shotseg.cli.console import progress, say
from shotseg.errors import InputError, UsageError

if TYPE_CHECKING:
    from shotseg.segmenter import Segmenter


@dataclass(frozen=True)
class Segment:
    """Find what the examples show in every photo of a folder.

    Writes masks/<class>/<name>.png (0/255), labels/<name>.png (palette), results.jsonl (one line a photo: file, class,
    area, confidence, seconds, error), report.html and, where something failed, errors.csv.

    example: shotseg segment --support examples --query "photos/**/*.jpg" --out result --resume
    """

    support: Path
    """Examples: a folder with images/<class>/<name>.jpg and masks/<class>/<name>.png (no masks: the class name is used), or
    a .safetensors file that Segmenter.save wrote."""
    query: str
    """A photo, a folder with sub-folders, or a glob in quotes."""
    out: Path
    """Folder of the results."""
    method: str = "matching"
    """See: shotseg list models."""
    encoder: str = "auto"
    """See: shotseg list encoders. "auto" needs no download."""
    format: Literal["mask", "coco", "voc", "yolo", "labelstudio"] = "mask"
    """Annotations to write beside the masks, into OUT/<format>."""
    resume: bool = False
    """Go on where an interrupted run stopped."""
    engine: Literal["local", "ray"] = "local"
    """On this machine, or on a Ray cluster that shares its disks (extra: ray)."""
    shard: str = "1/1"
    """Only the i-th of n parts of the photos, as 2/4; the last part to finish joins the results."""
    device: str = "auto"
    """cpu, cuda, mps, or "auto"."""
    size: int | None = None
    """Longer side, in pixels, at which the method works."""
    batch: int = 1
    """Photos that go through the encoder together; more is faster on a GPU."""

    def run(self) -> int:
        for name in ("size", "batch"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UsageError(f"--{name} {getattr(self, name)}: must be 1 or more")

        from shotseg.folder import check_output, find_photos, parse_shard, segment_folder, write_errors

        parse_shard(self.shard)
        photos = find_photos(self.query, self.out)
        segmenter, settings, failed = self._segmenter()
        check_output(self.out)
        for _, reason in failed:
            say(reason)
        if not segmenter.classes:
            write_errors(self.out, failed)
            raise InputError(f"{self.support}: no example can be used, nothing was segmented; mend one of the above")
        with progress("segmenting", len(photos)) as advance:

            def on_record(record: dict) -> None:
                advance()
                if record["error"]:
                    say(record["error"])

            summary = segment_folder(
                segmenter,
                photos,
                self.out,
                resume=self.resume,
                shard=self.shard,
                engine=self.engine,
                batch=self.batch,
                annotations=self.format,
                failed_supports=failed,
                settings=settings,
                on_record=on_record,
            )
        done = f"{summary.photos - summary.failed} of {summary.photos} photos done"
        print(f"{done}, report: {summary.report}" + (f", failures: {summary.errors}" if summary.errors else ""))
        return 1 if summary.failed or failed else 0

    def _segmenter(self) -> tuple[Segmenter, dict, list[tuple[str, str]]]:
        """The segmenter with its classes, what makes it what it is, and (file, reason) of the examples that failed."""
        from shotseg.data.folder import FolderDataset
        from shotseg.segmenter import Segmenter

        if self.support.suffix == ".safetensors":
            segmenter = Segmenter.load(self.support, encoder=self.encoder, device=self.device)
            return (
                segmenter,
                {"method": segmenter.method, "encoder": segmenter.encoder, "support": str(self.support)},
                [],
            )
        examples = FolderDataset(self.support)
        options = {} if self.size is None else {"size": self.size}
        segmenter = Segmenter(self.method, self.encoder, self.device, **options)
        failed, used = [], []
        for index, item in enumerate(examples.items):
            try:
                # By path where the mask is the class's own, so that an error names the file.
                own = item.class_value is None
                photo, mask = (item.image_path, item.mask_path) if own else (examples.sample(index), None)
                segmenter.add(item.class_name, [photo], [mask])
                used.append(f"{item.id} {item.content[:16]}")
            except InputError as error:
                failed.append((str(item.image_path), str(error)))
        settings = {"method": self.method, "encoder": segmenter.encoder, **options, "examples": used}
        return segmenter, settings, failed
