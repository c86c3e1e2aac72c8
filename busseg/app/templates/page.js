// An image pasted anywhere on the page is uploaded like a picked file.
document.addEventListener("paste", (event) => {
  const picker = document.querySelector("#drop input[type=file]");
  if (!picker || !event.clipboardData.files.length) return;
  event.preventDefault();
  picker.files = event.clipboardData.files;
  picker.dispatchEvent(new Event("change", { bubbles: true }));
});

// The image and its explanation zoom together. `x` and `y` are the centre of the view, as a share of the image from its
// centre. They are kept as CSS variables, so a moved threshold or another frame keeps the view.
const view = { zoom: 1, x: 0, y: 0 };

function look(zoom, x = view.x, y = view.y) {
  view.zoom = Math.min(Math.max(zoom, 1), 16);
  const room = 0.5 - 0.5 / view.zoom;
  view.x = Math.min(Math.max(x, -room), room);
  view.y = Math.min(Math.max(y, -room), room);
  const touch = view.zoom > 1 ? "none" : "auto"; // a finger moves a zoomed image, else it scrolls the page
  for (const [name, value] of Object.entries({ ...view, touch }))
    document.documentElement.style.setProperty(`--${name}`, value);
}

document.addEventListener("busseg-fit", () => look(1));
document.addEventListener("click", (event) => {
  const zoom = event.target.closest?.("[data-zoom]");
  if (zoom) look(view.zoom * zoom.dataset.zoom);
  const frame = event.target.closest?.("[data-frame]");
  const number = document.querySelector("#frame input[type=number]");
  if (!frame || !number) return;
  number.value = frame.dataset.frame;
  number.dispatchEvent(new Event("input", { bubbles: true }));
});
document.addEventListener("keydown", (event) => {
  if (!event.target.matches?.(".zoomed") || event.ctrlKey || event.metaKey || event.altKey) return;
  const step = 0.1 / view.zoom;
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  const [x, y] = moves[event.key] ?? [0, 0];
  const factor = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, 0: 0 }[event.key] ?? 1;
  if ((x || y) && view.zoom === 1) return; // the arrow keys scroll the page
  if (!x && !y && factor === 1) return;
  event.preventDefault();
  look(view.zoom * factor, view.x + x, view.y + y);
});
document.addEventListener("wheel", (event) => {
  const zoomed = event.target.closest?.(".zoomed");
  if (!zoomed || !event.ctrlKey) return; // as in maps: the wheel alone scrolls the page
  event.preventDefault();
  const box = zoomed.getBoundingClientRect();
  const [x, y] = [(event.clientX - box.left) / box.width - 0.5, (event.clientY - box.top) / box.height - 0.5];
  const [before, zoom] = [view.zoom, Math.min(Math.max(view.zoom * Math.exp(-event.deltaY / 300), 1), 16)];
  look(zoom, view.x + x / before - x / zoom, view.y + y / before - y / zoom); // the place under the pointer stays
}, { passive: false });
document.addEventListener("pointermove", (event) => {
  const zoomed = event.target.closest?.(".zoomed");
  if (!zoomed || !event.buttons || view.zoom === 1) return;
  const box = zoomed.getBoundingClientRect();
  const [x, y] = [event.movementX / box.width, event.movementY / box.height];
  look(view.zoom, view.x - x / view.zoom, view.y - y / view.zoom);
});
document.addEventListener("dragstart", (event) => {
  if (event.target.closest?.(".zoomed")) event.preventDefault();
});

// The frame that is shown, marked in the strip.
document.addEventListener("busseg-frame", (event) => {
  for (const one of document.querySelectorAll("[data-frame]")) {
    if (one.dataset.frame === String(event.detail)) one.setAttribute("aria-current", "true");
    else one.removeAttribute("aria-current");
  }
});
