// The panel about one word: its tokens, their numbers, and the most likely alternatives.

import { element, inUnit, isSpecial, percent, piece, shown, surprisal } from "./display.js";

const HINT =
  "Point at a word, or go to it with Tab and the arrow keys, to see its tokens and what else could have stood there. " +
  "A click keeps it.";

export class Inspector {
  constructor(box, { onClose }) {
    this.box = box;
    this.onClose = onClose;
    this.height = 0;
  }

  // looks: for each reading, { title, word }. All words are at the same position in the text.
  show(looks, unit) {
    const known = looks.filter((look) => look.word);
    if (!known.length) {
      this.box.replaceChildren(element("p", { className: "muted", textContent: HINT }));
      return;
    }
    const close = element("button", { type: "button", className: "close", textContent: "Close" });
    close.addEventListener("click", this.onClose);
    const head = element("div", { className: "head" });
    head.append(element("h3", { textContent: known[0].word.text, dir: "auto" }), close);
    const first = surprisal(known[0].word.tokens);
    const parts = known.map(({ title, word }, number) => look(title, word, unit, number ? first : null));
    this.box.replaceChildren(head, element("div", { className: "looks" }, ...parts));
    this.box.scrollTop = 0;
    // The panel never shrinks while the user moves over words: the page would jump under the pointer.
    this.height = Math.max(this.height, this.box.offsetHeight);
    this.box.style.minHeight = `${this.height}px`;
  }

  forgetHeight() {
    this.height = 0;
    this.box.style.minHeight = "";
  }

  open(opened) {
    this.box.classList.toggle("opened", opened);
    document.documentElement.classList.toggle("with-sheet", opened);
  }
}

function look(title, word, unit, first) {
  const own = surprisal(word.tokens);
  const part = element("div", { className: "of-reading" });
  const sign = own < first ? "−" : "+";
  const difference = first === null ? "" : ` (${sign}${shown(inUnit(Math.abs(own - first), unit))})`;
  const amount = element("b", { textContent: `${shown(inUnit(own, unit), 2)} ${unit}${difference}` });
  part.append(element("p", { className: "sum" }, element("span", { className: "muted", textContent: title }), amount));
  const isWhole = word.tokens.length === 1;
  part.append(...word.tokens.map((token) => tokenBox(token, unit, isWhole)));
  if (!word.tokens.length) part.append(element("p", { className: "muted", textContent: "The tokenizer drops it." }));
  return part;
}

function tokenBox(token, unit, isWhole) {
  const box = element("section", { className: "token" });
  const numbers = [
    ["surprisal", `${shown(inUnit(-token.logprob, unit), 2)} ${unit}`],
    ["rank", token.rank.toLocaleString("en")],
    ["probability", percent(token.logprob)],
    ["entropy", `${shown(inUnit(token.entropy, unit), 2)} ${unit}`],
  ];
  const list = element("dl");
  for (const [name, value] of numbers) {
    list.append(element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value })));
  }
  const rows = element("ol", { className: "alternatives", "aria-label": "most likely here" });
  for (const [name, logprob] of token.top) rows.append(row(name, logprob, token));
  if (!token.top.some(([name]) => name === token.token)) {
    rows.append(row(token.token, token.logprob, token));
    rows.lastChild.classList.add("apart");
  }
  if (!isWhole) box.append(element("h4", { textContent: piece(token.token, token.inside), dir: "auto" }));
  if (token.unknown) {
    box.append(element("p", { className: "muted", textContent: "The vocabulary lacks this: the model sees <unk>." }));
  }
  box.append(list, rows);
  return box;
}

function row(name, logprob, token) {
  const share = element("div", { className: "share" });
  share.style.width = `${100 * Math.exp(logprob)}%`;
  const form = element("span", { className: "form", textContent: piece(name, token.inside), dir: "auto" });
  form.classList.toggle("special", isSpecial(name));
  const amount = element("span", { className: "amount", textContent: percent(logprob) });
  const item = element("li", {}, form, element("div", { className: "track" }, share), amount);
  if (name === token.token) {
    item.className = "own";
    item.setAttribute("aria-current", "true");
  }
  return item;
}
