/** What a model offers in addition to its own weights: adapters (LoRA) and ControlNets. */

import { setOptions, setValue } from "./parameter-fields.js";
import { base64Of, PictureField } from "./picture-field.js";

export class Adapters {
  #rows = new Map();

  constructor(details) {
    this.details = details;
    this.list = details.querySelector("ul");
  }

  describe(metadata) {
    const chosen = this.state();
    const names = metadata?.adapters ?? [];
    this.details.hidden = !names.length;
    this.#rows = new Map(names.map((name) => [name, adapterRow(name)]));
    this.list.replaceChildren(...[...this.#rows.values()].map(({ item }) => item));
    this.restore(chosen);
  }

  /** The chosen adapters, as in a request. */
  state() {
    const rows = [...this.#rows].filter(([, { box }]) => box.checked);
    return rows.map(([name, { scale }]) => ({ name, scale: Number(scale.value || 1) }));
  }

  restore(chosen) {
    const scales = new Map(chosen.map(({ name, scale }) => [name, scale]));
    for (const [name, { box, scale }] of this.#rows) {
      box.checked = scales.has(name);
      scale.value = scales.get(name) ?? 1;
    }
    this.details.open ||= scales.size > 0;
  }

  fill(values) {
    this.restore(values.adapters ?? []);
  }

  fields(chosen) {
    return { adapters: chosen.length ? chosen : undefined };
  }
}

export class ControlNet {
  constructor(details) {
    this.details = details;
    this.name = details.querySelector("select");
    this.scale = details.querySelector("#controlnet-scale");
    this.picture = new PictureField(details.querySelector(".dropzone"));
  }

  describe(metadata) {
    const names = metadata?.controlnets ?? [];
    this.details.hidden = !names.length;
    setOptions(this.name, [["", "none"], ...names]);
  }

  state() {
    return { name: this.name.value, scale: this.scale.value, file: this.picture.file };
  }

  async restore({ name, scale, file }) {
    setValue(this.name, name);
    setValue(this.scale, scale);
    await this.picture.set(file);
    this.details.open ||= Boolean(name);
  }

  /** The picture is missing: the user has to choose it again. */
  fill({ controlnet }) {
    return this.restore({ name: "", scale: 1, ...controlnet, file: null });
  }

  async fields({ name, scale, file }) {
    if (!name || this.details.hidden) {
      return {};
    }
    const image = file ? await base64Of(file) : undefined;
    return { controlnet: { name, scale: Number(scale || 1), image } };
  }
}

function adapterRow(name) {
  const item = document.getElementById("adapter").content.cloneNode(true).firstElementChild;
  const [box, scale] = item.querySelectorAll("input");
  item.querySelector("span").textContent = name;
  scale.setAttribute("aria-label", `Scale of ${name}`);
  return { item, box, scale };
}
