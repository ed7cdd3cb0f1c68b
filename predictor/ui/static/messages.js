/** Shows an error: the server's sentence, advice, and the field that it names. */

import { ServerError } from "./api.js";

const box = document.getElementById("error");
const [sentence, advice] = [box.querySelector(".sentence"), box.querySelector(".advice")];

/** Show an error until the next request. */
export function showError(error) {
  sentence.textContent = error.message;
  advice.textContent = error instanceof ServerError ? adviceFor(error) : "";
  box.hidden = false;
  markField(error.message);
}

/** Remove the error and the mark of its field. */
export function clearError() {
  box.hidden = true;
  for (const control of document.querySelectorAll("[aria-invalid]")) {
    control.removeAttribute("aria-invalid");
    control.removeAttribute("aria-describedby");
  }
}

function adviceFor({ status, retryAfter }) {
  const later = retryAfter ? `Try again in ${seconds(retryAfter)}.` : "Try again later.";
  switch (status) {
    case 0:
      return "Check that it is running and that you can reach it.";
    case 401:
      return "Enter a key that this server accepts.";
    case 413:
      return "Use a smaller input picture.";
    case 429:
      return `The server is busy, or you have reached a limit. ${later}`;
    case 503:
      return `The model may still be loading, or the server is shutting down. ${later}`;
    case 504:
      return "Use fewer steps or a smaller picture, or try again later.";
    default:
      return "";
  }
}

function seconds(count) {
  return count === 1 ? "1 second" : `${count} seconds`;
}

/** The sentence begins with the field, as in `width: 63 is not …` or `controlnet.scale: …`. */
function markField(text) {
  const [, name = "", part = ""] = /^(\w+)(?: x height)?(?:\[\d+\])?(?:\.(\w+))?: /.exec(text) ?? [];
  const control =
    document.getElementById(`${name}-${part}`) ?? document.querySelector(`#request #${name || "-"}`);
  if (!control) {
    return;
  }
  control.closest("details")?.setAttribute("open", "");
  if (control.matches("input, select, textarea")) {
    control.setAttribute("aria-invalid", "true");
    control.setAttribute("aria-describedby", "error");
    control.focus();
  }
}
