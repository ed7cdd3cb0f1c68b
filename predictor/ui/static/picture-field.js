/** A picture that a request contains: a file from a dialog, dropped, or from the gallery. */

export class PictureField extends EventTarget {
  #file = null;
  #address = "";

  /** `root` has a file input, a hidden preview and a button that removes the picture. */
  constructor(root) {
    super();
    this.input = root.querySelector("input[type=file]");
    this.preview = root.querySelector(".preview");
    this.image = root.querySelector("img");
    this.input.addEventListener("change", () => this.input.files[0] && this.set(this.input.files[0]));
    root.querySelector(".remove").addEventListener("click", () => {
      this.set(null);
      this.input.focus();
    });
    acceptDrops(root, (file) => this.set(file));
  }

  get file() {
    return this.#file;
  }

  /** Show a file, or nothing; resolves once the picture is decoded. */
  async set(file) {
    if (file === this.#file) {
      return;
    }
    this.#file = file;
    URL.revokeObjectURL(this.#address);
    this.#address = file ? URL.createObjectURL(file) : "";
    this.preview.hidden = true;
    if (file) {
      this.image.src = this.#address;
      // The server reads formats that a browser does not show.
      await this.image.decode().catch(() => {});
    } else {
      this.image.removeAttribute("src");
      this.input.value = "";
    }
    // Unless another file has taken its place meanwhile.
    if (file === this.#file) {
      this.preview.hidden = !file;
      this.dispatchEvent(new Event("change"));
    }
  }
}

/** Call `accept` with a file that is dropped on `root`; text is left to the browser. */
export function acceptDrops(root, accept) {
  const take = (event) => {
    const hasFiles = event.dataTransfer.types.includes("Files");
    if (hasFiles) {
      event.preventDefault();
      event.stopPropagation();
    }
    return hasFiles;
  };
  root.addEventListener("dragover", (event) => root.classList.toggle("over", take(event)));
  root.addEventListener("dragleave", () => root.classList.remove("over"));
  root.addEventListener("drop", (event) => {
    root.classList.remove("over");
    if (take(event) && event.dataTransfer.files.length) {
      accept(event.dataTransfer.files[0]);
    }
  });
}

/** The content of a file as base64. */
export function base64Of(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error("The browser cannot read the file."));
    reader.readAsDataURL(blob);
  });
}
