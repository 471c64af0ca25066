"""What a person sees of long work."""

import io

from rich.console import Console
from rich.progress import Progress

from shotseg.cli.console import Bar


def test_the_parts_of_one_photo_have_a_bar_of_their_own_until_they_are_done():
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Progress(console=screen) as bars:
        bar = Bar(bars, "segmenting", 3)
        bar()
        bar.part("windows", 4, 40)
        whole, part = bars.tasks
        assert (whole.completed, part.completed, part.total, part.visible) == (1, 4, 40, True)
        bar.part("windows", 40, 40)
        assert not part.visible and whole.completed == 1
        bar.part("windows", 2, 8)  # of the next photo, in the same bar
        assert len(bars.tasks) == 2 and (part.completed, part.total, part.visible) == (2, 8, True)
    assert "segmenting" in screen.file.getvalue() and "windows" in screen.file.getvalue()
