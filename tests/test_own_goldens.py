"""Own golden values: every system gives today what it gave on the day its values were stored (``tests/goldens/README.md``)."""

import json

import pytest

import golden
from goldens import cases
from shotseg import models

# Of a tensor's range: what may differ on another processor. A class that is nearly there or not has numbers that move more.
SHARE = {"matching": 0.02}


@pytest.fixture(scope="module")
def stored():
    return golden.tensors(cases.VALUES)[0]


@pytest.mark.filterwarnings("ignore:.*has learnt nothing yet")
@pytest.mark.parametrize("case", cases.CASES)
def test_a_system_gives_the_values_that_it_gave_before(case, stored):
    found, known = cases.CASES[case](), {k.partition("/")[2]: x for k, x in stored.items() if k.startswith(f"{case}/")}
    assert found.keys() == known.keys()
    for name, expected in known.items():
        span = max(float(expected.abs().max()), 1e-3)
        golden.assert_close(name, cases.kept(found[name]), expected, atol=SHARE.get(case, 0.003) * span)


def test_every_protocol_draws_the_episodes_that_it_drew_before():
    assert cases.drawn() == json.loads(cases.DRAWS.read_text(encoding="utf-8"))


def test_the_own_golden_values_are_few_and_each_says_something(stored):
    assert cases.VALUES.stat().st_size < 300_000
    assert {name.partition("/")[0] for name in stored} == cases.CASES.keys() >= set(models.list_models())
    assert all(x.isfinite().all() for x in stored.values())
    assert [name for name, x in stored.items() if not x.any()] == ["matching/hair/0002 dress probability"]
