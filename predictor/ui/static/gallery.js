/** The pictures of this session, the newest first; nothing is stored. */

const list = document.getElementById("gallery");
const nothingYet = document.getElementById("nothing-yet");
const template = document.getElementById("card");
// A picture with fewer pixels is enlarged without blur.
const SMALL_SIDE = 256;

/**
 * Add the predictions of one answer. `actions` has a function for each button of a card: `again`
 * and `use` get the seed, `start` gets the picture as a file and may be missing.
 */
export function addPictures(predictions, model, actions) {
  nothingYet.hidden = true;
  for (const prediction of predictions.toReversed()) {
    list.prepend(cardFor(prediction, model, actions));
  }
}

function cardFor(prediction, model, { again, use, start }) {
  const card = template.content.cloneNode(true).firstElementChild;
  const find = (selector) => card.querySelector(selector);
  find(".prompt").textContent = prediction.prompt;
  find(".summary").textContent = summaryOf(prediction);
  find("dl").append(...Object.entries(parametersOf(prediction, model)).flatMap(termAndValue));
  showNotes(find(".notes"), prediction);
  find(".again").addEventListener("click", () => again(prediction.seed));
  find(".use").addEventListener("click", () => use(prediction.seed));
  if (!prediction.image) {
    showBlocked(find, prediction);
    return card;
  }
  const file = fileOf(prediction, model);
  showPicture(find, prediction, file);
  find(".start").hidden = !start;
  find(".start").addEventListener("click", () => start(file));
  return card;
}

function showPicture(find, prediction, file) {
  const address = URL.createObjectURL(file);
  const image = find("img");
  image.src = address;
  image.alt = prediction.prompt;
  image.width = prediction.width;
  image.height = prediction.height;
  image.classList.toggle("small", Math.max(prediction.width, prediction.height) < SMALL_SIDE);
  find(".picture").href = address;
  find(".download").href = address;
  find(".download").download = file.name;
}

function showBlocked(find, { safety = [] }) {
  const layers = safety.filter(({ action }) => action === "block").map(({ layer }) => layer);
  find(".blocked").textContent = `Blocked by ${layers.join(" and ")}`;
  find(".blocked").hidden = false;
  for (const selector of [".picture", ".start", ".download"]) {
    find(selector).hidden = true;
  }
}

function showNotes(element, { warnings = [], safety = [] }) {
  const notes = [...warnings, ...safety.map(({ layer, action }) => `${layer}: ${action}`)];
  element.textContent = notes.join("; ");
  element.hidden = !notes.length;
}

function summaryOf({ width, height, num_inference_steps: steps, guidance_scale: guidance, seed }) {
  return `${width} × ${height} · ${steps} steps · guidance ${guidance} · seed ${seed}`;
}

function parametersOf({ image, warnings, safety, prompt, ...parameters }, model) {
  return { model, ...parameters };
}

function termAndValue([name, value]) {
  const [term, description] = ["dt", "dd"].map((tag) => document.createElement(tag));
  term.textContent = name;
  description.textContent = textOf(value);
  return [term, description];
}

function textOf(value) {
  if (Array.isArray(value)) {
    return value.map(textOf).join(", ");
  }
  if (value?.sha256) {
    return `${value.width} × ${value.height} pixels`;
  }
  if (value?.name) {
    return `${value.name}, scale ${value.scale}`;
  }
  return value === "" ? "none" : String(value);
}

function fileOf({ image, seed }, model) {
  return new File([bytesOf(image.b64)], `${model}-${seed}.${image.format}`, { type: `image/${image.format}` });
}

/** The bytes of a file in base64. */
export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}
