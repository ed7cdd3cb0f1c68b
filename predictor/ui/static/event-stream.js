/** Reads server-sent events from the body of a response; `EventSource` cannot send a POST. */

/** Yields `{name, data}` for each event, with `data` parsed from JSON. */
export async function* eventsOf(body) {
  let name = "";
  for await (const line of linesOf(body)) {
    if (line.startsWith("event: ")) {
      name = line.slice("event: ".length);
    } else if (line.startsWith("data: ")) {
      yield { name, data: JSON.parse(line.slice("data: ".length)) };
    }
  }
}

async function* linesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  // The line of a result is long and arrives in many pieces: join them once.
  let pieces = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        return;
      }
      const [first, ...others] = value.split("\n");
      pieces.push(first);
      for (const next of others) {
        yield pieces.join("");
        pieces = [next];
      }
    }
  } finally {
    // Closes the connection if the caller stops early, so that the server stops too.
    reader.cancel().catch(() => {});
  }
}
