// The state of the page in the fragment of its address, which browsers do not send to the server.

const CONTROLS = ["unit", "continuation-lang", "max-new-tokens", "temperature", "top-k", "top-p", "seed"];

const $ = (id) => document.getElementById(id);

const method = (name) => document.querySelector(`input[name=method][value=${name}]`);

// Returns the state as the text of a fragment.
export function stateOf(text, readings) {
  const state = new URLSearchParams({ text, prefix: $("prefix").value, documents: $("documents").checked });
  state.set("languages", $("languages").value);
  for (const { lang, preset } of readings) {
    state.append("lang", lang.value);
    state.append("preset", preset.value);
  }
  for (const id of CONTROLS) state.set(id, $(id).value);
  state.set("numbers", $("numbers").checked);
  state.set("method", method("greedy").checked ? "greedy" : "sample");
  return state;
}

// Returns the state in the address: the text, or null; the choices of the readings, at most two; and a function that
// sets the controls. What the model does not have is left out.
export function restored(model) {
  const state = new URLSearchParams(location.hash.slice(1));
  const presets = state.getAll("preset");
  const choices = state.getAll("lang").map((lang, index) => ({ lang, preset: presets[index] }));
  const isKnown = ({ lang, preset }) => model.languages.includes(lang) && model.presets.includes(preset);
  return {
    text: state.get("text"),
    readings: choices.filter(isKnown).slice(0, 2),
    restoreControls: () => restoreControls(state),
  };
}

function restoreControls(state) {
  $("prefix").value = state.get("prefix") ?? "";
  $("documents").checked = state.get("documents") === "true";
  $("languages").value = state.get("languages") ?? "";
  for (const id of CONTROLS.filter((name) => state.has(name))) {
    const value = $(id).value;
    $(id).value = state.get(id);
    if ($(id).selectedIndex === -1) $(id).value = value; // no such option
    $(id).dispatchEvent(new Event("change", { bubbles: true }));
  }
  $("numbers").checked = state.get("numbers") !== "false";
  $("numbers").dispatchEvent(new Event("change"));
  method(state.get("method") === "greedy" ? "greedy" : "sample").click();
}
