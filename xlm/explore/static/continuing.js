// The section "Continuation": it shows the tokens with which the model continues the text, as they arrive.

import { continuation } from "./api.js";
import { count, inUnit, options, shown } from "./display.js";

const STOPS = {
  eos: "the model ended the sentence",
  max_new_tokens: "as many tokens as asked for",
  positions: "the model has no position left",
};

const ENDED_AT_ONCE = "the model takes the text for finished and adds nothing: delete its full stop or its last words, and continue again";

const $ = (id) => document.getElementById(id);

export class Continuing {
  // page: { text(), prefix(), unit(), reading(), takeOver(text) }
  constructor(model, page) {
    this.page = page;
    this.running = null;
    $("continuation-lang").append(...options(["as the text", ...model.languages], "as the text"));
    $("max-new-tokens").max = model.limits.new_tokens;
    $("knobs").addEventListener("submit", (event) => {
      event.preventDefault();
      this.start();
    });
    $("knobs").addEventListener("change", () => this.showKnobs());
    $("stop").addEventListener("click", () => this.stop());
    $("take-over").addEventListener("click", () => page.takeOver($("prompt").textContent + $("continuation").textContent));
    this.showKnobs();
  }

  get isSampling() {
    return document.querySelector("input[name=method]:checked").value === "sample";
  }

  showKnobs() {
    for (const label of document.querySelectorAll(".drawing")) label.hidden = !this.isSampling;
    for (const field of document.querySelectorAll(".drawing input")) field.disabled = !this.isSampling;
  }

  request(text) {
    const number = (id) => ($(id).value === "" ? null : Number($(id).value));
    const { lang, preset } = this.page.reading();
    const language = $("continuation-lang").selectedIndex === 0 ? null : $("continuation-lang").value;
    const prefix = this.page.prefix();
    const request = { text, prefix, lang, preset, continuation_lang: language, max_new_tokens: number("max-new-tokens") };
    if (!this.isSampling) return { ...request, do_sample: false };
    const knobs = { temperature: number("temperature"), top_k: number("top-k"), top_p: number("top-p"), seed: number("seed") };
    return { ...request, do_sample: true, ...knobs };
  }

  async start() {
    if (!$("knobs").reportValidity()) return;
    this.stop();
    const own = (this.running = new AbortController());
    const text = this.page.text() ?? "";
    $("prompt").textContent = text;
    $("continuation").textContent = "";
    $("output").hidden = false;
    $("output").classList.add("running");
    $("take-over").hidden = true;
    $("stop").disabled = false;
    this.tell("");
    let tokens = 0;
    let hasAdded = false;
    let ending = "the program ended it";
    try {
      for await (const step of continuation(this.request(text), own.signal)) {
        $("continuation").append(step.text);
        hasAdded ||= step.text !== "";
        if (step.stop) ending = this.ended(step, hasAdded);
        else $("counter").textContent = `${count(++tokens, "token")} …`;
      }
      this.tell(ending);
    } catch (error) {
      if (error.name === "AbortError") {
        if (this.running === own) this.tell(`stopped after ${count(tokens, "token")}`);
      } else {
        this.tell(error.message, true);
      }
    } finally {
      if (this.running === own) {
        this.running = null;
        $("output").classList.remove("running");
        $("stop").disabled = true;
        $("take-over").hidden = !hasAdded;
        $("output").hidden = !hasAdded;
      }
    }
  }

  ended({ stop, tokens, logprob, seed }, hasAdded) {
    const why = stop === "eos" && !hasAdded ? ENDED_AT_ONCE : STOPS[stop];
    const unit = this.page.unit();
    const parts = [`${count(tokens, "token")}: ${why}`, `surprisal ${shown(inUnit(-logprob, unit))} ${unit}`];
    if (seed !== null) parts.push(`seed ${seed}`);
    return parts.join(" · ");
  }

  stop() {
    this.running?.abort();
  }

  // Screen readers read this message out once. They skip the counter, which changes with every token.
  tell(message, isWrong = false) {
    $("counter").textContent = "";
    $("progress").textContent = message;
    $("progress").classList.toggle("wrong", isWrong);
  }
}
