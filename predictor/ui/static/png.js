/** Reads the text fields that the server writes into a PNG (PNG specification, 11.3.3.4). */

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

/**
 * The parameters in a PNG of this server as field values, with `model` and `revision`.
 * Throws an `Error` with a sentence if the file has none.
 */
export async function readParameters(file) {
  const fields = textFields(new DataView(await file.arrayBuffer()));
  if (!("prompt" in fields) || !("parameters" in fields)) {
    throw new Error(`${file.name} has no parameters of this server.`);
  }
  const { prompt, seed, model, revision } = fields;
  // In a file from A1111's API, `parameters` is the text that its clients read.
  const parameters = fields.request_parameters ?? fields.parameters;
  try {
    return { values: { ...JSON.parse(parameters), prompt, seed: Number(seed) }, model, revision };
  } catch {
    throw new Error(`The parameters in ${file.name} are not readable.`);
  }
}

function textFields(view) {
  const fields = {};
  if (view.byteLength < 8 || SIGNATURE.some((byte, at) => view.getUint8(at) !== byte)) {
    return fields;
  }
  // Each chunk: length, type, data, checksum.
  for (let at = 8; at + 12 <= view.byteLength; ) {
    const length = view.getUint32(at);
    const data = new Uint8Array(view.buffer, at + 8, Math.min(length, view.byteLength - at - 12));
    if (latin1(new Uint8Array(view.buffer, at + 4, 4)) === "iTXt") {
      const [keyword, text] = internationalText(data);
      fields[keyword] = text;
    }
    at += length + 12;
  }
  return fields;
}

/** Keyword, compression flag and method, language and translated keyword, then the text. */
function internationalText(data) {
  const keywordEnd = data.indexOf(0);
  const languageEnd = data.indexOf(0, keywordEnd + 3);
  const translationEnd = data.indexOf(0, languageEnd + 1);
  const text = new TextDecoder().decode(data.subarray(translationEnd + 1));
  return [latin1(data.subarray(0, keywordEnd)), text];
}

function latin1(bytes) {
  return String.fromCharCode(...bytes);
}
