"""``maxentflow report``: a page that needs no other file."""

import re
from html.parser import HTMLParser

import pytest

from maxentflow.agents.cli import main

from .tiny import words


class Page(HTMLParser):
    """The texts of cells and headings, and what is loaded from where."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.sources, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th", "h1", "h2", "h3", "p"):
            self.texts.append(data)


def test_a_page_of_two_runs(finished, tmp_path, capsys):
    out = tmp_path / "report.html"
    runs = [str(finished("meow")), str(finished("td3"))]
    capsys.readouterr()
    main(["report", *runs, "--out", str(out), "--video"])
    assert capsys.readouterr().out == f"Page: {out}\n"
    page = Page(out.read_text())
    assert not page.open
    assert all(source.startswith("data:") for source in page.sources)
    kinds = [re.match(r"data:(\w+)/", source).group(1) for source in page.sources]
    assert kinds == ["image", "image", "video", "image", "video"]
    found = "gradients", "saturated actions", "overestimation", "entropy"
    assert {*runs, "Returns of evaluations", *found} <= {*page.texts}
    assert page.texts.count("overestimation") == 1  # td3 has none


@pytest.mark.slow
def test_a_run_that_was_not_evaluated(tmp_path, without_conclusion):
    run, out = tmp_path / "run", tmp_path / "report.html"
    main(words(run, "td3", eval_every=0))
    main(["report", str(run), "--out", str(out)])
    assert "No run has been evaluated yet." in Page(out.read_text()).texts


@pytest.mark.slow
def test_a_run_that_cannot_be_looked_at_costs_the_others_nothing(run, tmp_path, finished):
    (run / "checkpoints" / "latest.pt").unlink()
    (run / "checkpoints" / "previous.pt").unlink()
    main(["report", str(run), str(finished("td3")), "--out", str(tmp_path / "report.html")])
    page = Page((tmp_path / "report.html").read_text())
    assert f"{run} has no checkpoint yet." in page.texts
    assert "saturated actions" in page.texts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "page.pdf"], "must be a file ending in .html"),
        (["--out", "none/page.html"], "is no folder"),
    ],
)
def test_refusals(run, refused, arguments, message):
    assert message in refused("report", run, *arguments)


def test_a_run_given_twice(run, refused):
    assert "A run is given twice" in refused("report", run, run)


def test_no_runs(refused):
    assert refused("report")


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(finished, tmp_path, browser, width):
    """Pictures and film are there, nothing is asked of a network, nothing is wider than the
    screen."""
    out = tmp_path / "report.html"
    main(["report", str(finished("meow")), str(finished("td3")), "--out", str(out), "--video"])
    page = browser.new_page(viewport={"width": width, "height": 900})
    complaints, asked = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(out.as_uri(), wait_until="load")
    page.wait_for_function("[...document.querySelectorAll('video')].every(v => v.readyState > 0)")
    shown = page.evaluate(
        """() => ({
            pictures: [...document.images].map(image => image.naturalWidth),
            films: [...document.querySelectorAll("video")].map(film => film.duration),
            width: document.documentElement.scrollWidth,
            tables: [...document.querySelectorAll("table")].map(table => table.rows.length),
        })"""
    )
    page.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert len(shown["pictures"]) == 3
    assert min(shown["pictures"]) > 100
    assert len(shown["films"]) == 2
    assert min(shown["films"]) > 0
    assert min(shown["tables"]) > 1
    assert shown["width"] <= width
