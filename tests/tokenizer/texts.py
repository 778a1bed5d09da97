"""Texts made by hypothesis, of all that rules of text take notice of."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.tokenizer.small import TEXT

SNIPPETS: tuple[str, ...] = (
    *TEXT.split(" "),
    *("<s>", "</s>", "<pad>", "<unk>", "<special1>", "<special9>", "<special10>", "<special", "<", ">", "<s", "/"),
    *(" ", "  ", "\n", "\t", "\r", "\u00a0", "\u3000", "\u2028", "\u200b", "\u00ad", "\x00", "\x1f", "\x85"),
    *("...", "..", ".", ".'", '."', ',"', "''", '"', "'", "`", "``", "--", "-", "@-@", "&amp;", "&", "|", "[", "]"),
    *("can't", "l'eau", "O'Neill", "1990's", "'s", "St.", "z.B.", "No. 5", "Nr. 7", "5,300", "1.5", "10 %", "nº\u00a0"),
    *("。", "． ", "，", "…", "「", "！", "１", "«\u00a0", "\u00a0»", "„", "“", "”", "’", "–", "—", "´´", "1\u00a0000"),
    *("DOTMULTI", "DOTDOTMULTI", "THISISPROTECTED000", "</w>", "@@", "http://a.b/c?d=e", "#a", "@b", "a@b.de"),
    *(
        "İ",
        "ı",
        "Σ",
        "ΑΣ",
        "ß",
        "ẞ",
        "ﬁ",
        "é",
        "e\u0301",
        "\u0301",
        "ǅ",
        "Å",
        "中文",
        "ไทย",
        "ー",
        "Şţă",
        "🚴",
        "\U0001f468\u200d",
    ),
)
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(SNIPPETS),
        st.sampled_from(SNIPPETS).map(lambda snippet: f" {snippet} "),
        st.characters(exclude_categories=()),  # surrogates too
    ),
    max_size=20,
).map("".join)
