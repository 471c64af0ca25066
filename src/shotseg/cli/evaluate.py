"""``shotseg evaluate``: numbers with intervals, controls and every choice written down."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from shotseg.cli import evaluated
from shotseg.cli.console import progress, say, table
from shotseg.cli.output import check_out
from shotseg.cli.parsing import must_exist
from shotseg.data.reading import AS_SEEN, Reading
from shotseg.errors import UsageError

READ_BY_EFFORT = {
    "dataset",
    "root",
    "reading",
    "out",
    "method",
    "encoder",
    "checkpoint",
    "fold",
    "shot",
    "classes",
    "kind",
}
READ_BY_EFFORT |= {"min_area", "folds", "episodes", "seeds", "size", "device", "cache_mb", "effort"}


@dataclass(frozen=True)
class Evaluate:
    """Measure a few-shot method, beside controls that know nothing of the class and published numbers where known.

    Writes a JSON file (scores in percent, 95 % intervals, the counts of every episode, the whole protocol) and an HTML report
    beside it. With --compare: is one result better than another on the same episodes?

    example: shotseg evaluate folder --root my_photos --shot 1 --seeds 0 1 2 --out result.json
    """

    dataset: tyro.conf.Positional[str] = ""
    """ "folder", a prepared data set (see: shotseg list datasets), or in place of "folder --root PATH" the path itself."""
    root: Path | None = None
    """Folder of the data set; of "folder" images/<class>/ with masks/<class>/, or annotations of another tool."""
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
    """Classes asked for at once, of which a query shows few; with --protocol cst, CST's own episodes and scores."""
    queries: int = 10
    """With --way: photos of each class that are asked for all of them, for each seed's draw of the examples."""
    present: float = 0.5
    """With --way: presence from which a class is said to be in a photo."""
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
    reading: Reading = AS_SEEN

    def run(self) -> int:
        if self.compare:
            return self._compare(*self.compare)
        if self.root is None and self.dataset != "folder" and Path(self.dataset).exists() and self.dataset:
            return replace(self, dataset="folder", root=Path(self.dataset)).run()
        if not self.dataset or self.root is None or self.out is None:
            raise UsageError(
                "give a data set, --root and --out, as: shotseg evaluate folder --root photos --out x.json"
            )
        for name in ("shot", "way", "queries", "batch", "cache_mb"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be 1 or more")
        if self.size is not None and self.size < 1:
            raise UsageError(f"--size {self.size}: must be 1 or more")
        if self.workers < 0:
            raise UsageError(f"--workers {self.workers}: must be 0 or more")
        self._check_ways()
        if self.effort:
            self._refuse([f.name for f in fields(self) if f.name not in READ_BY_EFFORT], "--effort")
        if self.out.suffix != ".json":
            raise UsageError(f"--out {self.out}: name a file that ends in .json")
        check_out(self.out)
        must_exist(root=self.root, checkpoint=self.checkpoint)
        from shotseg.models import SEMANTIC

        if evaluated.names(self)[0] not in SEMANTIC:
            return self._evaluate(self.root, self.out)
        if self.checkpoint is None:
            raise UsageError(f"--method {self.method}: it knows only the classes of its training; give --checkpoint")
        read = ("dataset", "root", "out", "method", "encoder", "checkpoint", "size", "device")
        self._refuse([f.name for f in fields(self) if f.name not in read], "the checkpoint of a semantic model")
        return self._semantic(self.root, self.out)

    def _check_ways(self) -> None:
        if not 0 <= self.present <= 1:
            raise UsageError(f"--present {self.present}: must be from 0 to 1")
        if self.way == 1 or self.protocol == "cst":
            self._refuse(("queries", "present"), "--way 1" if self.way == 1 else "--protocol cst")
        if self.way > 1:
            if self.protocol not in ("shotseg", "cst"):
                raise UsageError(
                    f"--protocol {self.protocol} asks for one class; with --way {self.way}: shotseg or cst"
                )
            other = ("resume",) if self.protocol == "cst" else ("episodes",)
            self._refuse(("score_at", "fusion", "ignore_band", "rule", *other), "--way above 1")

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
        from shotseg.evaluation.pool import Pool, areas
        from shotseg.evaluation.protocols import draw_episodes, list_hash
        from shotseg.evaluation.run import Evaluator, evaluate, partial_files
        from shotseg.evaluation.several import Several

        workers = self.workers or torch.get_num_threads()
        protocol = evaluated.protocol(self)
        dataset, classes = evaluated.data_set(self, root)
        pool = Pool(dataset, classes, self.shot, protocol.min_pixels, areas(dataset, protocol.min_pixels))
        model, device = evaluated.model(self)
        parts = (model, dataset, pool, protocol, device, self.cache_mb)
        about = evaluated.about(self, dataset)
        if self.effort:
            return self._effort(Evaluator(*parts), about, out)
        if self.way > 1 and self.protocol == "cst":
            return self._ways(Evaluator(*parts), about, out)
        if self.way > 1:
            several = Several(*parts, threshold=self.present, confidence=_confidence)
            return self._several(several, about, out, workers)
        lists = {seed: draw_episodes(protocol, pool, self.shot, seed) for seed in protocol.seeds}
        episodes = [episode for listed in lists.values() for episode in listed]
        evaluator = Evaluator(*parts)
        protocol = evaluator.protocol
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
        }
        host = type(model.host).__name__.lower() if hasattr(model, "host") else None
        content["published"] = results.published_beside(content, len(classes) == len(dataset.classes), host)
        page = report.page(content, report.best_and_worst(evaluator, content, episodes))
        write_bytes(out.with_suffix(".report.html"), page.encode())
        write_bytes(out, json.dumps(content, ensure_ascii=False).encode())
        for path in partial_files(partial):
            path.unlink()
        title = f"{self.dataset}, {len(classes)} classes, {self.shot}-shot, {len(episodes)} episodes, {protocol.name}"
        table(title, ("percent", "mIoU", "95 % interval", "FB-IoU"), results.lines(content), ("mIoU", "FB-IoU"))
        if unmet := results.unmet(content):
            say(unmet)
        if results.published(about["method"], self.dataset, self.shot) and not content["published"]:
            say(
                f"published numbers of {about['method']}: not shown, they have other folds, another encoder or another protocol"
            )
        if protocol.overridden:
            say(f"not the preset {protocol.name}: changed {', '.join(protocol.overridden)}")
        print(f"result: {out}, report: {out.with_suffix('.report.html')}")
        return 0

    def _effort(self, evaluator: Any, about: dict[str, Any], out: Path) -> int:
        from shotseg.data.images import write_bytes
        from shotseg.evaluation import effort, results

        photos, seeds, classes = self.episodes or 12, evaluator.protocol.seeds, evaluator.pool.classes
        person = effort.Person()
        with progress("correcting", len(effort.RUNS) * len(seeds) * len(classes)) as advance:
            rows = effort.measure(evaluator, self.shot, photos, seeds, person, advance)
        about = {**about, "size": evaluator.size, "seeds": seeds}
        content = {**effort.result(about, rows, person, photos), "environment": results.environment(evaluator.device)}
        write_bytes(out, json.dumps(content, ensure_ascii=False).encode())
        columns = ("run", "strokes a photo", "95 % interval", "% none at 0.8", "% none at 0.85", "% given up")
        title = f"{self.dataset}, {len(classes)} classes, {self.shot}-shot, {photos} photos a class and seed"
        table(title, columns, effort.lines(content), columns[1:])
        low, high = content["carried_to_alone_interval"]
        print(f"carried / alone: {content['carried_to_alone']:.2f} ({low:.2f} .. {high:.2f})")
        print(f"result: {out}")
        return 0

    def _ways(self, evaluator: Any, about: dict[str, Any], out: Path) -> int:
        from shotseg.data.images import write_bytes
        from shotseg.evaluation import n_way
        from shotseg.evaluation.protocols import preset

        content = n_way.result(evaluator, about, self.way, self.shot, preset("cst", self.dataset).rule)
        write_bytes(out, json.dumps(content, ensure_ascii=False, default=str).encode())
        title = f"{self.dataset}, {self.way}-way {self.shot}-shot, {content['protocol']['episodes']} episodes a seed"
        rows = [(name, f"{content[name]:.1f}") for name in ("miou", "exact_ratio")]
        table(title, ("percent", "value"), rows, ("value",))
        print(f"result: {out}")
        return 0

    def _several(self, several: Any, about: dict[str, Any], out: Path, workers: int) -> int:
        from shotseg.evaluation import several_run, several_scores

        lists = several_run.queries_of(several, self.way, self.shot, self.queries)
        total = sum(map(len, lists.values()))
        about = {**about, "way": self.way, "queries": self.queries}
        with progress("evaluating", 2 * total) as advance:

            def on_rows(count: int) -> None:
                for _ in range(count):
                    advance()

            content = several_run.evaluate(several, lists, about, out, self.resume, workers, self.batch, on_rows)
        if content is None:  # another process of this run writes the result
            return 0
        title = f"{self.dataset}, {self.way}-way {self.shot}-shot, {total} queries in {len(lists)} draws"
        table(title, ("percent", "value", "95 % interval"), several_scores.lines(content), ("value",))
        if unasked := several_run.unasked(content):
            say(unasked)
        print(f"result: {out}, report: {out.with_suffix('.report.html')}")
        return 0

    def _compare(self, first: Path, second: Path) -> int:
        from shotseg.data.images import write_bytes
        from shotseg.evaluation.results import compare

        if self.out is not None:
            check_out(self.out)
        found = compare(first, second)
        row = (f"{found['difference']:+.2f}", f"{found['low']:+.2f} .. {found['high']:+.2f}", f"{found['p']:.3f}")
        title = f"mIoU {found['miou'][0]:.1f} and {found['miou'][1]:.1f} on the same {found['episodes']} episodes"
        table(title, ("difference", "95 % interval", "p"), [row])
        if self.out is not None:
            write_bytes(self.out, json.dumps(found, ensure_ascii=False).encode())
        return 0


def _confidence(image: Any, labels: Any, probabilities: Any, present: Any) -> float:
    """What :class:`shotseg.result.Result` says of the whole photo."""
    from shotseg.result import Result

    names = tuple(f"{i}" for i in range(len(probabilities)))
    said = dict(zip(names, map(float, present)))
    return Result(image, names, labels, dict(zip(names, probabilities)), present=said).confidence
