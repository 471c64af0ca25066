"""Every experiment names recipes and choices that exist, so that it can be run again."""

import importlib
import json
import os
from pathlib import Path

import pytest
import yaml

from shotseg.training import recipe as recipes
from training_miniature import squares

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = sorted(path for path in (ROOT / "experiments").glob("*.yaml") if path.stem != "results")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_row_of_an_experiment_is_a_recipe_that_can_be_read(path):
    plan = yaml.safe_load(path.read_text())
    rows = plan["rows"]
    assert plan["against"] in rows and set(plan) <= {"against", "rows", "changes", "controls"}
    for row in rows.values():
        assert set(row) <= {"recipe", "changes", "at_test", "weights"}
        assert row.get("weights", plan["against"]) in rows
        recipes.load(row["recipe"], **plan.get("changes", {}))
        own = recipes.load(row["recipe"], **row.get("changes", {}))
        assert row.get("changes", {}).get("model", {}).get("options", {}).items() <= own.model.options.items()


@pytest.fixture
def comparison(monkeypatch):
    """scripts/results.py, and its plan."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    module = importlib.import_module("results")
    return module, yaml.safe_load(module.PLAN.read_text())


def test_every_row_of_the_comparison_is_a_recipe_on_the_same_encoder_and_size(comparison):
    module, plan = comparison
    for row in module.learners(plan).values():
        recipe = recipes.load(row["recipe"], **module.merged(plan["changes"], row.get("changes", {})))
        assert recipe.model.encoder == row.get("encoder", plan["encoder"])
        assert recipe.steps == row.get("changes", {}).get("steps", plan["changes"]["steps"])


def test_the_page_of_the_comparison_says_what_is_measured_and_what_is_not_run(comparison, tmp_path):
    module, plan = comparison
    photos = squares(tmp_path / "data/pascal_coseg15", each=3)
    plan["sets"] = {"pascal_coseg15": {"folds": ["0"]}}
    plan["changes"]["model"]["size"] = 64
    run = module.Results(tmp_path / "data", tmp_path / "out", tmp_path / "page.md", episodes=2)
    task = module.Task("matching", "pascal_coseg15", "0", "1 shot")
    (photos / "index.csv").write_text(
        "class,file,fold\n"
        + "".join(f"{name},{i}.png,{int(name == 'disc')}\n" for name in ("disc", "stripe", "cross") for i in range(3))
    )
    module.measure(run, plan, task)
    page = module.page(run, plan)
    row = next(line for line in page.splitlines() if line.startswith("| masks | matching |"))
    assert row.count("not run") == 2 and "| masks | BAM |" not in page
    assert module.pooled([(50.0, 47.0, 53.0), (60.0, 56.0, 64.0)]) == (55.0, 52.5, 57.5)


def test_means_and_their_heading_are_of_the_folds_that_every_row_has(comparison):
    module, _ = comparison
    done = {("PFENet", "0"), ("PFENet", "1"), ("matching", "0"), ("matching", "1"), ("matching", "2")}
    found = {
        module.Task(row, "photos", fold, "1 shot"): f"{row} {fold}" if (row, fold) in done else None
        for row in ("matching", "PFENet", "BAM")
        for fold in "012"
    }
    assert module.whole_folds(found, "photos", "1 shot") == ["0", "1"]
    assert module.results(found, "matching", "photos", "1 shot") == ["matching 0", "matching 1"]
    assert module.results(found, "BAM", "photos", "1 shot") == []


def test_what_was_measured_travels_with_the_project_and_is_not_measured_again(comparison, tmp_path, monkeypatch):
    module, _ = comparison
    monkeypatch.setattr(module, "MEASURED", tmp_path / "measured.tar.xz")
    first, second = (module.Results(tmp_path / "data", tmp_path / out) for out in ("here", "there"))
    module.unpack(first)  # nothing yet
    (tmp_path / "here/measured").mkdir(parents=True)
    (tmp_path / "here/measured/a.json").write_text(
        f'{{"file": "{tmp_path}/here/runs/a", "root": "{tmp_path}/data/photos"}}'
    )
    os.utime(tmp_path / "here/measured/a.json", (86400, 86400))
    (tmp_path / "there/measured").mkdir(parents=True)
    (tmp_path / "here/measured/b.json").write_text("1")
    (tmp_path / "there/measured/b.json").write_text("2")  # measured anew
    module.pack(first)
    module.unpack(second)
    kept = tmp_path / "there/measured/a.json"
    assert json.loads(kept.read_text()) == {"file": "results/runs/a", "root": "data/photos"}
    assert kept.stat().st_mtime == 86400 and (tmp_path / "there/measured/b.json").read_text() == "2"


def test_every_script_and_experiment_that_the_documents_name_is_there():
    named = {
        word.strip("`.,:;")
        for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
        for word in page.read_text(encoding="utf-8").split()
        if word.strip("`").startswith(("scripts/", "experiments/"))
    }
    assert named and not [name for name in named if not (ROOT / name).is_file()]
