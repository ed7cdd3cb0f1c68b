/** The picture to start from, and the mask painted over it. */

import { MaskPainter } from "./mask.js";
import { base64Of, PictureField } from "./picture-field.js";

export class InputImage {
  /** `onChange` is called with whether there is a picture, when the user adds or removes one. */
  constructor(details, onChange) {
    this.details = details;
    this.picture = new PictureField(details.querySelector(".dropzone"));
    this.maskTools = details.querySelector("#mask-tools");
    this.useMask = details.querySelector("#use-mask");
    const [brush, eraser] = [details.querySelector("#brush"), details.querySelector("#erase")];
    this.mask = new MaskPainter(details.querySelector("#mask"), brush, eraser);
    this.picture.addEventListener("change", () => {
      this.mask.fit(this.picture.image);
      this.mask.clear();
      this.#showMask();
      onChange(Boolean(this.picture.file));
    });
    this.useMask.addEventListener("change", () => this.#showMask());
    for (const action of ["undo", "invert", "clear"]) {
      details
        .querySelector(`#${action}-mask`)
        .addEventListener("click", () => this.mask[action]());
    }
  }

  describe(metadata) {
    const tasks = metadata?.tasks ?? ["text-to-image", "image-to-image", "inpainting"];
    const supports = (element) => element.dataset.task.split(" ").some((one) => tasks.includes(one));
    this.details.hidden = !supports(this.details);
    this.maskTools.hidden = !supports(this.maskTools);
    if (!tasks.includes("text-to-image")) {
      this.details.open = true;
    }
    if (!tasks.includes("image-to-image")) {
      this.useMask.checked = true;
      this.#showMask();
    }
  }

  /** Show a picture, as if the user had chosen it. */
  async start(file) {
    this.details.open = true;
    await this.picture.set(file);
  }

  state() {
    const strokes = this.useMask.checked ? this.mask.strokes : [];
    return { file: this.picture.file, usesMask: this.useMask.checked, strokes: [...strokes] };
  }

  async restore({ file, usesMask, strokes }) {
    await this.picture.set(file);
    this.useMask.checked = usesMask;
    this.mask.strokes = strokes;
    this.#showMask();
    this.details.open ||= Boolean(file);
  }

  /** The file of a picture names its input pictures only by their digests. */
  fill() {
    return this.picture.set(null);
  }

  /** The part of a request's body. */
  async fields({ file, strokes }) {
    if (!file || this.details.hidden) {
      return { strength: undefined };
    }
    const image = await base64Of(file);
    if (!strokes.length || this.maskTools.hidden) {
      return { image };
    }
    return { image, mask_image: await base64Of(await this.mask.file()) };
  }

  #showMask() {
    const isShown = Boolean(this.picture.file) && this.picture.image.naturalWidth > 0;
    this.mask.canvas.hidden = !(this.useMask.checked && isShown);
    this.maskTools.querySelector(".tools").hidden = !this.useMask.checked;
  }
}
