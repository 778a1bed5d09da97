// A reading of the text: a language, a preset, and the words coloured by their surprisal.

import { exported, score } from "./api.js";
import { count, element, inUnit, level, markInsides, options, shown, surprisal } from "./display.js";

// Returns the remedy for a line that plainly holds several sentences; empty if there is none.
function severalSentences([line], lines) {
  if (line === undefined) return "";
  const which = lines > 1 ? `Line ${line}` : "The text";
  return `. ${which} seems to hold several sentences: put each on a line of its own, since a newline ends a sentence`;
}

export class Reading {
  // page: { text(), given(), unit(), look(index), pointAt(index), pin(index), changed(reading), showInspected(), showStatus(message, isWrong) }
  constructor(model, page, { lang, preset }) {
    this.page = page;
    this.box = document.getElementById("reading").content.firstElementChild.cloneNode(true);
    this.words = this.box.querySelector(".words");
    this.summary = this.box.querySelector(".summary");
    this.lang = this.box.querySelector(".lang");
    this.preset = this.box.querySelector(".preset");
    this.lang.append(...options(model.languages, lang));
    this.preset.append(...options(model.presets, preset));
    this.found = null;
    this.items = []; // the words and sentence ends of the text, in order
    this.busy = false;
    this.stale = false;
    this.buttons = [];
    this.current = 0;
    for (const choice of [this.lang, this.preset]) choice.addEventListener("change", () => page.changed(this));
    this.words.addEventListener("keydown", (event) => this.onKey(event));
    for (const button of this.box.querySelectorAll(".exports button")) {
      button.addEventListener("click", () => this.save(button.dataset));
    }
  }

  get title() {
    return `${this.lang.value} · ${this.preset.value}`;
  }

  // Sends one request at a time, always for the newest text, so that fast typing does not queue requests.
  async refresh() {
    this.stale = true;
    if (this.busy) return;
    this.busy = true;
    this.words.classList.add("old");
    while (this.stale) {
      this.stale = false;
      await this.scoreOnce();
    }
    this.busy = false;
    this.words.classList.remove("old");
  }

  async scoreOnce() {
    const text = this.page.text();
    if (text === null) {
      this.clear();
      return;
    }
    try {
      const found = await score({ text, lang: this.lang.value, preset: this.preset.value, ...this.page.given() });
      if (this.stale) return;
      const sentences = found.lines.filter(({ end }) => end);
      for (const { words, end } of sentences) markInsides([...words.flatMap((word) => word.tokens), end]);
      this.found = found;
      this.items = sentences.flatMap(({ words, end }) => [...words, { text: "end of sentence", tokens: [end] }]);
      this.draw();
      const parts = [count(this.items.length - sentences.length, "word"), count(found.tokens, "token")];
      const counts = parts.join(" in ") + (sentences.length > 1 ? ` and ${sentences.length} sentences` : "");
      this.page.showStatus(counts + severalSentences(found.several, found.lines.length));
    } catch (error) {
      this.clear();
      this.page.showStatus(error.message, true);
    }
  }

  clear() {
    this.found = null;
    this.items = [];
    this.buttons = [];
    this.words.replaceChildren();
    this.summary.textContent = "";
    this.page.showInspected();
  }

  // Saves the table or the picture of the text, as the server makes it, in the unit of the page.
  async save({ kind, file }) {
    const text = this.page.text();
    if (text === null) return;
    try {
      const reading = { lang: this.lang.value, preset: this.preset.value };
      const request = { text, ...reading, ...this.page.given(), unit: this.page.unit() };
      const address = URL.createObjectURL(await exported(kind, request));
      element("a", { href: address, download: file }).click();
      URL.revokeObjectURL(address);
    } catch (error) {
      this.page.showStatus(error.message, true);
    }
  }

  draw() {
    const unit = this.page.unit();
    const parts = [];
    this.buttons = [];
    const add = (form, tokens, className) => {
      const nats = surprisal(tokens);
      const number = shown(inUnit(nats, unit));
      const isUnknown = tokens.some((token) => token.unknown);
      const index = this.buttons.length;
      const button = element("button", {
        type: "button",
        className: isUnknown ? `${className} unknown` : className,
        tabIndex: -1,
        "data-level": level(nats),
        "aria-label": `${form}, ${number} ${unit}${isUnknown ? ", unknown" : ""}`,
      });
      button.append(element("span", { className: "form", textContent: form }));
      button.append(element("span", { className: "number", textContent: number }));
      button.addEventListener("pointerenter", (event) => event.pointerType !== "touch" && this.page.pointAt(index));
      button.addEventListener("focus", () => this.focusOn(index));
      button.addEventListener("click", () => {
        this.page.pin(index);
        button.scrollIntoView({ block: "nearest" });
      });
      this.buttons.push(button);
      parts.push(button);
    };
    for (const { words, after, end } of this.found.lines) {
      if (parts.length) parts.push("\n");
      for (const word of words) {
        parts.push(word.before);
        add(word.text, word.tokens, "word");
      }
      parts.push(end ? `${after} ` : after);
      if (end) add("end", [end], "word end");
    }
    this.words.replaceChildren(...parts);
    this.words.lang = this.found.lang;
    this.words.setAttribute("aria-label", `Words by surprisal, ${this.title}; arrow keys go from word to word`);
    this.current = Math.min(this.current, this.buttons.length - 1);
    this.buttons[this.current].tabIndex = 0;
    this.summarise();
    this.page.showInspected();
  }

  summarise() {
    const { lines, logprob, tokens, windows } = this.found;
    const unit = this.page.unit();
    const words = lines.flatMap((line) => line.words);
    const parts = [`${shown(inUnit(-logprob, unit))} ${unit}`];
    parts.push(`${shown(inUnit(surprisal(words.flatMap((w) => w.tokens)), unit) / words.length)} a word`);
    parts.push(`perplexity ${shown(Math.exp(-logprob / tokens))}`);
    if (windows > 1) parts.push(`${windows} windows: longer than the model’s positions`);
    this.summary.textContent = parts.join(" · ");
  }

  // Returns the word or sentence end at an index for the inspector.
  wordAt(index) {
    return this.items[index] ?? null;
  }

  mark(looked, pinned) {
    this.buttons.forEach((button, index) => {
      button.classList.toggle("looked", index === looked);
      button.classList.toggle("pinned", index === looked && pinned);
    });
  }

  focusOn(index) {
    this.buttons[this.current].tabIndex = -1;
    this.current = index;
    this.buttons[index].tabIndex = 0;
    this.page.look(index);
  }

  onKey(event) {
    const rightToLeft = getComputedStyle(this.words).direction === "rtl";
    const [next, previous] = rightToLeft ? ["ArrowLeft", "ArrowRight"] : ["ArrowRight", "ArrowLeft"];
    const last = this.buttons.length - 1;
    const goal = { [next]: this.current + 1, [previous]: this.current - 1, Home: 0, End: last }[event.key];
    if (goal === undefined || !this.buttons.length) return;
    event.preventDefault();
    this.buttons[Math.max(0, Math.min(last, goal))].focus();
  }
}
