/** The fields with one value: every control of the form that has a name. */

const SIDES = ["width", "height"];

export class ParameterFields {
  #defaults = {};
  #followsPicture = false;
  #controls;

  constructor(form) {
    this.form = form;
    this.#controls = [...form.querySelectorAll("[name]")];
    for (const control of this.#controls) {
      control.dataset.initial = control.value;
    }
    for (const field of form.querySelectorAll(".slider")) {
      linkSlider(field);
    }
    form.querySelector("#swap-sides").addEventListener("click", () => {
      const { width, height } = form.elements;
      [width.value, height.value] = [height.value, width.value];
    });
  }

  /** Take bounds and defaults of a model; `metadata` is null while it is not loaded. */
  describe(metadata) {
    const { limits, schedulers, defaults, inputs } = metadata ?? {
      limits: {},
      schedulers: [],
      defaults: {},
    };
    const untouched = this.#controls.filter(
      (control) => control.value === "" || control.value === this.#defaultOf(control),
    );
    this.#defaults = defaults;
    this.#showSupported(inputs?.map((input) => input.name));
    this.#setBounds(limits);
    const { scheduler } = this.form.elements;
    setOptions(scheduler, schedulers.length ? schedulers : [["", "the model's own"]]);
    for (const control of untouched) {
      setValue(control, this.#defaultOf(control));
    }
  }

  /** The texts of the controls, to restore later. */
  state() {
    return Object.fromEntries(this.#controls.map((control) => [control.name, control.value]));
  }

  restore(state) {
    for (const control of this.#controls) {
      setValue(control, state[control.name] ?? "");
    }
  }

  /** Take the values of a request; the other fields get their defaults. */
  fill(values) {
    for (const control of this.#controls) {
      setValue(control, values[control.name] ?? this.#defaultOf(control));
    }
  }

  /** Leave the size to the input picture, or return to the size of the model. */
  followPicture(follows) {
    this.#followsPicture = follows;
    for (const side of [this.form.elements.width, this.form.elements.height]) {
      side.placeholder = follows ? "as the picture" : "";
      setValue(side, this.#defaultOf(side));
    }
  }

  /** The part of a request's body; an empty field is left to the server. */
  fields(state) {
    const supported = this.#controls.filter((control) => !control.closest("[data-input][hidden]"));
    const given = supported.filter(({ name }) => state[name] !== "");
    const broken = this.#controls.find((control) => control.validity.badInput);
    if (broken) {
      throw new Error(`${broken.name}: is not a number`);
    }
    return Object.fromEntries(given.map((control) => [control.name, valueOf(control, state)]));
  }

  #defaultOf(control) {
    if (this.#followsPicture && SIDES.includes(control.name)) {
      return "";
    }
    return String(this.#defaults[control.name] ?? control.dataset.initial);
  }

  #showSupported(names) {
    for (const field of this.form.querySelectorAll("[data-input]")) {
      field.hidden = Boolean(names) && !names.includes(field.dataset.input);
    }
  }

  #setBounds(limits) {
    for (const control of this.#controls) {
      for (const bound of ["min", "max", "step"]) {
        if (control.dataset[bound] in limits) {
          control[bound] = limits[control.dataset[bound]];
        }
      }
      if (control.dataset.maxlength in limits) {
        // Not `maxLength`, which would cut a pasted prompt without a word: the server says it.
        control.title = `At most ${limits[control.dataset.maxlength]} characters`;
      } else if (control.type === "number" && control.max) {
        control.title = `${control.min || 0} to ${control.max}`;
      }
    }
    for (const field of this.form.querySelectorAll(".slider")) {
      copyBounds(field);
    }
  }
}

/** Replace the options of a select, each a value or `[value, label]`; keep the choice. */
export function setOptions(select, options) {
  const chosen = select.value;
  const pairs = options.map((option) => (Array.isArray(option) ? option : [option, option]));
  select.replaceChildren(...pairs.map(([value, label]) => new Option(label, value)));
  if (pairs.some(([value]) => value === chosen)) {
    select.value = chosen;
  }
}

/** Set a control as if the user had typed it. */
export function setValue(control, value) {
  const text = String(value);
  if (control.matches("select") && ![...control.options].some((one) => one.value === text)) {
    control.add(new Option(text, text));
  }
  control.value = text;
  control.dispatchEvent(new Event("input", { bubbles: true }));
}

function valueOf(control, state) {
  return control.type === "number" ? Number(state[control.name]) : state[control.name];
}

/** The slider and the number of a field follow each other. */
function linkSlider(field) {
  const [number, range] = partsOf(field);
  range.addEventListener("input", () => {
    number.value = range.value;
  });
  number.addEventListener("input", () => {
    range.value = number.value || number.max;
  });
  copyBounds(field);
}

function copyBounds(field) {
  const [number, range] = partsOf(field);
  [range.min, range.max, range.step] = [number.min, number.max, number.step];
  range.value = number.value || number.max;
}

function partsOf(field) {
  return [field.querySelector("[type=number]"), field.querySelector("[type=range]")];
}
