import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test waits for a network
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in every process that a test starts

import copy

import pytest

from page_browser import address, chromium, many, opened, photos  # noqa: F401


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """The whole suite runs on every core, where pytest-xdist is installed and no other number is asked for (`-n 0`: none)."""
    asked, worker = config.option, hasattr(config, "workerinput")
    if config.pluginmanager.hasplugin("xdist") and not worker and not asked.file_or_dir and asked.numprocesses is None:
        asked.numprocesses, asked.dist = "auto", "worksteal"


@pytest.fixture(scope="session", autouse=True)
def encoders_of_the_installation_are_read_once():
    """Each load is a copy, so that a test may change its own. None of them draws a random number."""
    import torch

    from shotseg import encoders

    build, read = encoders._build, {}

    def copied(row, weights):
        if not (row.name.startswith("efficientnet") and weights == "default"):
            return build(row, weights)
        if row.name not in read:
            with torch.random.fork_rng(devices=[]):
                read[row.name] = build(row, weights)
        return copy.deepcopy(read[row.name])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "_build", copied)
        yield


@pytest.fixture(scope="session", autouse=True)
def curves():
    """What draws those of a training's report: only where a test asks for it, for it takes as long as a short training."""
    from shotseg.training import progress

    drawn = progress._curves
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "_curves", lambda lines, name: "data:,")
        yield drawn


@pytest.fixture(autouse=True)
def same_random_numbers_in_every_test():
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def page_segmenter():
    from shotseg import Segmenter

    return Segmenter(size=96)


@pytest.fixture
def segmenter(page_segmenter):
    """A small one that knows no class."""
    for name in page_segmenter.classes:
        page_segmenter.remove(name)
    return page_segmenter


@pytest.fixture
def page(tmp_path, segmenter):
    """A client of the page of a project with four photos."""
    from page_client import client_of
    from page_project import project_of

    with client_of(project_of(tmp_path, 4), segmenter) as client:
        yield client
