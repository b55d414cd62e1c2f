// Answers as they come, and the keyboard. Without it the page works by loading it again.
const form = document.querySelector("form[data-keys]");
const stream = document.querySelector("[data-stream]");

if (stream) {
  const boxes = [...document.querySelectorAll("[data-answer]")];
  const source = new EventSource(stream.dataset.stream);
  source.onmessage = (event) => {
    const said = JSON.parse(event.data);
    boxes.forEach((box, place) => (box.querySelector("p").textContent = said.texts[place]));
    if (said.done) {
      source.close();
      location.reload();
    }
  };
}

function mark() {
  const chosen = form.querySelector("[name=choice]:checked");
  document.querySelectorAll("[data-answer]").forEach((box) =>
    box.classList.toggle("chosen", !!chosen && box.dataset.answer === chosen.value));
}

if (form) {
  form.addEventListener("change", mark);
  mark();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey && event.key === "Enter") {
    document.querySelector("form button.main:not(:disabled)")?.click();
  }
  if (event.ctrlKey || event.metaKey || event.altKey || /^(TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
  const found = document.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (found && !found.disabled) {
    event.preventDefault();
    found.focus();
    found.click();
  }
});
