// Requests to the server. Every failure becomes a Refusal, whose message the page shows unchanged.

export class Refusal extends Error {}

function sentence({ what, where, found, expected, remedy }) {
  const details = [where && `in ${where}`, found && `found ${found}`, expected && `expected ${expected}`];
  const given = details.filter(Boolean).join(", ");
  return `${what}${given ? ` (${given})` : ""}.${remedy ? ` What helps: ${remedy}.` : ""}`;
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, { credentials: "omit", cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The program does not answer; is xlm explore still running?");
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  throw new Refusal(answer?.error ? sentence(answer.error) : `The program answered with status ${response.status}.`);
}

const posted = (content, signal) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(content),
  signal,
});

export const describe = async () => (await ask("/api/model")).json();

export const score = async (request) => (await ask("/api/score", posted(request))).json();

// kind: "table" or "picture"
export const exported = async (kind, request) => (await ask(`/api/${kind}`, posted(request))).blob();

// Yields each line of a continuation as it arrives: { id, text }. The last line has the key "stop".
export async function* continuation(request, signal) {
  const response = await ask("/api/generate", posted(request, signal));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal("The connection broke off; is xlm explore still running?");
    }
    if (part.done) return;
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const step = JSON.parse(line);
      if (step.error) throw new Refusal(sentence(step.error));
      yield step;
    }
  }
}
