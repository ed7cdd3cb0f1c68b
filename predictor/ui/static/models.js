/** The models of the server: which there are, which is chosen, and whether it is loaded. */

import { describeModel, listModels } from "./api.js";
import { setOptions } from "./parameter-fields.js";

const POLL_SECONDS = 2;

export class Models extends EventTarget {
  /** What the chosen model accepts; null while it is not loaded. */
  metadata = null;
  #timer = 0;
  #preferred;

  /** `onError` is called with the error of a look-up. */
  constructor(select, note, onError) {
    super();
    this.select = select;
    this.note = note;
    this.onError = onError;
    select.addEventListener("change", () => this.refresh());
  }

  get name() {
    return this.select.value;
  }

  /** Choose a model if the server has it, or keep the choice. */
  async choose(name) {
    if (name !== this.name) {
      this.#preferred = name;
      await this.refresh();
    }
  }

  /** Look at the server again; dispatches `described` when the metadata may have changed. */
  async refresh() {
    clearTimeout(this.#timer);
    try {
      await this.#look();
    } catch (error) {
      this.note.textContent = error.message;
      this.onError(error);
      if (error.status !== 401) {
        this.#lookLater();
      }
    }
  }

  async #look() {
    const models = await listModels();
    setOptions(this.select, models.map((model) => model.name));
    if (models.some((model) => model.name === this.#preferred)) {
      this.select.value = this.#preferred;
    }
    if (models.length) {
      this.#preferred = undefined;
    }
    const chosen = models.find((model) => model.name === this.name);
    this.metadata = chosen?.state === "READY" ? await describeModel(this.name) : null;
    this.note.textContent = noteOn(chosen, this.metadata);
    this.dispatchEvent(new Event("described"));
    if (!this.metadata && chosen?.state !== "UNAVAILABLE") {
      this.#lookLater();
    }
  }

  #lookLater() {
    this.#timer = setTimeout(() => this.refresh(), POLL_SECONDS * 1000);
  }
}

function noteOn(model, metadata) {
  if (metadata) {
    const revision = metadata.versions[0].replace(/^sha256:/, "").slice(0, 12);
    return `${metadata.family} · revision ${revision}`;
  }
  if (!model) {
    return "The server has no model yet: it waits for a download.";
  }
  if (model.state === "LOADING") {
    return "The model is loading. Your request waits until it is ready.";
  }
  return model.reason || "The model is not loaded.";
}
