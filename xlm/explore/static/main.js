// The page: a text, one or two readings of it, the inspected word, and the continuation of the text.

import { describe } from "./api.js";
import { Continuing } from "./continuing.js";
import { element, levels, shown } from "./display.js";
import { Inspector } from "./inspector.js";
import { restored, stateOf } from "./link.js";
import { Reading } from "./reading.js";

const WAIT_FOR_TYPING = 180; // milliseconds
// Example texts. They are unfinished, so that the model can continue them.
const EXAMPLES = {
  en: "The old man sat down on a bench and began to",
  de: "Der alte Mann setzte sich auf eine Bank und begann",
  fr: "Le vieil homme s’assit sur un banc et se mit à",
};

const $ = (id) => document.getElementById(id);

class Page {
  constructor(model) {
    this.model = model;
    this.readings = [];
    this.looked = null; // the index of the inspected word
    this.pinned = false; // whether the inspected word stays when the pointer is on another word
    this.inspector = new Inspector($("inspector"), { onClose: () => this.close() });
    const state = restored(model);
    const lang = Object.keys(EXAMPLES).find((one) => model.languages.includes(one)) ?? model.languages[0];
    $("text").value = state.text ?? EXAMPLES[lang] ?? "";
    const [first, second] = state.readings;
    this.add(first ?? { lang, preset: model.preset });
    this.continuing = new Continuing(model, {
      text: () => this.text(),
      prefix: () => this.prefix(),
      unit: () => this.unit(),
      reading: () => ({ lang: this.readings[0].lang.value, preset: this.readings[0].preset.value }),
      takeOver: (text) => this.takeOver(text),
    });
    this.listen();
    state.restoreControls();
    if (second) this.compare(second);
    this.drawLegend();
    this.refresh();
  }

  listen() {
    let timer;
    const onTyping = () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.refresh(), WAIT_FOR_TYPING);
    };
    $("text").addEventListener("input", onTyping);
    $("prefix").addEventListener("input", onTyping);
    $("languages").addEventListener("input", onTyping);
    $("documents").addEventListener("change", () => this.refresh());
    $("text").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      this.continuing.start();
    });
    $("link").addEventListener("click", () => this.link());
    window.addEventListener("hashchange", () => location.reload());
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    $("numbers").addEventListener("change", () => {
      $("readings").classList.toggle("without-numbers", !$("numbers").checked);
    });
    $("unit").addEventListener("change", () => {
      this.drawLegend();
      for (const reading of this.readings) if (reading.found) reading.draw();
    });
    $("compare").addEventListener("click", () => this.compare());
  }

  add(choice) {
    const reading = new Reading(this.model, this, choice);
    this.readings.push(reading);
    $("readings").append(reading.box);
    return reading;
  }

  // Puts a link that restores the page into the address bar and the clipboard.
  async link() {
    history.replaceState(null, "", `#${stateOf($("text").value, this.readings)}`);
    try {
      await navigator.clipboard.writeText(location.href);
      this.showStatus("The link is copied, and stands in the address bar. It holds the text and all settings.");
    } catch {
      this.showStatus("The link stands in the address bar. It holds the text and all settings.");
    }
  }

  // Adds or removes a second reading: by default in another language or, if the model has only one language, with
  // another preset.
  compare(choice) {
    const isOn = this.readings.length > 1;
    $("compare").setAttribute("aria-pressed", String(!isOn));
    $("looking").classList.toggle("two", !isOn);
    if (isOn) {
      this.readings.pop().box.remove();
      this.inspector.forgetHeight();
      this.showInspected();
      return;
    }
    const { lang, preset } = this.readings[0];
    const other = (values, value) => values.find((one) => one !== value) ?? value;
    const several = this.model.languages.length > 1;
    const different = {
      lang: several ? other(this.model.languages, lang.value) : lang.value,
      preset: several ? preset.value : other(this.model.presets, preset.value),
    };
    this.add(choice ?? different).refresh();
  }

  changed(reading) {
    if (reading === this.readings[0]) this.nameWhatContinues();
    reading.refresh();
  }

  refresh() {
    this.nameWhatContinues();
    this.inspector.forgetHeight();
    for (const reading of this.readings) reading.refresh();
  }

  nameWhatContinues() {
    $("continues").textContent = `of context and text above, as ${this.readings[0].title}; Ctrl+Enter in the text does the same`;
  }

  unit() {
    return $("unit").value;
  }

  // Returns the text to score. If it is empty or too long, shows a message and returns null.
  text() {
    const text = $("text").value;
    const most = this.model.limits.characters;
    const length = text.length > most / 2 ? [...text].length : text.length;
    $("characters").textContent = length > most / 2 ? `${length.toLocaleString("en")} of ${most.toLocaleString("en")} characters` : "";
    if (!text.trim()) {
      this.showStatus("Type a text to see how surprising each word is.");
      return null;
    }
    if (length > most) {
      const [has, may] = [length, most].map((number) => number.toLocaleString("en"));
      this.showStatus(`The text is too long for this page: ${has} characters, and the limit is ${may}. xlm score reads texts of any length.`, true);
      return null;
    }
    return text;
  }

  prefix() {
    return $("prefix").value.trim();
  }

  // Returns the part of a request that says how the lines of the text are scored.
  given() {
    return { prefix: this.prefix(), documents: $("documents").checked, languages: $("languages").value };
  }

  takeOver(text) {
    $("text").value = text;
    $("text").focus();
    this.refresh();
  }

  showStatus(message, isWrong = false) {
    $("status").textContent = message;
    $("status").classList.toggle("wrong", isWrong);
  }

  look(index) {
    this.looked = index;
    this.showInspected();
  }

  // The inspected word stays when the pointer leaves it, because the pointer crosses other elements to the inspector.
  pointAt(index) {
    if (!this.pinned) this.look(index);
  }

  pin(index) {
    this.pinned = !(this.pinned && this.looked === index);
    this.inspector.open(this.pinned);
    this.look(index);
  }

  close() {
    this.pinned = false;
    this.inspector.open(false);
    this.look(null);
  }

  showInspected() {
    for (const reading of this.readings) reading.mark(this.looked, this.pinned);
    this.inspector.show(
      this.readings.map((reading) => ({ title: reading.title, word: reading.wordAt(this.looked) })),
      this.unit(),
    );
  }

  drawLegend() {
    const unit = this.unit();
    const steps = levels(unit);
    $("legend").replaceChildren(
      ...steps.map(({ level, from }, number) => {
        const label = number % 5 ? "" : shown(from, unit === "bits" ? 0 : 1) + (number === steps.length - 1 ? "+" : "");
        return element("span", {}, element("i", { "data-level": level }), label);
      }),
    );
    $("legend").setAttribute("aria-label", `Colours from 0 to ${shown(steps.at(-1).from)} ${unit} and more, pale to strong`);
  }
}

try {
  const model = await describe();
  document.title = `${model.name} – xlm explore`;
  $("model").textContent = [
    model.name,
    `${model.layers} layers of width ${model.width}`,
    `${model.vocabulary.toLocaleString("en")} tokens`,
    `${model.positions} positions`,
    model.weights,
  ].join(" · ");
  new Page(model);
} catch (error) {
  $("model").textContent = error.message;
  $("model").classList.add("wrong");
}
