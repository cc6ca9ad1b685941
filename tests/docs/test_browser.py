"""The site as a browser shows it, on a phone and on a desktop."""

from urllib.parse import unquote, urldefrag, urljoin

import pytest

pytestmark = [pytest.mark.xdist_group("site"), pytest.mark.slow]

WIDTHS = {"phone": 390, "desktop": 1280}

FACTS = """() => ({
    links: [...document.querySelectorAll("a[href]")].map(link => link.href),
    ids: [...document.querySelectorAll("[id]")].map(element => element.id),
    broken: [...document.images].filter(image => image.complete && !image.naturalWidth)
        .map(image => image.src),
    formulas: document.querySelectorAll(".math").length,
    drawn: [...document.querySelectorAll(".math math")]
        .filter(formula => formula.getBoundingClientRect().height > 5).length,
})"""
"""What a test needs to know of a page, read in one go."""


@pytest.fixture(scope="module")
def visited(browser, site, url):
    """Every page, opened once: what it has, what it complained of, how wide it is."""
    page = browser.new_page(viewport={"width": WIDTHS["desktop"], "height": 900})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"{request.url} {request.failure}"))
    found = {}
    for path in site.pages():
        complaints.clear()
        page.set_viewport_size({"width": WIDTHS["desktop"], "height": 900})
        page.goto(f"{url}/{path}", wait_until="load")
        facts = page.evaluate(FACTS)
        facts["widths"] = {}
        for device, width in WIDTHS.items():
            page.set_viewport_size({"width": width, "height": 900})
            facts["widths"][device] = page.evaluate("document.documentElement.scrollWidth")
        # A request that the next page ends is no failure.
        facts["complaints"] = [each for each in complaints if "ERR_ABORTED" not in each]
        found[path] = facts
    page.close()
    return found


def test_no_complaints(visited):
    assert {path: page["complaints"] for path, page in visited.items() if page["complaints"]} == {}


def test_no_image_is_missing(visited):
    assert {path: page["broken"] for path, page in visited.items() if page["broken"]} == {}


def test_no_page_scrolls_sideways(visited):
    wide = {
        (path, device): width
        for path, page in visited.items()
        for device, width in page["widths"].items()
        if width > WIDTHS[device]
    }
    assert wide == {}


def test_formulas_are_drawn(visited):
    assert {path for path, page in visited.items() if page["drawn"] != page["formulas"]} == set()
    assert visited["reference/flows.html"]["drawn"] > 10


def test_no_link_inside_is_dead(visited, site, url):
    dead = set()
    for path, page in visited.items():
        for link in page["links"]:
            target, anchor = urldefrag(urljoin(f"{url}/{path}", link))
            if not target.startswith(url):
                continue
            place = unquote(target.removeprefix(f"{url}/").partition("?")[0]) or "index.html"
            if not (site.folder / place).is_file():
                dead.add((path, place))
            elif place in visited and anchor not in ("", *visited[place]["ids"]):
                dead.add((path, f"{place}#{anchor}"))
    assert dead == set()


@pytest.mark.parametrize("device", WIDTHS)
def test_search_finds(browser, url, device):
    page = browser.new_page(viewport={"width": WIDTHS[device], "height": 900})
    page.goto(f"{url}/search.html?q=logsumexp")
    page.wait_for_selector("ul.search li a", timeout=20_000)
    assert page.locator("ul.search li a").count() >= 2
    page.close()
