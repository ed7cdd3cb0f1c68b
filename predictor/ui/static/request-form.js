/** The form as a whole: its parts together make the body of a request. */

import { Adapters, ControlNet } from "./additions.js";
import { InputImage } from "./input-image.js";
import { ParameterFields } from "./parameter-fields.js";

export class RequestForm {
  #parts;

  constructor(form) {
    this.form = form;
    const parameters = new ParameterFields(form);
    const image = new InputImage(form.querySelector("#input-image"), (isGiven) =>
      parameters.followPicture(isGiven),
    );
    const adapters = new Adapters(form.querySelector("#adapters"));
    const controlnet = new ControlNet(form.querySelector("#controlnet"));
    // The picture comes first: it clears the size.
    this.#parts = { image, parameters, adapters, controlnet };
  }

  /** Show what a model supports; null while it is not loaded. */
  describe(metadata) {
    for (const part of Object.values(this.#parts)) {
      part.describe(metadata);
    }
    const more = this.form.querySelector("#more");
    more.querySelector(".grid").hidden = !more.querySelector("[data-input]:not([hidden])");
  }

  /** All that the user has entered, to repeat it later. */
  state() {
    const entries = Object.entries(this.#parts).map(([name, part]) => [name, part.state()]);
    return Object.fromEntries(entries);
  }

  async restore(state) {
    for (const [name, part] of Object.entries(this.#parts)) {
      await part.restore(state[name]);
    }
  }

  /** Take the values of a request, such as those in the file of a picture. */
  async fill(values) {
    for (const part of Object.values(this.#parts)) {
      await part.fill(values);
    }
  }

  /** Start from a picture of the gallery. */
  startFrom(file) {
    return this.#parts.image.start(file);
  }

  /** The body of the request that a state describes. */
  async bodyOf(state) {
    const body = {};
    for (const name of ["parameters", "image", "adapters", "controlnet"]) {
      Object.assign(body, await this.#parts[name].fields(state[name]));
    }
    return body;
  }
}

/** The same state with one picture and its seed. */
export function withSeed(state, seed) {
  const parameters = { ...state.parameters, seed: String(seed), num_images_per_prompt: "1" };
  return { ...state, parameters };
}
