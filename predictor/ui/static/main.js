/** Starts the page: connects the form, the models, the server and the gallery. */

import { predict, ServerError } from "./api.js";
import { addPictures } from "./gallery.js";
import { askForKey, storedKey } from "./key.js";
import { clearError, showError } from "./messages.js";
import { Models } from "./models.js";
import { acceptDrops } from "./picture-field.js";
import { readParameters } from "./png.js";
import { clearPreviews, showPreview } from "./previews.js";
import { RequestForm, withSeed } from "./request-form.js";

// What the server does before the model is loaded, by the `reason` of an event.
const PHASES = {
  importing: "The server is starting",
  queued: "The server is loading another model",
  loading: "The model is loading",
  warming: "The model is warming up",
};

// Of each picture; each costs a lone user the time of a step or two.
const PREVIEWS = 4;

const element = (id) => document.getElementById(id);
const form = new RequestForm(element("request"));
const models = new Models(element("model"), element("model-note"), requireKey);
let running = null;

models.addEventListener("described", () => form.describe(models.metadata));

async function draw() {
  if (running) {
    return;
  }
  clearError();
  if (!models.name) {
    // There is no key or no model yet; the note says which.
    await models.refresh();
    element("status").textContent = models.note.textContent;
    return;
  }
  running = new AbortController();
  showRunning("Waiting for the server…");
  const started = performance.now();
  try {
    const [model, state] = [models.name, form.state()];
    const predictions = await picturesOf(model, await form.bodyOf(state));
    showPictures(predictions, model, state);
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    element("status").textContent = `Done in ${seconds} s`;
  } catch (error) {
    await showFailure(error);
  } finally {
    running = null;
    showIdle();
  }
  if (!models.metadata) {
    // The request has loaded the model.
    models.refresh();
  }
}

/** The predictions of a request, while its progress and its previews are shown. */
async function picturesOf(model, body) {
  const request = { ...body, previews: PREVIEWS };
  for await (const { name, data } of predict(model, request, running.signal)) {
    if (name === "waiting") {
      showWaiting(data);
    } else if (name === "progress") {
      showProgress(data);
    } else if (name === "preview") {
      showPreview(data);
    } else if (name === "error") {
      throw new ServerError(data.error, data.status, data.retry_after);
    } else {
      return data.predictions;
    }
  }
  throw new ServerError("The connection ended before the picture was done.", null);
}

function showPictures(predictions, model, state) {
  const canStart = models.metadata?.tasks.some((task) => task !== "text-to-image");
  addPictures(predictions, model, {
    again: (seed) => repeat(model, withSeed(state, seed)).then(draw),
    use: (seed) => repeat(model, withSeed(state, seed)).then(() => showElement("prompt")),
    start: canStart && ((file) => form.startFrom(file).then(() => showElement("input-image"))),
  });
  if (!matchMedia("(min-width: 56rem)").matches) {
    element("results").scrollIntoView();
  }
}

async function repeat(model, state) {
  await models.choose(model);
  await form.restore(state);
}

function showElement(id) {
  element(id).scrollIntoView({ block: "center" });
  element(id).focus();
}

async function showFailure(error) {
  element("status").textContent = "";
  if (error.name === "AbortError") {
    element("status").textContent = "Cancelled";
  } else if (error.status === 401) {
    if (await requireKey(error)) {
      running = null;
      await draw();
    }
  } else {
    showError(error);
  }
}

/** Ask for a key if the server requires one; whether it now has another. */
async function requireKey(error) {
  if (error.status !== 401) {
    return false;
  }
  element("change-key").hidden = false;
  const isEntered = await askForKey(`The server says: ${error.message}.`);
  if (isEntered) {
    await models.refresh();
  }
  return isEntered;
}

function showRunning(text) {
  element("status").textContent = text;
  element("draw").disabled = true;
  element("cancel").hidden = false;
}

function showIdle() {
  element("draw").disabled = false;
  element("cancel").hidden = true;
  element("progress").hidden = true;
  clearPreviews();
}

function showWaiting({ reason, seconds }) {
  element("status").textContent = `${PHASES[reason]} (${Math.round(seconds)} s)…`;
}

function showProgress({ step, steps }) {
  const [bar, text] = element("progress").children;
  element("progress").hidden = false;
  element("status").textContent = step ? "Drawing…" : "In the queue…";
  [bar.max, bar.value] = [steps, step];
  text.textContent = `step ${step} of ${steps}`;
}

/** Take the parameters of a picture that was dropped or chosen. */
async function takeParameters(file) {
  clearError();
  try {
    const { values, model, revision } = await readParameters(file);
    await models.choose(model);
    await form.fill(values);
    element("status").textContent = noteOn(values, revision);
    showElement("prompt");
  } catch (error) {
    showError(error);
  }
}

function noteOn(values, revision) {
  if (values.image || values.controlnet) {
    return "Parameters read. The file does not contain its input pictures: choose them again.";
  }
  const isSame = models.metadata?.versions.includes(revision);
  return isSame ? "Parameters read." : "Parameters read. The picture is of another revision.";
}

function acceptDroppedParameters() {
  const hint = element("drop-hint");
  acceptDrops(document.body, takeParameters);
  document.body.addEventListener("dragover", () => {
    hint.hidden = !document.body.classList.contains("over");
  });
  for (const name of ["drop", "dragleave"]) {
    document.addEventListener(name, () => (hint.hidden = true), true);
  }
  element("read-parameters").addEventListener("change", ({ target }) => {
    takeParameters(target.files[0]).then(() => (target.value = ""));
  });
}

/** The fragment fills the form, as in `#prompt=a%20star&seed=7`; it never leaves the browser. */
function takeFragment() {
  const values = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  form.fill(values);
  models.choose(values.model);
}

element("request").addEventListener("submit", (event) => {
  event.preventDefault();
  draw();
});
element("cancel").addEventListener("click", () => running?.abort());
element("change-key").addEventListener("click", async () => {
  if (await askForKey("Enter the key that replaces the present one.")) {
    await models.refresh();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.target.closest("dialog")) {
    event.preventDefault();
    draw();
  }
});
window.addEventListener("hashchange", takeFragment);

element("change-key").hidden = !storedKey();
form.describe(null);
acceptDroppedParameters();
takeFragment();
