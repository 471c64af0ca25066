"""Every experiment names recipes and choices that exist, so that it can be run again."""

from pathlib import Path

import pytest
import yaml

from shotseg.training import recipe as recipes

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))


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


def test_every_script_and_experiment_that_the_documents_name_is_there():
    named = {
        word.strip("`.,:;")
        for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
        for word in page.read_text(encoding="utf-8").split()
        if word.strip("`").startswith(("scripts/", "experiments/"))
    }
    assert named and not [name for name in named if not (ROOT / name).is_file()]
