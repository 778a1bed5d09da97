// Formats numbers and tokens for people, and makes elements from plain text: no string is parsed as markup.

const BITS = Math.LN2;
const HIGHEST_LEVEL = 10;
const BITS_OF_LEVEL = 2;

export const surprisal = (tokens) => tokens.reduce((sum, token) => sum - token.logprob, 0);

export const inUnit = (nats, unit) => (unit === "bits" ? nats / BITS : nats);

// Formats a number. A number that rounds to zero has no minus sign.
export const shown = (number, digits = 1) => (Math.abs(number) < 0.5 * 10 ** -digits ? 0 : number).toFixed(digits);

export const level = (nats) => Math.max(0, Math.min(HIGHEST_LEVEL, Math.floor(nats / BITS / BITS_OF_LEVEL)));

export const levels = (unit) =>
  Array.from({ length: HIGHEST_LEVEL + 1 }, (_, number) => ({
    level: number,
    from: inUnit(number * BITS_OF_LEVEL * BITS, unit),
  }));

export function percent(logprob) {
  const share = Math.exp(logprob) * 100;
  if (share >= 9.95) return `${share.toFixed(0)} %`;
  if (share >= 0.095) return `${share.toFixed(1)} %`;
  if (share >= 0.00095) return `${share.toFixed(3)} %`;
  return "< 0.001 %";
}

const endsWord = (token) => token.endsWith("</w>");

// Formats a BPE piece: "Stra…" if its word continues after it, "…nd" if its word began before it. Special tokens keep
// their names.
export function piece(token, insideWord) {
  if (token === "</s>") return "end of sentence";
  if (isSpecial(token)) return token;
  const form = endsWord(token) ? token.slice(0, -"</w>".length) : `${token}…`;
  return insideWord ? `…${form}` : form;
}

export const isSpecial = (token) => /^<[^<>]+>$/.test(token);

// Sets token.inside: whether the word of the token began before the token.
export function markInsides(tokens) {
  let inside = false;
  for (const token of tokens) {
    token.inside = inside;
    inside = !endsWord(token.token) && !isSpecial(token.token);
  }
}

export function element(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in node) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

export const options = (values, chosen) =>
  values.map((value) => element("option", { value, textContent: value, selected: value === chosen }));

export const count = (number, name) => `${number.toLocaleString("en")} ${name}${number === 1 ? "" : "s"}`;
