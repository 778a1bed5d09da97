"""Normalisation of a text before Moses divides it into words: three scripts, and Sennrich's for Romanian.

With ``perl=True`` as the scripts do it, with ``perl=False`` as transformers does: sacremoses in place of
normalize-punctuation.perl, its own ports in place of the others. Each difference stands at its rule.
"""

from __future__ import annotations

import re

from xlm.tokenizer.moses.rules import Rule, replacing_class, translating

NBSP = "\u00a0"

# The same in the scripts and in the ports of transformers. Two full stops are missing: they take the spaces after them.
_PUNCTUATION = {
    **dict(
        zip(
            "，、”“∶：？《》）！（；」「～’━〈〉【】％０１２３４５６７８９",
            ',,"":' + ':?"")!(;""~\'-<>[]%0123456789',
            strict=True,
        )
    ),
    "…": "...",
}

_ROMANIAN = dict(zip("ŞşŢţȘșȚțĂăÂâÎî", "SsTtSsTtAaAaIi", strict=True))


def replace_unicode_punctuation(*, perl: bool) -> list[Rule]:
    """Return the rules that make full-width and typographic punctuation and digits ASCII.

    No replacement is itself replaced, so the order of the script's rules does not matter.

    Source: Moses, scripts/tokenizer/replace-unicode-punctuation.perl.
    """
    return [
        translating(_PUNCTUATION),
        # The script takes the ASCII spaces that follow; the port of transformers, any whitespace.
        Rule("[。．] *" if perl else r"[。．]\s*", (". ",), acts_on_ascii=False),
    ]


def normalize_punctuation(language: str, *, perl: bool) -> list[Rule]:
    """Return the rules that make quotes, dashes and spaces beside punctuation uniform.

    The script reads bytes, where only ASCII characters are digits or spaces.

    Source: Moses, scripts/tokenizer/normalize-punctuation.perl.
    """
    flags = re.ASCII if perl else 0
    one_space = Rule("  +", (" ",), needs="  ")
    return [
        Rule("\r", ()),
        # spaces beside brackets and punctuation
        Rule(r"\(", (" (",)),
        Rule(r"\)", (") ",)),
        one_space,
        Rule(r"\) ([.!:?;,])", (")", 1), needs=") "),
        Rule(r"\( ", ("(",)),
        Rule(r" \)", (")",)),
        Rule(r"(\d) %", (1, "%"), needs=" %", flags=flags),
        Rule(" :", (":",)),
        Rule(" ;", (";",)),
        # Unicode punctuation, outside the Penn style
        Rule("`", ("'",)),
        Rule("''", (' " ',)),
        # Unicode punctuation
        Rule("„", ('"',)),
        Rule("“", ('"',)),
        Rule("”", ('"',)),
        Rule("–", ("-",)),
        Rule("—", (" - ",)),
        one_space,
        Rule("´", ("'",)),
        Rule("([a-zA-Z])‘([a-zA-Z])", (1, "'", 2), needs="‘"),
        Rule("([a-zA-Z])’([a-zA-Z])", (1, "'", 2), needs="’"),
        Rule("‘", ("'",)),
        Rule("‚", ("'",)),
        Rule("’", ('"',) if perl else ("'",)),
        Rule("''", ('"',)),
        Rule("´´", ('"',)),
        Rule("…", ("...",)),
        # French quotes
        Rule(f"{NBSP}«{NBSP}", (' "',) if perl else ('"',)),
        Rule(f"«{NBSP}", ('"',)),
        Rule("«", ('"',)),
        Rule(f"{NBSP}»{NBSP}", ('" ',) if perl else ('"',)),
        Rule(f"{NBSP}»", ('"',)),
        Rule("»", ('"',)),
        # pseudo-spaces
        Rule(f"{NBSP}%", ("%",)),
        Rule(f"nº{NBSP}", ("nº ",)),
        Rule(f"{NBSP}:", (":",)),
        Rule(f"{NBSP}ºC", (" ºC",)),
        Rule(f"{NBSP}cm", (" cm",)),
        Rule(rf"{NBSP}\?", ("?",)),
        Rule(f"{NBSP}!", ("!",)),
        Rule(f"{NBSP};", (";",)),
        Rule(f",{NBSP}", (", ",)),
        one_space,
        *_quotation_and_comma(language, perl=perl),
        Rule(
            rf"(\d){NBSP}(\d)",
            (1, "," if language in ("de", "es", "cz", "cs", "fr") else ".", 2),
            needs=NBSP,
            flags=flags,
        ),
    ]


def _quotation_and_comma(language: str, *, perl: bool) -> list[Rule]:
    if language == "en":
        return [Rule('"([,.]+)', (1, '"'), needs='"')]
    # The script's rule for German, Spanish and French covers all languages but English and Czech ("Czech is confused").
    if language in ("cs", "cz") if perl else language not in ("de", "es", "fr"):
        return []

    def full_stops_after(match: re.Match[str]) -> list[tuple[str, int, int]]:
        start, end = match.span()
        if match[2] is None:
            return [(match[0], start, end)]
        quote = match.start(2)
        return [(f'"{match[1]}', start, quote), (match[2], quote, end)]

    # The script's pattern is (\.+)"(\s*[^<]). Matching a run of full stops whole, whether or not a quote follows, gives
    # the same and looks at each of them once.
    flags = re.ASCII if perl else 0
    return [
        Rule(',"', ('",',)),
        Rule(r'(\.+)(?:"(\s*[^<]))?', full_stops_after, needs='."', flags=flags),
    ]


def remove_non_printing_char(*, perl: bool) -> list[Rule]:
    """Return the rule against control, format, private, unassigned characters and surrogates (Unicode's class C).

    Tabs and newlines are among them: transformers makes one word of what stands on either side, the script two.

    Source: Moses, scripts/tokenizer/remove-non-printing-char.perl.
    """
    return [replacing_class("C", " " if perl else "", within=r"[^ -~\u00a1-\u00ac\u00ae-\u0377]+")]


def romanian() -> list[Rule]:
    """Return the rules that take the diacritics of Romanian away, whether comma or cedilla.

    Source: Sennrich's wmt16-scripts, preprocess/normalise-romanian.py and remove-diacritics.py.
    """
    return [translating(_ROMANIAN)]
