"""``shotseg evaluate``: numbers with intervals, controls and every choice written down."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from shotseg.cli.console import progress, say, table
from shotseg.errors import UsageError

EFFORT = {
    "dataset",
    "root",
    "out",
    "method",
    "encoder",
    "checkpoint",
    "fold",
    "shot",
    "classes",
    "kind",
    "min_area",
    "folds",
}
EFFORT |= {"episodes", "seeds", "size", "device", "cache_mb", "effort"}  # the options that --effort reads


@dataclass(frozen=True)
class Evaluate:
    """Measure a few-shot method, beside controls that know nothing of the class and published numbers where known.

    Writes a JSON file (scores in percent, 95 % intervals, the counts of every episode, the whole protocol) and an HTML report
    beside it. With --compare: is one result better than another on the same episodes?

    example: shotseg evaluate folder --root my_photos --shot 1 --seeds 0 1 2 --out result.json
    """

    dataset: tyro.conf.Positional[str] = ""
    """ "folder" (images/<class>/, masks/<class>/) or a prepared data set; see: shotseg list datasets."""
    root: Path | None = None
    """Folder of the data set."""
    out: Path | None = None
    """Result file (.json); the report is written beside it as .report.html."""
    method: str = "matching"
    """See: shotseg list models."""
    encoder: str = "auto"
    """See: shotseg list encoders. "auto" is the method's own, for most the one that needs no download."""
    checkpoint: Path | None = None
    """A trained model (best.safetensors of a run); its own recipe then says method and encoder."""
    fold: str | None = None
    """Test fold: a number or a name, as the data set has it; default all classes."""
    shot: int = 1
    """Support photos in each episode."""
    way: int = 1
    """Classes asked for at once, of which a query may show none; above 1 episodes and scores are CST's."""
    effort: bool = False
    """Count the strokes of a simulated person who corrects --episodes photos of each class (default 12), see docs/effort.md."""
    classes: tuple[str, ...] = ()
    """Test only these classes."""
    kind: str | None = None
    """Of a folder with label maps: only classes of this kind in classes.csv, as "thing"."""
    min_area: float = 0.0
    """Of a folder with label maps: leave out what covers a smaller fraction of its photo."""
    folds: str | None = None
    """Fold definition, where a data set has several (COCO: interleaved, contiguous)."""
    protocol: Literal["shotseg", "hsnet", "pfenet", "bam", "hdmnet", "pi-clip", "tlg", "cst"] = "shotseg"
    """Preset; each flag below changes one of its choices, and the result says so. See: shotseg list protocols."""
    episodes: int | None = None
    """Episodes in each run."""
    seeds: tuple[int, ...] = ()
    """One run for each."""
    size: int | None = None
    """Working size in pixels."""
    geometry: Literal["fit", "squash", "pad"] | None = None
    """Aspect kept, not kept, or padded to a square."""
    score_at: Literal["original", "working", "square"] | None = None
    """Where pixels are counted."""
    fusion: Literal["model", "vote", "mean"] | None = None
    """How several shots become one mask."""
    ignore_band: Literal["exclude", "background"] | None = None
    """What pixels labelled 255 are."""
    rule: Literal["shotseg", "hsnet", "hsnet-coco", "pfenet", "cst"] | None = None
    """How episodes are drawn."""
    device: str = "auto"
    """cpu, cuda, mps, or "auto"."""
    workers: int = 0
    """Threads that read, encode and decide; 0 = one for each core. Never changes a count."""
    batch: int = 8
    """Episodes that a worker takes at a time. Never changes a count."""
    cache_mb: int = 2000
    """Bound on the photos, features and supports kept in memory. Never changes a count."""
    resume: bool = False
    """Go on where an interrupted run stopped."""
    compare: tuple[Path, Path] | None = None
    """Two result files of the same episodes; no data set is needed then."""

    def run(self) -> int:
        if self.compare:
            return self._compare(*self.compare)
        if not self.dataset or self.root is None or self.out is None:
            raise UsageError(
                "give a data set, --root and --out, as: shotseg evaluate folder --root photos --out x.json"
            )
        for name in ("shot", "way", "batch", "cache_mb"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be 1 or more")
        if self.size is not None and self.size < 1:
            raise UsageError(f"--size {self.size}: must be 1 or more")
        if self.workers < 0:
            raise UsageError(f"--workers {self.workers}: must be 0 or more")
        if self.way > 1:
            self._refuse(("score_at", "fusion", "ignore_band", "rule", "resume"), "--way above 1")
        if self.effort:
            self._refuse([f.name for f in fields(self) if f.name not in EFFORT], "--effort")
        if self.out.suffix != ".json":
            raise UsageError(f"--out {self.out}: name a file that ends in .json")
        from shotseg.models import SEMANTIC

        if self._names()[0] not in SEMANTIC:
            return self._evaluate(self.root, self.out)
        if self.checkpoint is None:
            raise UsageError(f"--method {self.method}: it knows only the classes of its training; give --checkpoint")
        read = ("dataset", "root", "out", "method", "encoder", "checkpoint", "size", "device")
        self._refuse([f.name for f in fields(self) if f.name not in read], "the checkpoint of a semantic model")
        return self._semantic(self.root, self.out)

    def _refuse(self, names: Sequence[str], why: str) -> None:
        """Raise UsageError for the first of these options that is not as it was left."""
        for name in names:
            if getattr(self, name) != getattr(Evaluate, name):
                raise UsageError(f"--{name.replace('_', '-')} changes nothing with {why}; leave it out")

    def _semantic(self, root: Path, out: Path) -> int:
        """Base, novel and harmonic mIoU of a semantic model, on the test photos or those that training held out."""
        from shotseg.data.images import sha256, write_bytes
        from shotseg.device import pick_device
        from shotseg.evaluation import semantic
        from shotseg.training import checkpoint, weak_shot
        from shotseg.training.recipe import build, plain

        assert self.checkpoint is not None
        device = str(pick_device(self.device))
        recipe = build(checkpoint.read(self.checkpoint)[1]["recipe"])
        photos = weak_shot.test_photos(recipe, self.dataset, root)
        model, names = checkpoint.load_semantic(self.checkpoint, device, self.size)
        if names != photos.classes:
            raise UsageError(
                f"{self.checkpoint}: trained for other classes than {root} has; give the data set of its training"
            )
        with progress("evaluating", len(photos)) as advance:
            predict = lambda image: model.segment(image).argmax(0).cpu().numpy()  # noqa: E731
            counts = semantic.measure(predict, photos, advance)
        content = {**semantic.result(counts, photos), "recipe": plain(recipe), "checkpoint": sha256(self.checkpoint)}
        write_bytes(out, json.dumps(content, ensure_ascii=False).encode())
        rows = [
            (name, f"{content[name]:.1f}", "{} .. {}".format(*content["interval"][name]))
            for name in content["interval"]
        ]
        table(
            f"{self.dataset}, {len(photos)} photos, {len(names)} classes", ("percent", "score", "95 % interval"), rows
        )
        print(f"result: {out}")
        return 0

    def _evaluate(self, root: Path, out: Path) -> int:
        import torch

        from shotseg.data.images import write_bytes
        from shotseg.evaluation import report, results
        from shotseg.evaluation.protocols import Pool, draw_episodes, list_hash
        from shotseg.evaluation.run import Evaluator, evaluate, partial_files

        workers = self.workers or torch.get_num_threads()
        protocol = self._protocol()
        dataset, classes = self._data(root)
        pool = Pool(dataset, classes, self.shot, protocol.min_pixels, _areas(dataset, protocol.min_pixels))
        if self.effort:
            return self._effort(dataset, pool, protocol, out)
        lists = {seed: draw_episodes(protocol, pool, self.shot, seed) for seed in protocol.seeds}
        episodes = [episode for listed in lists.values() for episode in listed]
        model, device = self._model()
        evaluator = Evaluator(model, dataset, pool, protocol, device, self.cache_mb)
        protocol = evaluator.protocol
        about = self._about(dataset)
        if self.way > 1:
            return self._ways(evaluator, about, out)
        hashes = [list_hash(pool, listed) for listed in lists.values()]
        fingerprint = json.dumps([about, asdict(protocol), hashes, str(device)], sort_keys=True, default=str)
        partial = out.with_suffix(".partial.jsonl")
        start, counted = time.perf_counter(), [0]  # without what an interrupted run had counted
        with progress("evaluating", len(episodes)) as advance:

            def on_rows(count: int) -> None:
                counted[0] += count
                for _ in range(count):
                    advance()

            rows = evaluate(evaluator, episodes, partial, fingerprint, self.resume, workers, self.batch, on_rows)
        seconds = (time.perf_counter() - start) / max(1, counted[0])
        if rows is None:  # another process of this run writes the result
            return 0
        content = {
            **results.result(about, protocol, pool, lists, rows),
            "seconds_per_episode": round(seconds, 5),
            "environment": results.environment(device),
            "published": results.published(about["method"], self.dataset, self.shot),
        }
        page = report.page(content, report.best_and_worst(evaluator, content, episodes))
        write_bytes(out.with_suffix(".report.html"), page.encode())
        write_bytes(out, json.dumps(content, ensure_ascii=False).encode())
        for path in partial_files(partial):
            path.unlink()
        title = f"{self.dataset}, {len(classes)} classes, {self.shot}-shot, {len(episodes)} episodes, {protocol.name}"
        table(title, ("percent", "mIoU", "95 % interval", "FB-IoU"), results.lines(content), ("mIoU", "FB-IoU"))
        if protocol.overridden:
            say(f"not the preset {protocol.name}: changed {', '.join(protocol.overridden)}")
        print(f"result: {out}, report: {out.with_suffix('.report.html')}")
        return 0

    def _about(self, dataset: Any) -> dict[str, Any]:
        """What is measured on what, as a result file says it."""
        from shotseg.data.images import sha256

        method, encoder = self._names()
        return {
            "method": method,
            "encoder": encoder,
            "checkpoint": None
            if self.checkpoint is None
            else {"file": str(self.checkpoint), "sha256": sha256(self.checkpoint)},
            "dataset": self.dataset,
            "fold": int(self.fold) if self.fold and self.fold.isdecimal() else self.fold,
            "shot": self.shot,
            "data": getattr(dataset, "choices", {"root": str(self.root), "kind": self.kind, "min_area": self.min_area}),
        }

    def _effort(self, dataset: Any, pool: Any, protocol: Any, out: Path) -> int:
        from shotseg.data.images import write_bytes
        from shotseg.evaluation import effort, results
        from shotseg.evaluation.run import Evaluator

        model, device = self._model()
        evaluator, photos = Evaluator(model, dataset, pool, protocol, device, self.cache_mb), self.episodes or 12
        person = effort.Person()
        with progress("correcting", len(effort.RUNS) * len(protocol.seeds) * len(pool.classes)) as advance:
            rows = effort.measure(evaluator, self.shot, photos, protocol.seeds, person, advance)
        about = {**self._about(dataset), "size": evaluator.size, "seeds": protocol.seeds}
        content = {**effort.result(about, rows, person, photos), "environment": results.environment(device)}
        write_bytes(out, json.dumps(content, ensure_ascii=False).encode())
        columns = ("run", "strokes a photo", "95 % interval", "% none at 0.8", "% none at 0.85", "% given up")
        title = f"{self.dataset}, {len(pool.classes)} classes, {self.shot}-shot, {photos} photos a class and seed"
        table(title, columns, effort.lines(content), columns[1:])
        low, high = content["carried_to_alone_interval"]
        print(f"carried / alone: {content['carried_to_alone']:.2f} ({low:.2f} .. {high:.2f})")
        print(f"result: {out}")
        return 0

    def _ways(self, evaluator: Any, about: dict[str, Any], out: Path) -> int:
        from shotseg.data.images import write_bytes
        from shotseg.evaluation import n_way

        protocol, scores = replace(evaluator.protocol, **n_way.FIXED), {}
        for seed in protocol.seeds:
            episodes = n_way.draw(evaluator.pool, self.way, self.shot, seed, protocol.episodes)
            scores[seed] = n_way.evaluate(evaluator, episodes)
        means = {name: sum(s[name] for s in scores.values()) / len(scores) for name in ("miou", "exact_ratio")}
        content = {**about, "way": self.way, "protocol": asdict(protocol), **means, "per_seed": scores}
        write_bytes(out, json.dumps(content, ensure_ascii=False, default=str).encode())
        title = f"{self.dataset}, {self.way}-way {self.shot}-shot, {protocol.episodes} episodes a seed"
        table(title, ("percent", "value"), [(name, f"{value:.1f}") for name, value in means.items()], ("value",))
        print(f"result: {out}")
        return 0

    def _protocol(self) -> Any:
        from shotseg.evaluation.protocols import preset

        return preset(self.protocol, self.dataset).override(
            episodes=self.episodes,
            seeds=self.seeds or None,
            size=self.size,
            geometry=self.geometry,
            score_at=self.score_at,
            fusion=self.fusion,
            ignore_band=self.ignore_band,
            rule=self.rule,
        )

    def _data(self, root: Path) -> tuple[Any, list[str]]:
        """The data set and the names of the classes to test."""
        from shotseg import data

        if self.dataset == "folder":
            dataset: Any = data.load("folder", root, kind=self.kind, min_area=self.min_area)
            wanted = dataset.classes
            if self.fold is not None:
                found = {str(fold): names for fold, names in dataset.folds.items()}
                if self.fold not in found:
                    raise UsageError(f"{root}: no fold {self.fold!r}; index.csv has {', '.join(found) or 'none'}")
                wanted = found[self.fold]
        else:
            family = "pfenet" if self.protocol in ("pfenet", "bam", "hdmnet", "pi-clip") else "hsnet"
            # the class of a query is drawn among all that it shows; the pool itself asks for the least area
            least = 1 if self._protocol().min_pixels else None
            view = {"split": "test", "fold": self.fold, "family": family, "folds": self.folds, "min_pixels": least}
            dataset = data.load(self.dataset, root, **view)
            wanted = dataset.classes
        if unknown := set(self.classes) - set(wanted):
            raise UsageError(f"no class {sorted(unknown)[0]!r} to test; there is {', '.join(wanted)}")
        if self.classes:
            return dataset, [name for name in wanted if name in self.classes]
        enough = _with_enough_photos(dataset, wanted, self.shot)
        if left_out := [name for name in wanted if name not in enough]:
            say(f"left out, fewer than {self.shot + 1} photos: {', '.join(left_out)}")
        if not enough:
            raise UsageError(f"{root}: no class has the {self.shot + 1} photos with masks that {self.shot} shots need")
        return dataset, enough

    def _model(self) -> tuple[Any, Any]:
        import os

        from shotseg import encoders, models
        from shotseg.device import pick_device

        local = os.environ.get("LOCAL_RANK")
        device = pick_device(self.device)
        if device.type == "cuda" and local is not None:
            device = pick_device(f"cuda:{local}")
        if self.checkpoint is not None:
            from shotseg.training.checkpoint import load_model

            return load_model(self.checkpoint, str(device)), device
        method, encoder = self._names()
        model = models.load(method, encoders.load(encoder, device=str(device)))
        models.warn_untrained(method, model)
        return model.to(device).eval(), device

    def _names(self) -> tuple[str, str]:
        """Method and encoder, of the flags or of the checkpoint."""
        from shotseg import models

        if self.checkpoint is None:
            return self.method, models.encoder_for(self.method) if self.encoder == "auto" else self.encoder
        from shotseg.training.checkpoint import names

        return names(self.checkpoint)

    def _compare(self, first: Path, second: Path) -> int:
        from shotseg.data.images import write_bytes
        from shotseg.evaluation.results import compare

        found = compare(first, second)
        row = (f"{found['difference']:+.2f}", f"{found['low']:+.2f} .. {found['high']:+.2f}", f"{found['p']:.3f}")
        title = f"mIoU {found['miou'][0]:.1f} and {found['miou'][1]:.1f} on the same {found['episodes']} episodes"
        table(title, ("difference", "95 % interval", "p"), [row])
        if self.out is not None:
            write_bytes(self.out, json.dumps(found, ensure_ascii=False).encode())
        return 0


def _with_enough_photos(dataset: Any, names: list[str], shots: int) -> list[str]:
    photos: dict[str, set[str]] = {name: set() for name in names}
    for item in dataset.items:
        if item.class_name in photos and item.mask_path is not None:
            photos[item.class_name].add(item.content)
    return [name for name in names if len(photos[name]) > shots]


def _areas(dataset: Any, min_pixels: int) -> list[int] | None:
    """Foreground pixels of every item, where the protocol asks for a least number."""
    if not min_pixels:
        return None
    if hasattr(dataset, "areas"):
        return list(dataset.areas)
    return [int((dataset.sample(i).mask == 1).sum()) for i in range(len(dataset.items))]
