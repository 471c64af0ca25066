"""``shotseg segment``: the main job."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shotseg.cli.choices import Runtime
from shotseg.cli.console import left_out, progress, say
from shotseg.cli.formats import export_options
from shotseg.cli.parsing import identity, must_exist
from shotseg.data.reading import AS_SEEN, Reading
from shotseg.errors import InputError, UsageError
from shotseg.heap import check_batch

if TYPE_CHECKING:
    from shotseg.data.annotations.opened import AnnotatedDataset
    from shotseg.data.folder import FolderDataset
    from shotseg.predictor import Predictor
    from shotseg.runs import PhotoList
    from shotseg.segmenter import Segmenter
    from shotseg.semantic import SemanticSegmenter


FAST = ("efficientnet-lite0", 384)
WORTH_RAY = 200  # photos from which a cluster makes up for its start


@dataclass(frozen=True)
class Segment:
    """Find what the examples show in every photo of a folder.

    Writes masks/<class>/<name>.png (0/255), labels/<name>.png (palette), results.jsonl (one line a photo: file, class,
    area, presence, confidence, seconds, error), report.html and, where something failed, errors.csv. A semantic model also writes
    classes.txt: value i of the label maps is its i-th line, 0 = background.

    example: shotseg segment --support examples --query "photos/**/*.jpg" --out result --resume
    """

    query: str
    """A photo, a folder with sub-folders, or a glob in quotes; also at an address (s3://, gs://, https://; extra: remote), or a
    list of photos or addresses, a line each (.txt, .jsonl)."""
    out: Path
    """Folder of the results, or the address of one in a store."""
    support: Path | None = None
    """Examples: a folder with images/<class>/<name>.jpg and masks/<class>/<name>.png (no masks: the class name is used; of
    one class also images/ and masks/, or masks beside the photos); annotations of another tool (COCO, LabelMe, CVAT, YOLO,
    VOC, Label Studio, Supervisely, run lengths); or a .safetensors file that Segmenter.save wrote."""
    name: tuple[str, ...] = ()
    """In place of examples: names of the classes, for a method that needs no more (pi-clip-zero-shot). Beside examples of
    one class: its name, where no folder is called by it."""
    method: str = "matching"
    """See: shotseg list models."""
    encoder: str = "auto"
    """See: shotseg list encoders. "auto" is the method's own, for most the one that needs no download."""
    checkpoint: Path | None = None
    """A trained model (best.safetensors of a run); its own recipe then says method and encoder."""
    format: str = "mask"
    """Annotations to write beside the masks, into OUT/<format>: mask, coco,
    coco-polygons, voc, yolo, labelstudio, labelme, cvat, geojson, imagej, or one of another package."""
    min_object: int = 0
    """Of --format: leave out objects of fewer pixels."""
    one_a_class: bool = False
    """Of --format: one annotation for each class of a photo, in place of one for each object."""
    instances: bool = False
    """Also OUT/instances/<name>.png, 16 bits: every object with a number of its own, those of a class that touch apart, and
    objects.csv with their classes. Annotations of --format have the same objects."""
    copy_images: bool = False
    """Of --format: copy the photos beside the annotations, in place of links where the format needs them."""
    untrained: bool = False
    """Use a method that must be trained without a --checkpoint, although its masks mean nothing."""
    present: float = 0.5
    """Operating point: the probability of being in the photo from which a class takes part. Lower finds more and errs more."""
    known: bool = False
    """Every class is known to be in every photo: the best guess of each is drawn, and --present is not asked."""
    fast: bool = False
    """Of matching: EfficientNet-Lite0 at 384 pixels, less than half of the time, a few points less."""
    insid3: tuple[Literal["positions", "backward", "clusters"], ...] = ()
    """Of matching on a ViT: ideas of INSID3, one or more: take position out of the features, ask that a match leads back into
    the example's object, decide groups of tokens as one."""
    refine: str | None = None
    """Redraw each object found: sam2 (SAM 2 of transformers; its weights are fetched once), or sam2:FOLDER with its weights."""
    resume: bool = False
    """Go on where an interrupted run stopped."""
    engine: Literal["local", "ray"] = "local"
    """On this machine, or on a Ray cluster that shares its disks (extra: ray)."""
    shard: str = "1/1"
    """Only the i-th of n parts of the photos, as 2/4; the last part to finish joins the results."""
    device: str = "auto"
    """cpu, cuda, mps, or "auto"."""
    runtime: Runtime = "auto"
    """What computes the encoder of a few-shot method on a CPU: onnxruntime (extra: onnx) where it is installed, else torch. With
    onnxruntime-int8, which is twice as fast, masks differ by a pixel here and there."""
    size: int | None = None
    """Longer side, in pixels, at which the method works."""
    tile: str = "auto"
    """Windows for images larger than the network: "auto" from 100 megapixels on, their side in pixels, or "off"."""
    batch: int = 1
    """Photos that go through the encoder together; more is faster on a GPU."""
    window: int = 0
    """Of a semantic model: squares of this side, in pixels of the working size, in place of the whole photo."""
    scales: tuple[int, ...] = ()
    """Of a semantic model: shorter sides to average over."""
    flip: bool = False
    """Of a semantic model: average with the mirrored photo."""
    soft: bool = False
    """Of a semantic model: also soft/<class>/<name>.png, the probability of each class times 255."""
    track: bool = False
    """The query is one video (extra: video), or folders of frames in the order of their names: frames that are sure serve
    those after them. Of a video also OUT/overlay.mp4."""
    overlay_video: float | None = None
    """Of --track on folders: also OUT/overlay.mp4, with so many frames a second (extra: video)."""
    pages: str = ""
    """Of files of the query with several pages or frames (stacks, scans, GIF): those to segment, each a photo of its own: all, or
    as 1-20. With --track each file is a sequence, and of one file all pages are taken."""
    reading: Reading = AS_SEEN

    def run(self) -> int:
        check_batch(self.batch)
        if self.size is not None and self.size < 1:
            raise UsageError(f"--size {self.size}: must be 1 or more")
        if self.window < 0:
            raise UsageError(f"--window {self.window}: must be 0 or more")
        if self.scales and min(self.scales) < 1:
            raise UsageError(f"--scales {min(self.scales)}: must be 1 or more")
        self._tile()
        if not 0 <= self.present <= 1:
            raise UsageError(f"--present {self.present}: give a probability from 0 to 1")
        must_exist(checkpoint=self.checkpoint)
        saved = self.support is not None and self.support.suffix == ".safetensors"
        if saved and (self.size is not None or self.method != Segment.method or self.insid3):
            raise UsageError(f"{self.support}: says method and size itself; leave --method, --size and --insid3 out")
        if saved:
            replace(self.reading, bands="", page=1).refuse("a support file")
        if self.insid3 and (self.method != "matching" or self.checkpoint is not None):
            raise UsageError("--insid3 is of --method matching; leave one out")

        semantic = self._is_semantic()
        if semantic and (self.support is not None or self.name):
            raise UsageError(
                f"{self.checkpoint}: a semantic model, which knows its classes; leave --support and --name out"
            )
        if semantic and self.runtime != Segment.runtime:
            raise UsageError(f"{self.checkpoint}: a semantic model, which torch computes; leave --runtime out")
        if self.refine is not None and (semantic or self.engine != Segment.engine):
            raise UsageError(
                "--refine is of methods that learn from examples, on this machine; leave it or --engine out"
            )
        if semantic and self.tile != Segment.tile:
            raise UsageError(f"{self.checkpoint}: a semantic model, which has --window in place of --tile")
        if not semantic and (self.window or self.scales or self.flip or self.soft):
            raise UsageError("--window, --scales, --flip and --soft are of semantic models; give --checkpoint of one")
        if not semantic and self.support is None and not self.name:
            raise UsageError("give --support, a folder of examples, or --name for a method that needs names alone")
        if self.support is not None and (len(self.name) > 1 or (saved and self.name)):
            raise UsageError("--name beside --support: one name, of the one class that a folder of examples shows")

        self._check_track(semantic)
        export = export_options(self)
        if self.instances and self.one_a_class:
            raise UsageError("--instances keeps objects apart, --one-a-class joins them; leave one out")
        from shotseg.data.annotations.names import next_step
        from shotseg.data.listing import some
        from shotseg.data.remote import address
        from shotseg.runs import (
            check_output,
            check_tracks,
            find_photos,
            frames_of,
            parse_shard,
            put,
            segment_folder,
            write_errors,
        )

        parse_shard(self.shard)
        photos = self._pages(find_photos(self.query, self.out, **self.reading.which))
        must_exist(support=self.support)
        if self.support is not None and address(self.out) is None and self.support.resolve() == self.out.resolve():
            raise UsageError(
                f"--out {self.out}: is the folder of the examples, whose masks it would mix with; choose another"
            )
        frames = frames_of(photos, self.overlay_video) if self.track else None
        if self.engine == "ray" and len(photos) < WORTH_RAY:
            say(f"--engine ray takes about 15 s to start; below {WORTH_RAY} photos --engine local is done earlier")
        check_output(self.out, self.format)
        if self.instances:
            check_output(self.out, "instances")
        segmenter: Predictor
        with left_out() as lines:
            segmenter, settings, failed = self._semantic() if semantic else self._refined()
        unusable = [(str(self.support), line) for line in lines]
        settings |= self.reading.said | ({} if self.tile == Segment.tile else {"tile": self.tile})
        if frames is not None:
            check_tracks(segmenter, self.out)
            settings["track"] = frames.rule
        if semantic:
            put(self.out, "classes.txt", "".join(f"{name}\n" for name in segmenter.classes).encode())
        for _, reason in failed:
            say(reason)
        if not segmenter.classes:
            if address(self.out) is None:
                write_errors(self.out, [*failed, *unusable])
            raise InputError(f"{self.support}: no example can be used, nothing was segmented; mend one of the above")
        lost: dict[str, list[str]] = {}
        with progress("segmenting", len(photos)) as advance:
            segmenter.on_windows = partial(advance.part, "windows of a large image")

            def on_record(record: dict) -> None:
                advance()
                for name in record.get("lost", ()):
                    lost.setdefault(name, []).append(record["file"])
                if record["error"]:
                    say(record["error"])

            summary = segment_folder(
                segmenter,
                photos if frames is None else frames.photos,
                self.out,
                resume=self.resume,
                shard=self.shard,
                engine=self.engine,
                batch=self.batch,
                annotations=self.format,
                export=export,
                instances=self.instances,
                failed_supports=[*failed, *unusable],
                settings=settings,
                track=frames,
                on_record=on_record,
            )
        done = f"{summary.photos - summary.failed} of {summary.photos} photos done"
        print(f"{done}, report: {summary.report}" + (f", failures: {summary.errors}" if summary.errors else ""))
        for name, where in lost.items():
            print(f"{name}: lost at {some(where, 5)}")
        if self.format != "mask":
            print(next_step(self.format, self.out / self.format))
        return 1 if summary.failed or failed else 0

    def _pages(self, photos: PhotoList) -> PhotoList:
        """The photos; where it is asked for, each page of a file of several is one of its own."""
        from shotseg.runs import pages_of

        stack = self.track and Path(self.query).is_file() and self.reading.page == 1
        return pages_of(photos, self.pages or "all") if self.pages or stack else photos

    def _check_track(self, semantic: bool) -> None:
        from shotseg.data.video import is_video

        if not self.track:
            if self.overlay_video is not None:
                raise UsageError("--overlay-video is of --track; give both")
            if is_video(self.query):
                raise UsageError(f"{self.query}: a video; add --track")
            return
        if semantic:
            raise UsageError("--track is of methods that learn from examples, not of a semantic model; leave it out")
        if self.shard != Segment.shard or self.engine != Segment.engine or self.batch != Segment.batch:
            raise UsageError("--track goes through the frames in their order; leave --shard, --engine and --batch out")
        if self.overlay_video is not None and not 0.01 <= self.overlay_video <= 1000:
            raise UsageError(f"--overlay-video {self.overlay_video}: give frames a second, as 25")
        if is_video(self.query):
            if self.overlay_video is not None:
                raise UsageError(f"{self.query}: a video has its own frame rate; leave --overlay-video out")
            if self.format != "mask":
                raise UsageError(
                    f"--format {self.format} is of photo files, which a video has not; leave it out, or give a folder of frames"
                )

    def _is_semantic(self) -> bool:
        """Whether the checkpoint is of a model that labels every pixel without examples."""
        if self.checkpoint is None:
            return False
        from shotseg.models import SEMANTIC
        from shotseg.training.checkpoint import names

        return names(self.checkpoint)[0] in SEMANTIC

    def _semantic(self) -> tuple[SemanticSegmenter, dict, list[tuple[str, str]]]:
        from shotseg.models.maskformer import Inference
        from shotseg.semantic import SemanticSegmenter

        assert self.checkpoint is not None
        how = Inference(self.window, self.scales, self.flip)
        segmenter = SemanticSegmenter(self.checkpoint, self.device, self.size, how, self.soft)
        settings = {"method": segmenter.method, "encoder": segmenter.encoder, "checkpoint": identity(self.checkpoint)}
        return segmenter, {**settings, "size": self.size, "inference": str(how), "soft": self.soft}, []

    def _refined(self) -> tuple[Segmenter, dict, list[tuple[str, str]]]:
        """The same as :meth:`_segmenter`, with what redraws its masks."""
        if self.refine is None:
            return self._segmenter()
        from shotseg.device import pick_device
        from shotseg.priors import sam2

        refine = sam2.load(
            self.refine, pick_device(self.device)
        )  # first: where it cannot be had, nothing is encoded in vain
        segmenter, settings, failed = self._segmenter()
        segmenter.refine = refine
        return segmenter, {**settings, "refine": self.refine}, failed

    def _tile(self) -> int | str | None:
        if self.tile in ("auto", "off"):
            return None if self.tile == "off" else self.tile
        if not self.tile.isdecimal():
            raise UsageError(f"--tile {self.tile}: give auto, off, or the side of the windows in pixels, as 1024")
        return int(self.tile)

    def _segmenter(self) -> tuple[Segmenter, dict, list[tuple[str, str]]]:
        """The segmenter with its classes, what makes it what it is, and (file, reason) of the examples that failed."""
        from shotseg.data.annotations.opened import open_folder
        from shotseg.segmenter import Segmenter
        from shotseg.tiled import checked_tile

        if self.support is not None and self.support.suffix == ".safetensors":
            segmenter = Segmenter.load(self.support, self.encoder, self.device, self.checkpoint, self.runtime)
            self._check_trained(segmenter.method, segmenter.checkpoint)
            segmenter.present = self._present()
            segmenter.tile = checked_tile(self._tile(), segmenter.model.size)
            made_of = {"method": segmenter.method, "encoder": segmenter.encoder, "support": identity(self.support)}
            made_of |= {"present": str(segmenter.present)}
            return segmenter, made_of, []
        encoder, size = self.encoder, self.size
        if self.fast:
            if self.method != "matching" or self.checkpoint is not None or encoder != "auto" or size is not None:
                raise UsageError(
                    "--fast chooses encoder and size of matching; leave --method, --encoder and --size out"
                )
            encoder, size = FAST
        options: dict[str, Any] = {} if size is None else {"size": size}
        options |= dict.fromkeys(self.insid3, True)
        self._check_trained(self.method, self.checkpoint)
        how: dict[str, Any] = {"present": self._present(), "runtime": self.runtime, "tile": self._tile()}
        segmenter = Segmenter(self.method, encoder, self.device, self.checkpoint, **how, **options)
        options |= {"present": str(segmenter.present)}
        used: list[str] = []
        failed: list[tuple[str, str]] = []
        for name in self.name if self.support is None else ():
            used.append(name)
            if segmenter.needs != "name":
                raise UsageError(f"method {segmenter.method!r} needs examples: give --support in place of --name")
            segmenter.add(name)
        if self.support is not None:
            called = self.name[0] if self.name else None
            examples = open_folder(self.support, name=called, **self.reading.view)
            used, failed = _learn(segmenter, examples)
            options |= _made_from_names(segmenter, examples)
        settings = {"method": segmenter.method, "encoder": segmenter.encoder, **options, "examples": used}
        if self.checkpoint is not None:
            settings["checkpoint"] = identity(self.checkpoint)
        return segmenter, settings, failed

    def _present(self) -> float | None:
        return None if self.known else self.present

    def _check_trained(self, method: str, checkpoint: Path | None) -> None:
        """Raise UsageError for a method whose masks would mean nothing."""
        from shotseg.models import list_models, must_learn

        if checkpoint is None and not self.untrained and method in list_models() and must_learn(method, alone=True):
            raise UsageError(
                f"method {method!r} has learnt nothing yet, its masks would mean nothing; give the --checkpoint of a "
                "`shotseg train` run, choose --method matching, or add --untrained"
            )


def _learn(segmenter: Segmenter, examples: FolderDataset | AnnotatedDataset) -> tuple[list[str], list[tuple[str, str]]]:
    """Add every example; ids of those that were used, and (file, reason) of those that failed."""
    from shotseg.device import one_thread_each
    from shotseg.integrations.supports import add_examples

    used, failed = [], []
    known = cache(identity)  # one annotation file holds many examples
    with one_thread_each():
        added = list(add_examples(segmenter, examples))
    for item, error in added:
        if error is not None:
            failed.append((str(item.image_path), str(error)))
            continue
        drawn = " ".join(map(known, item.mask_paths)) or "no mask"
        value = "" if item.class_value is None else f" {item.class_value}"
        used.append(f"{item.id} {item.content[:16]} {drawn}{value}")
    return used, failed


def _made_from_names(segmenter: Segmenter, examples: FolderDataset | AnnotatedDataset) -> dict[str, str]:
    """Says which examples have no mask where the method needs one; the same for the report."""
    bare = [item.id for item in examples.items if item.mask_path is None]
    if not bare or segmenter.needs != "masks":
        return {}
    some = ", ".join(bare[:5]) + (", ..." if len(bare) > 5 else "")
    say(
        f"{examples.root}: {len(bare)} of {len(examples)} examples have no mask, theirs is made from the class name: {some}"
    )
    return {"masks made from the class name": f"{len(bare)} of {len(examples)} examples ({some})"}
