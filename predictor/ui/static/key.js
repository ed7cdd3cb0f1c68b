/** The API key: kept in this tab's sessionStorage, and requested in a dialog. */

const NAME = "api-key";
// What a header may contain (RFC 9110, section 5.5); others make `fetch` fail.
const VALID = /^[\x21-\x7e]+$/;

const dialog = document.getElementById("key-dialog");
const input = document.getElementById("key");

export function storedKey() {
  return sessionStorage.getItem(NAME) ?? "";
}

/** Ask for a key; resolves to whether the user has entered one. */
export function askForKey(sentence) {
  dialog.querySelector(".sentence").textContent = sentence;
  input.value = "";
  input.setCustomValidity("");
  // Two calls that fail at the same time share one dialog.
  if (!dialog.open) {
    dialog.returnValue = "";
    dialog.showModal();
  }
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "used"), { once: true });
  });
}

input.addEventListener("input", () => input.setCustomValidity(""));

dialog.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = input.value.trim();
  if (!VALID.test(key)) {
    input.setCustomValidity("A key has letters, digits and punctuation, and no spaces.");
    input.reportValidity();
    return;
  }
  sessionStorage.setItem(NAME, key);
  dialog.close("used");
});

dialog.querySelector(".dismiss").addEventListener("click", () => dialog.close(""));
