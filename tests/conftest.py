import contextlib
import gc
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test waits for a network
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in every process that a test starts

import pytest

import once
from page_browser import address, chromium, many, opened, photos  # noqa: F401

# What tests write lies here where there is room: a disk takes 15 % more time, and twice that if it is busy.
MEMORY = Path("/dev/shm")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """The whole suite runs on every core, where pytest-xdist is installed and no other number is asked for (`-n 0`: none)."""
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4e9:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
    asked, worker = config.option, hasattr(config, "workerinput")
    if config.pluginmanager.hasplugin("xdist") and not worker and not asked.file_or_dir and asked.numprocesses is None:
        asked.numprocesses, asked.dist = "auto", "worksteal"


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """Imports leave no garbage, and to look for it takes a quarter of their time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish(session):
    """What is imported lives to the end: to look through it for garbage takes 4 % of the time."""
    gc.freeze()
    gc.enable()
    if "warm" in sys.modules and session.items:
        sys.modules["warm"].fork_the_server()


@pytest.fixture(scope="session", autouse=True)
def curves():
    """What draws the curves of a training's report, for the test that asks for it."""
    with pytest.MonkeyPatch.context() as patch:
        once.encoders_are_read_once(patch)
        once.forms_are_kept(patch)
        once.flags_are_read_once(patch)
        once.what_is_frozen_is_not_counted(patch)
        once.large_weights_are_drawn_in_part(patch)
        yield once.curves_are_not_drawn(patch)


@pytest.fixture(autouse=True)
def same_random_numbers_in_every_test():
    import torch

    torch.default_generator.manual_seed(0)  # torch.manual_seed asks each device first, for a millisecond


@pytest.fixture
def in_python():
    """For a test of what the library says to who calls it from Python; to the others it says flags, as on the command line."""


@pytest.fixture(autouse=True)
def flags_are_named(request):
    from shotseg.errors import on_the_command_line

    with contextlib.nullcontext() if "in_python" in request.fixturenames else on_the_command_line():
        yield


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
