/** The previews of the request that runs: for each of its pictures the latest one. */

import { bytesOf } from "./gallery.js";

const place = document.getElementById("previews");

/** Show the preview of an event in place of the last one of the same picture. */
export function showPreview({ picture, step, steps, image }) {
  const shown = imageFor(picture);
  URL.revokeObjectURL(shown.src);
  const file = new Blob([bytesOf(image.b64)], { type: `image/${image.format}` });
  shown.src = URL.createObjectURL(file);
  shown.alt = `Preview after step ${step} of ${steps}`;
  place.hidden = false;
}

/** Remove all previews: the pictures are done, or never will be. */
export function clearPreviews() {
  for (const image of place.children) {
    URL.revokeObjectURL(image.src);
  }
  place.replaceChildren();
  place.hidden = true;
}

function imageFor(picture) {
  const known = [...place.children].find((image) => image.dataset.picture === String(picture));
  if (known) {
    return known;
  }
  const image = document.createElement("img");
  image.dataset.picture = picture;
  place.append(image);
  return image;
}
