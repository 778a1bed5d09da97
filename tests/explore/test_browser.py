"""The page in headless Chromium, as one uses it: scripts/test --slow -k browser.

Oracles: ``xlm.score`` for the numbers on the page, the model's own continuation for what streams, and the browser for
what it ran: dialogs, errors, requests. Needs Playwright (pip install 'xlm[browser]') and Chromium.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.explore.small import Small, examples
from xlm.scoring.score import score

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.slow

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
TEXT = "The small dog is sleeping on the grass."
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)><svg onload=alert(1)>",
    '"><iframe srcdoc="<script>parent.alert(1)</script>">',
    "javascript:alert(1) {{constructor.constructor('alert(1)')()}}",
    "\u202edlrow olleh\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "a\u0000b \ud800",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'xlm[browser]'")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}; install Chromium, or name it with the variable CHROMIUM")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def small(demo_files: Path) -> Iterator[Small]:
    """With room for every text of this file."""
    made = Small(demo_files, positions=200)
    yield made
    made.worker.close()


@pytest.fixture(scope="module")
def address(small: Small) -> Iterator[str]:
    with small.served() as found:
        yield found


class Opened:
    """A page, and what went wrong or out of it."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        from playwright.sync_api import expect

        self.expect = expect
        self.dialogs: list[str] = []
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page: Page = context.new_page()
        self.page.on("dialog", self._on_dialog)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        expect(self.page.locator(".word")).not_to_have_count(0)

    def _on_dialog(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def write(self, text: str) -> None:
        self.page.fill("#text", text)

    def words(self, reading: int = 0) -> list[tuple[str, float]]:
        words = self.page.locator(".reading").nth(reading).locator(".word")
        forms, numbers = words.locator(".form").all_text_contents(), words.locator(".number").all_text_contents()
        return [(form, float(number)) for form, number in zip(forms, numbers, strict=True)]

    def await_words(self, *forms: str, reading: int = 0) -> None:
        words = self.page.locator(".reading").nth(reading).locator(".words:not(.old) .form")
        self.expect(words).to_have_text([*forms, "end"])


@pytest.fixture
def opened(browser: Browser, address: str) -> Iterator[Opened]:
    context = browser.new_context()
    page = Opened(context, address)
    yield page
    context.close()
    assert page.dialogs == []
    assert page.errors == []
    assert all(url.startswith(address) for url in page.requests)


def expected_words(small: Small, text: str, lang: str, prefix: str = "") -> list[tuple[str, float]]:
    (result,) = score(small.model, small.tokenizers["original"], [text], lang=lang, prefixes=[prefix])
    of_words = [(word.text, word.surprisal) for word in result.words]
    return [(form, round(nats / math.log(2), 1)) for form, nats in [*of_words, ("end", -result.logprobs[-1])]]


def close(found: list[tuple[str, float]], expected: list[tuple[str, float]]) -> bool:
    """The same up to the rounding of the last digit that is shown."""
    return [form for form, _ in found] == [form for form, _ in expected] and all(
        abs(one - other) < 0.11 for (_, one), (_, other) in zip(found, expected, strict=True)
    )


def test_typing_shows_the_surprisal_of_each_word(opened: Opened, small: Small) -> None:
    opened.page.fill("#text", "")
    opened.page.locator("#text").press_sequentially("Der kleine Hund", delay=20)
    opened.await_words("Der", "kleine", "Hund")
    assert close(opened.words(), expected_words(small, "Der kleine Hund", "en"))
    opened.page.select_option("#unit", "nats")
    bits = expected_words(small, "Der kleine Hund", "en")
    assert close(opened.words(), [(form, value * math.log(2)) for form, value in bits])
    opened.page.uncheck("#numbers")
    opened.expect(opened.page.locator(".word .number").first).to_be_hidden()


def test_switching_language_and_comparing(opened: Opened, small: Small) -> None:
    opened.write(TEXT)
    opened.await_words(*TEXT.split())
    english = opened.words()
    opened.page.select_option(".lang", "de")
    opened.expect(opened.page.locator(".word .number").first).not_to_have_text(str(english[0][1]))
    opened.await_words(*TEXT.split())
    assert close(opened.words(), expected_words(small, TEXT, "de"))
    opened.page.click("#compare")
    opened.await_words(*TEXT.split(), reading=1)
    assert close(opened.words(1), expected_words(small, TEXT, "en"))
    opened.page.locator(".preset").nth(1).select_option("transformers")
    opened.await_words(*TEXT.split(), reading=1)
    opened.page.locator(".reading").nth(1).locator(".word").nth(2).hover()
    titles = opened.page.locator("#inspector .sum span")
    opened.expect(titles).to_have_text(["de · original", "en · transformers"])
    opened.page.click("#compare")
    opened.expect(opened.page.locator(".reading")).to_have_count(1)


def test_the_keyboard_reaches_everything(opened: Opened, small: Small) -> None:
    opened.write("the dog and")
    opened.await_words("the", "dog", "and")
    opened.page.focus("#text")
    order = [""]
    while order[-1] != "start" and len(order) < 30:
        opened.page.keyboard.press("Tab")
        order.append(opened.page.evaluate("document.activeElement.id || document.activeElement.classList[0]"))
    wanted = [
        "prefix",
        "documents",
        "numbers",
        "unit",
        "compare",
        "lang",
        "preset",
        "word",
        "continuation-lang",
        "max-new-tokens",
        "start",
    ]
    assert [name for name in order if name in wanted] == wanted
    opened.page.locator(".word").first.focus()
    opened.page.keyboard.press("ArrowRight")
    opened.expect(opened.page.locator(".word").nth(1)).to_be_focused()
    outline = opened.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    opened.expect(opened.page.locator("#inspector h3")).to_have_text("dog")
    result = score(small.model, small.tokenizers["original"], ["the dog and"], lang="en", ranks=True, top=8)[0]
    assert result.top is not None
    assert result.ranks is not None
    shown = opened.page.locator("#inspector .alternatives .form").all_text_contents()
    best = [token for token, _ in result.top[1]]
    assert len(shown) == 8 + (result.tokens[1] not in best)
    assert f"rank{result.ranks[1]}" in "".join(opened.page.locator("#inspector dl").all_text_contents())
    opened.page.keyboard.press("End")
    opened.expect(opened.page.locator("#inspector h3")).to_have_text("end of sentence")
    label = opened.page.locator(".word").first.get_attribute("aria-label")
    assert label is not None
    assert re.fullmatch(r"the, \d+\.\d bits", label)


def test_a_continuation_streams_and_is_the_models(opened: Opened, small: Small) -> None:
    opened.write("The small dog")
    opened.page.fill("#seed", "5")
    opened.page.fill("#max-new-tokens", "8")
    opened.page.focus("#text")
    opened.page.keyboard.press("Control+Enter")
    opened.expect(opened.page.locator("#progress")).to_contain_text("seed 5")
    asked = {"text": "The small dog", "lang": "en", "seed": 5, "max_new_tokens": 8}
    lines = small.client().post("/api/generate", json=asked).text.splitlines()
    expected = "".join(json.loads(line)["text"] for line in lines)
    assert opened.page.text_content("#continuation") == expected
    assert opened.page.text_content("#prompt") == "The small dog"
    opened.page.click("#take-over")
    opened.expect(opened.page.locator("#text")).to_have_value("The small dog" + expected)
    opened.page.check("input[value=greedy]")
    opened.expect(opened.page.locator("#temperature")).to_be_hidden()


@pytest.mark.parametrize("languages", [("de", "en"), ("de",)])
def test_it_opens_with_a_text_to_continue_in_a_language_of_the_model(
    browser: Browser, demo_files: Path, languages: tuple[str, ...]
) -> None:
    small = Small(demo_files, positions=200, languages=languages)
    with small.served() as address:
        opened = Opened(browser.new_context(), address)
        lang = "en" if "en" in languages else "de"
        assert opened.page.input_value("#text") == examples()[lang]
        opened.expect(opened.page.locator(".lang")).to_have_value(lang)
        opened.page.context.close()


def test_a_text_that_the_model_takes_for_finished_says_what_to_do(
    opened: Opened, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = {"text": "", "stop": "eos", "tokens": 1, "logprob": -0.25, "seed": 5}
    monkeypatch.setattr(small.explorer, "continuation", lambda request: iter([{"id": 1, "text": ""}, end]))
    opened.write(TEXT)
    opened.page.click("#start")
    progress = opened.page.locator("#progress")
    opened.expect(progress).to_contain_text("1 token: the model takes the text for finished and adds nothing")
    opened.expect(progress).to_contain_text("delete its full stop or its last words, and continue again")
    opened.expect(progress).to_contain_text("seed 5")
    for hidden in ("#output", "#take-over"):  # there is nothing new to see, and nothing new to score
        opened.expect(opened.page.locator(hidden)).to_be_hidden()


def test_a_stream_can_be_watched_and_stopped(opened: Opened, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    real = small.explorer.continuation
    steps = 0

    def slowly(request: Any) -> Iterator[Any]:
        nonlocal steps
        for step in real(request):
            steps += 1
            yield step
            time.sleep(0.25)

    monkeypatch.setattr(small.explorer, "continuation", slowly)
    opened.write("")
    opened.page.check("input[value=greedy]")
    opened.page.click("#start")
    opened.expect(opened.page.locator("#counter")).to_have_text(re.compile(r"^\d+ tokens? …$"))
    opened.page.click("#stop")
    opened.expect(opened.page.locator("#progress")).to_have_text(re.compile(r"^stopped after \d+ tokens?$"))
    opened.expect(opened.page.locator("#stop")).to_be_disabled()
    time.sleep(0.6)
    so_far = steps
    time.sleep(0.8)
    assert steps == so_far < 20  # nothing is computed for nobody


def test_empty_and_over_long_texts_are_told(opened: Opened) -> None:
    opened.write("   ")
    opened.expect(opened.page.locator("#status")).to_contain_text("Type a text")
    opened.expect(opened.page.locator(".word")).to_have_count(0)
    opened.write("word " * 20_000)
    opened.expect(opened.page.locator("#status")).to_contain_text("100,000 characters, and the limit is 10,000")
    opened.expect(opened.page.locator("#status")).to_have_class("wrong")
    opened.expect(opened.page.locator(".word")).to_have_count(0)
    opened.write("the dog")
    opened.await_words("the", "dog")
    opened.expect(opened.page.locator("#status")).to_have_text("2 words in 3 tokens")


def test_a_text_with_too_many_tokens_is_told_by_the_program(browser: Browser, address: str) -> None:
    context = browser.new_context()
    opened = Opened(context, address)
    opened.write("! " * 4_000)
    opened.expect(opened.page.locator("#status")).to_contain_text("found 4,000 tokens")
    opened.write("the dog " * 150)
    opened.page.fill("#max-new-tokens", "5")
    opened.page.click("#start")
    opened.expect(opened.page.locator("#progress")).to_contain_text("longer than the model's positions")
    assert opened.dialogs == []
    assert len(opened.errors) == 2  # the browser's own notes of the two statuses
    context.close()


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_text_is_text(opened: Opened, text: str) -> None:
    elements = "[...new Set([...document.querySelectorAll('body *')].map(e => e.localName))].sort().join()"
    opened.write(TEXT)
    opened.await_words(*TEXT.split())
    opened.page.locator(".word").first.hover()
    before = opened.page.evaluate(elements)
    # What a field cannot hold, such as NUL, it changes itself.
    opened.page.evaluate("text => { document.getElementById('text').value = text }", text)
    opened.page.locator("#text").dispatch_event("input")
    held = opened.page.input_value("#text")
    opened.await_words(*held.split())
    for number in range(len(held.split())):
        opened.page.locator(".word").nth(number).hover()
    opened.page.fill("#max-new-tokens", "4")
    opened.page.click("#start")
    opened.expect(opened.page.locator("#stop")).to_be_disabled()
    assert opened.page.text_content("#prompt") == held
    known = set(before.split(",")) | {"h4"}
    assert set(opened.page.evaluate(elements).split(",")) <= known
    opened.page.wait_for_timeout(200)  # a dialog would have come by now; the fixture looks


def test_each_line_is_a_sentence(opened: Opened, small: Small) -> None:
    opened.write("The dog\n\n is old")
    words = opened.page.locator(".words:not(.old) .form")
    opened.expect(words).to_have_text(["The", "dog", "end", "is", "old", "end"])
    first, second = (expected_words(small, line, "en") for line in ("The dog", "is old"))
    assert close(opened.words(), [*first, *second])
    results = score(small.model, small.tokenizers["original"], ["The dog", "is old"], lang="en")
    tokens = sum(len(result.tokens) for result in results)
    opened.expect(opened.page.locator("#status")).to_have_text(f"4 words in {tokens} tokens and 2 sentences")
    opened.page.locator(".word").nth(2).focus()
    opened.expect(opened.page.locator("#inspector h3")).to_have_text("end of sentence")
    opened.page.keyboard.press("ArrowRight")
    opened.expect(opened.page.locator("#inspector h3")).to_have_text("is")


def test_lines_are_given_the_lines_and_the_context_before_them(opened: Opened, small: Small) -> None:
    opened.page.fill("#prefix", " A small ")
    opened.write("dog\nis old")
    opened.page.check("#documents")
    pair = small.model, small.tokenizers["original"]
    asked = {"text": "dog\nis old", "lang": "en", "prefix": "A small", "documents": True, "unit": "bits"}
    rows = [row.split("\t") for row in small.client().post("/api/table", json=asked).text.splitlines()[1:]]
    expected = [("end" if row[7] == "</s>" else row[7], round(-float(row[5]), 1)) for row in rows]
    (first,) = score(*pair, ["dog"], lang="en", prefixes=["A small"])
    assert expected[0][1] == round(first.words[0].surprisal / math.log(2), 1)
    opened.expect(opened.page.locator(".words:not(.old) .number").nth(2)).to_have_text(str(expected[2][1]))
    assert close(opened.words(), expected)


def test_lines_and_words_have_their_own_languages(opened: Opened, small: Small) -> None:
    opened.write("The dog\nder dog is\nThe dog")
    opened.page.fill("#languages", "de\nde en en")
    texts, languages = ["The dog", "der dog is", "The dog"], ["de", ["de", "en", "en"], "en"]
    results = score(small.model, small.tokenizers["original"], texts, lang=languages)
    expected = []
    for result in results:
        expected += [(word.text, round(word.surprisal / math.log(2), 1)) for word in result.words]
        expected.append(("end", round(-result.logprobs[-1] / math.log(2), 1)))
    opened.expect(opened.page.locator(".words:not(.old) .number").nth(0)).to_have_text(str(expected[0][1]))
    assert close(opened.words(), expected)


def test_a_line_with_too_few_languages_is_named(browser: Browser, address: str) -> None:
    context = browser.new_context()
    page = Opened(context, address)
    page.write("The dog\nder dog is")
    page.page.fill("#languages", "de\nde en")
    page.expect(page.page.locator("#status")).to_contain_text("2 languages for 3 words")
    page.expect(page.page.locator("#status")).to_contain_text("line 2")
    context.close()


def test_a_line_of_several_sentences_is_told_the_remedy(opened: Opened) -> None:
    status = opened.page.locator("#status")
    opened.write("The dog is old. The cat is small.")
    opened.expect(status).to_contain_text("The text seems to hold several sentences: put each on a line of its own")
    opened.write("The dog.\nThe dog is old. The cat is small.")
    opened.expect(status).to_contain_text("Line 2 seems to hold several sentences")
    opened.write("The dog is old.\nThe cat is small.")
    opened.expect(status).not_to_contain_text("several sentences")


def test_unknown_words_are_marked(opened: Opened) -> None:
    opened.write("the 漢 dog")
    opened.await_words("the", "漢", "dog")
    opened.expect(opened.page.locator(".word.unknown .form")).to_have_text(["漢"])


def test_the_table_and_the_picture_can_be_saved(opened: Opened, small: Small) -> None:
    pytest.importorskip("matplotlib")
    opened.write("the dog\nis old")
    opened.await_words("the", "dog", "end", "is", "old")  # and the last sentence's end
    opened.page.select_option("#unit", "nats")
    asked = {"text": "the dog\nis old", "lang": "en", "preset": "original", "unit": "nats"}
    for kind, name in (("table", "surprisal.tsv"), ("picture", "surprisal.png")):
        with opened.page.expect_download() as download:
            opened.page.click(f"[data-kind={kind}]")
        assert download.value.suggested_filename == name
        assert download.value.path().read_bytes() == small.client().post(f"/api/{kind}", json=asked).content


def test_a_link_restores_the_page(browser: Browser, address: str, small: Small) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    opened = Opened(context, address)
    text = 'Der Hund & "die" Katze = 100 % #1\n<b> + 😀'
    opened.write(text)
    opened.page.select_option(".lang", "de")
    opened.page.click("#compare")
    opened.page.locator(".preset").nth(1).select_option("transformers")
    opened.page.select_option("#unit", "nats")
    opened.page.uncheck("#numbers")
    opened.page.fill("#seed", "7")
    opened.page.fill("#prefix", "<i> & = %")
    opened.page.fill("#top-p", "")
    opened.page.select_option("#continuation-lang", "de")
    opened.page.check("input[value=greedy]")
    opened.page.click("#link")
    opened.expect(opened.page.locator("#status")).to_contain_text("The link is copied")
    link = opened.page.evaluate("navigator.clipboard.readText()")
    assert link == opened.page.url
    other = Opened(context, link)
    assert other.page.input_value("#text") == text
    values = [choice.input_value() for choice in other.page.locator(".reading select").all()]
    assert values == ["de", "original", "en", "transformers"]
    other.expect(other.page.locator(".words .number").first).to_be_hidden()
    for control, value in (
        *(("unit", "nats"), ("seed", "7"), ("top-p", ""), ("continuation-lang", "de")),
        ("prefix", "<i> & = %"),
    ):
        assert other.page.input_value(f"#{control}") == value
    assert other.page.is_checked("input[value=greedy]")
    other.expect(other.page.locator("#temperature")).to_be_hidden()
    other.page.check("#numbers")
    lines = text.split("\n")
    assert close(
        [(form, number / math.log(2)) for form, number in other.words(0)],
        [word for line in lines for word in expected_words(small, line, "de", "<i> & = %")],
    )
    other.page.evaluate("location.hash = 'text=the+dog&lang=en&preset=original'")
    other.await_words("the", "dog")
    assert (opened.errors, other.errors, opened.dialogs, other.dialogs) == ([], [], [], [])
    context.close()


@pytest.mark.parametrize(
    "fragment",
    [
        "text=the+dog&lang=fr&preset=none&lang=en&preset=fast&unit=hartleys&seed=x&method=alert(1)&numbers=maybe",
        "text=%3Cimg+src%3Dx+onerror%3Dalert(1)%3E&lang=%3Cscript%3E&__proto__=x&continuation-lang=fr",
        "%E0%A4%A&&==&text",
        "lang=de&lang=de&lang=de&preset=original&preset=original&preset=original&text=%00%ED%A0%80",
    ],
)
def test_a_hostile_link_is_harmless(browser: Browser, address: str, fragment: str) -> None:
    from playwright.sync_api import expect

    context = browser.new_context()
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.goto(f"{address}#{fragment}")
    expect(page.locator("#status")).not_to_be_empty()
    assert page.locator(".reading").count() in (1, 2)
    assert page.locator("main img, main script").count() == 0
    for control, values in (("unit", ["bits"]), ("seed", [""]), ("continuation-lang", ["as the text"])):
        assert page.input_value(f"#{control}") in values
    assert problems == []
    context.close()


def test_two_tabs_at_once(browser: Browser, address: str, small: Small) -> None:
    context = browser.new_context()
    tabs = [Opened(context, address) for _ in range(2)]
    texts = ["the dog is sleeping", "Eine Frau liest ein Buch"]
    for tab, text in zip(tabs, texts, strict=True):
        tab.write(text)
        tab.page.fill("#seed", "9")
        tab.page.fill("#max-new-tokens", "10")
        tab.page.click("#start")
    for tab, text in zip(tabs, texts, strict=True):
        tab.expect(tab.page.locator("#progress")).to_contain_text("seed 9")
        tab.await_words(*text.split())
        assert close(tab.words(), expected_words(small, text, "en"))
        assert tab.page.text_content("#prompt") == text
        assert (tab.errors, tab.dialogs) == ([], [])
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_and_can_be_read(browser: Browser, address: str, scheme: Any, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 780}, color_scheme=scheme)
    opened = Opened(context, address)
    opened.write("The " + "un" * 60 + " dog")
    opened.expect(opened.page.locator(".word")).to_have_count(4)
    opened.page.click("#compare")
    opened.expect(opened.page.locator(".word")).to_have_count(8)
    opened.page.locator(".word").first.click()
    opened.expect(opened.page.locator("#inspector h3")).to_be_visible()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    background = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(background) < 0.1) == (scheme == "dark")
    # Each level's text on its colour, and muted text on the page: WCAG's 4.5.
    for level in range(11):
        look = opened.page.evaluate(
            "level => { const word = document.querySelector('.word'); word.dataset.level = level;"
            " const style = getComputedStyle(word); return [style.color, style.backgroundColor] }",
            level,
        )
        assert contrast(*look) >= 4.5, (level, look)
    muted = opened.page.evaluate("getComputedStyle(document.querySelector('.muted')).color")
    assert contrast(muted, background) >= 4.5
    if width < 600:
        opened.page.click("#inspector .close")
        opened.expect(opened.page.locator("#inspector")).to_be_hidden()
    context.close()


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, by WCAG 2."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, by WCAG 2."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
