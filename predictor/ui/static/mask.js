/** A mask painted over a picture: a list of strokes, so that it can be undone and repeated. */

const COLOUR = "#ff2fd0";
// The server stretches the mask to the size of the result; more pixels add nothing visible.
const LONGEST_SIDE = 1024;
const KEY_STEP = 0.05;
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class MaskPainter {
  /** Points and radii are shares of the width, so that they do not depend on the display. */
  #strokes = [];
  #cursor = null;

  /** `brush` and `eraser` are the inputs for the radius and the kind of a stroke. */
  constructor(canvas, brush, eraser) {
    this.canvas = canvas;
    this.brush = brush;
    this.eraser = eraser;
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#continue(event));
    canvas.addEventListener("keydown", (event) => this.#press(event));
    canvas.addEventListener("blur", () => this.#moveCursor(null));
  }

  get strokes() {
    return this.#strokes;
  }

  set strokes(strokes) {
    this.#strokes = [...strokes];
    this.#draw();
  }

  /** Take the proportions of a decoded picture. */
  fit(image) {
    const { naturalWidth: width, naturalHeight: height } = image;
    const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height, 1));
    this.canvas.width = Math.max(1, Math.round(width * scale));
    this.canvas.height = Math.max(1, Math.round(height * scale));
    this.#draw();
  }

  undo() {
    this.strokes = this.#strokes.slice(0, -1);
  }

  invert() {
    this.strokes = [...this.#strokes, { inverts: true }];
  }

  clear() {
    this.strokes = [];
  }

  /** The mask as a PNG: white where the server repaints, black elsewhere. */
  async file() {
    const copy = document.createElement("canvas");
    [copy.width, copy.height] = [this.canvas.width, this.canvas.height];
    const context = copy.getContext("2d");
    this.#paint(context);
    fill(context, "white", "source-in");
    fill(context, "black", "destination-over");
    return new Promise((resolve) => copy.toBlob(resolve, "image/png"));
  }

  #begin(event) {
    if (event.button !== 0) {
      return;
    }
    this.canvas.setPointerCapture(event.pointerId);
    this.#add(this.#pointOf(event));
  }

  #continue(event) {
    if (event.buttons & 1 && this.canvas.hasPointerCapture(event.pointerId)) {
      this.#strokes.at(-1).points.push(this.#pointOf(event));
      this.#draw();
    }
  }

  #press(event) {
    const [x, y] = this.#cursor ?? [0.5, 0.5 / this.#aspect];
    if (event.key in MOVES) {
      const [right, down] = MOVES[event.key];
      this.#moveCursor([
        clamp(x + right * KEY_STEP, 1),
        clamp(y + down * KEY_STEP, 1 / this.#aspect),
      ]);
    } else if (event.key === " ") {
      this.#cursor = [x, y];
      this.#add([x, y]);
    } else {
      return;
    }
    event.preventDefault();
  }

  get #aspect() {
    return this.canvas.width / this.canvas.height;
  }

  #moveCursor(point) {
    this.#cursor = point;
    this.#draw();
  }

  #add(point) {
    const radius = Number(this.brush.value) / 100;
    this.#strokes.push({ erases: this.eraser.checked, radius, points: [point] });
    this.#draw();
  }

  #pointOf(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.width];
  }

  #draw() {
    const context = this.canvas.getContext("2d");
    this.#paint(context);
    if (this.#cursor) {
      drawRing(context, this.#cursor, Number(this.brush.value) / 100);
    }
  }

  #paint(context) {
    const { width, height } = context.canvas;
    context.clearRect(0, 0, width, height);
    for (const stroke of this.#strokes) {
      if (stroke.inverts) {
        fill(context, COLOUR, "xor");
      } else {
        drawStroke(context, stroke, width);
      }
    }
  }
}

function drawStroke(context, { erases, radius, points }, width) {
  context.globalCompositeOperation = erases ? "destination-out" : "source-over";
  context.fillStyle = context.strokeStyle = COLOUR;
  context.lineWidth = 2 * radius * width;
  context.lineCap = context.lineJoin = "round";
  const [[startX, startY]] = points;
  // A line without length draws nothing.
  context.beginPath();
  context.arc(startX * width, startY * width, radius * width, 0, 2 * Math.PI);
  context.fill();
  context.beginPath();
  for (const [x, y] of points) {
    context.lineTo(x * width, y * width);
  }
  context.stroke();
}

function drawRing(context, [x, y], radius) {
  const { width } = context.canvas;
  context.globalCompositeOperation = "source-over";
  context.strokeStyle = "black";
  context.lineWidth = Math.max(1, width / 100);
  context.beginPath();
  context.arc(x * width, y * width, radius * width, 0, 2 * Math.PI);
  context.stroke();
}

function fill(context, colour, operation) {
  context.globalCompositeOperation = operation;
  context.fillStyle = colour;
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
}

function clamp(value, most) {
  return Math.min(Math.max(value, 0), most);
}
