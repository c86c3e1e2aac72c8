// Predicts an image in the browser as `busseg predict` does. The image leaves the viewer's machine at no time.
import * as ort from "./runtime/ort.wasm.bundle.min.js";

const MAX_PIXELS = 16_777_216; // of a canvas in Safari on a phone
const MAX_SIDE_PX = 32_767; // as in busseg/imaging/images.py
const TINT = [255, 190, 0, 38]; // of the lesion

// === Read ===

// Grey values of a PNG or JPEG file, `{pixels, width, height}`; see `read_image` in busseg/imaging/images.py.
async function readGrey(file) {
  refuse(new Uint8Array(await file.arrayBuffer()));
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {colorSpaceConversion: "none"}); // grey values as they are stored
  } catch {
    throw new Error("Expected a complete image, found a broken file");
  }
  const {width, height} = bitmap;
  if (width * height > MAX_PIXELS || Math.max(width, height) > MAX_SIDE_PX) {
    throw new Error(`Expected at most ${MAX_PIXELS} pixels, found ${width} x ${height}`);
  }
  // Without alpha the canvas is black below the image, so transparent pixels become black.
  const context = new OffscreenCanvas(width, height).getContext("2d", {alpha: false, willReadFrequently: true});
  context.drawImage(bitmap, 0, 0);
  const {data} = context.getImageData(0, 0, width, height);
  const pixels = new Uint8Array(width * height);
  for (let i = 0; i < pixels.length; i++) { // luma of ITU-R BT.601, as Pillow computes it
    pixels[i] = (19595 * data[4 * i] + 38470 * data[4 * i + 1] + 7471 * data[4 * i + 2] + 32768) >> 16;
  }
  return {pixels, width, height};
}

// Throws for files that a browser would decode otherwise than busseg.
function refuse(bytes) {
  const begins = (...start) => start.every((byte, i) => bytes[i] === byte);
  if (begins(0xff, 0xd8)) return;
  if (!begins(0x89, 0x50, 0x4e, 0x47)) throw new Error("Expected a PNG or JPEG image, found something else");
  if (bytes[24] === 16) throw new Error("Expected 8 bits a channel, found 16; busseg predict reads them");
  const view = new DataView(bytes.buffer);
  for (let place = 8; place + 8 <= bytes.length; place += 12 + view.getUint32(place)) { // length, name, content, CRC
    const name = String.fromCharCode(...bytes.subarray(place + 4, place + 8));
    if (name === "acTL") throw new Error("Expected a single image, found an animation; busseg predict reads clips");
    if (name === "IDAT") return;
  }
}

// What is wrong with the grey levels, or null; see `find_faint` in busseg/inference/quality.py.
function findFaint({pixels}) {
  const counts = new Float64Array(256);
  for (const grey of pixels) counts[grey]++;
  const level = share => {
    let sum = 0, grey = 0;
    while ((sum += counts[grey]) < share * pixels.length) grey++;
    return grey;
  };
  const [low, high] = [level(0.005), level(0.995)];
  if (high - low < 16) return "Nearly one grey";
  return high < 64 ? "Very dark" : null;
}

// === Fit to the model's square, and back ===

// Rounds halves to even, as Python and NumPy do.
function round(x) {
  const rounded = Math.round(x);
  return rounded - x === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

function placement(width, height, size) {
  const [w, h] = [width, height].map(side => Math.max(1, round(side * (size / Math.max(width, height)))));
  return {left: Math.floor((size - w) / 2), top: Math.floor((size - h) / 2), width: w, height: h};
}

// The image in the model's square, as `fit_to_square` with OpenCV's INTER_AREA or INTER_LINEAR. Float32Array.
export function fitToSquare(image, size) {
  const {left, top, width, height} = placement(image.width, image.height, size);
  const part = (size < Math.max(image.width, image.height) ? shrink : enlarge)(image, width, height);
  const square = new Float32Array(size * size);
  for (let y = 0; y < height; y++) {
    square.set(part.subarray(y * width, (y + 1) * width), (top + y) * size + left);
  }
  return square;
}

// A square map at the image's size, as `fit_to_native`.
export function fitToNative(map, size, width, height) {
  const part = placement(width, height, size);
  const cropped = new Float32Array(part.width * part.height);
  for (let y = 0; y < part.height; y++) {
    const start = (part.top + y) * size + part.left;
    cropped.set(map.subarray(start, start + part.width), y * part.width);
  }
  const linear = (from, to) => neighbours(from, to).map(([first, second, share]) => [[first, 1 - share], [second, share]]);
  return resample(cropped, part.width, linear(part.width, width), linear(part.height, height));
}

// Area averaging: INTER_AREA.
function shrink({pixels, width: from, height: down}, width, height) {
  const means = resample(pixels, from, areas(from, width), areas(down, height));
  const halves = from === 2 * width && down === 2 * height; // here OpenCV rounds halves up
  return means.map(halves ? Math.round : round);
}

// The old pixels below each new pixel along a side, as `[place, share of the new pixel]`.
function areas(from, to) {
  const step = from / to;
  return Array.from({length: to}, (_, i) => {
    const below = [];
    for (let j = Math.floor(i * step); j < Math.min(Math.ceil((i + 1) * step), from); j++) {
      below.push([j, (Math.min((i + 1) * step, j + 1) - Math.max(i * step, j)) / step]);
    }
    return below;
  });
}

// Weighted sums along rows, then along columns. `columns` and `rows` have the weights of each new pixel.
function resample(values, width, columns, rows) {
  const height = values.length / width;
  const across = new Float64Array(height * columns.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < columns.length; x++) {
      for (const [place, weight] of columns[x]) across[y * columns.length + x] += weight * values[y * width + place];
    }
  }
  const sums = new Float64Array(rows.length * columns.length);
  for (let y = 0; y < rows.length; y++) {
    for (const [place, weight] of rows[y]) {
      for (let x = 0; x < columns.length; x++) sums[y * columns.length + x] += weight * across[place * columns.length + x];
    }
  }
  return sums;
}

// INTER_LINEAR of 8 bits, in the whole numbers that OpenCV computes with: weights of 11 bits.
function enlarge({pixels, width: from, height: down}, width, height) {
  const whole = ([first, second, share]) => [first, second, round((1 - share) * 2048), round(share * 2048)];
  const columns = neighbours(from, width).map(whole), rows = neighbours(down, height).map(whole);
  const part = new Float64Array(width * height);
  for (let y = 0; y < height; y++) {
    const [above, below, upper, lower] = rows[y];
    for (let x = 0; x < width; x++) {
      const [one, other, nearer, farther] = columns[x];
      const across = row => (pixels[row * from + one] * nearer + pixels[row * from + other] * farther) >> 4;
      part[y * width + x] = (((upper * across(above)) >> 16) + ((lower * across(below)) >> 16) + 2) >> 2;
    }
  }
  return part;
}

// The two old pixels around the centre of each new pixel along a side, and the second one's share.
function neighbours(from, to) {
  return Array.from({length: to}, (_, i) => {
    const centre = Math.fround((i + 0.5) * (from / to) - 0.5), first = Math.floor(centre);
    if (first < 0) return [0, 0, 0];
    return first >= from - 1 ? [from - 1, from - 1, 0] : [first, first + 1, Math.fround(centre - first)];
  });
}

// === Predict ===

async function predict({session, model}, image) {
  const size = model.image_size;
  const input = new ort.Tensor("float32", fitToSquare(image, size), [1, size, size, 1]);
  const outputs = await session.run({[session.inputNames[0]]: input});
  const values = Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, tensor.data]));
  if (!Object.values(values).every(output => output.every(Number.isFinite))) {
    throw new Error("Expected finite numbers from the model, found an answer of others");
  }
  const mask = Uint8Array.from(fitToNative(values.mask, size, image.width, image.height), p => p >= model.threshold);
  return {
    probabilities: values.label,
    label: model.classes[values.label.indexOf(Math.max(...values.label))],
    mask,
    uncertainty: values.uncertainty?.[0],
    outside: values.ood_score?.[0] > 1, // out of distribution
    faint: findFaint(image),
  };
}

// === Show ===

const element = id => document.getElementById(id);
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
const capital = word => word[0].toUpperCase() + word.slice(1);

function show(name, image, answer) {
  const {width, height} = image, area = answer.mask.reduce((sum, one) => sum + one, 0);
  drawImage(element("image"), image);
  drawLesion(element("lesion"), answer.outside ? new Uint8Array(answer.mask.length) : answer.mask, width, height);
  element("image").ariaLabel = `${name}${area && !answer.outside ? ", with its lesion" : ""}`;
  element("name").textContent = name;
  element("label").textContent = answer.outside ? "This image does not look like breast ultrasound" : capital(answer.label);
  const unlike = "It differs from the breast ultrasound images that the model was trained on. A class or a lesion would " +
    "mean nothing here, so neither is shown.";
  element("warnings").replaceChildren(...[answer.outside && unlike, answer.faint && `${answer.faint}.`].filter(Boolean)
    .map(text => Object.assign(document.createElement("p"), {className: "warning", textContent: text})));
  element("facts").open = !answer.outside;
  element("summary").textContent = answer.outside ? "Show the meaningless result nevertheless" : "Numbers";
  element("probabilities").replaceChildren(...[...answer.probabilities].flatMap(bar));
  element("area").textContent = area ?
    `${percent(area / answer.mask.length)} of the image, ${area.toLocaleString("en")} px` : "none seen";
  for (const id of ["doubt", "uncertainty"]) element(id).hidden = answer.uncertainty === undefined;
  element("uncertainty").textContent = `${percent(answer.uncertainty, 0)}: the model's own estimate that the class is wrong, ` +
    "or that the outline misses the lesion";
  element("answer").hidden = false;
}

function bar(p, i) {
  const value = document.createElement("dd"), track = document.createElement("span"), part = document.createElement("i");
  part.style.width = `${100 * p}%`;
  track.append(part);
  value.append(track, percent(p));
  return [Object.assign(document.createElement("dt"), {textContent: capital(loaded.model.classes[i])}), value];
}

function drawImage(canvas, {pixels, width, height}) {
  Object.assign(canvas, {width, height});
  const drawn = new ImageData(width, height), words = new Uint32Array(drawn.data.buffer); // a word is a pixel, as ABGR
  for (let i = 0; i < words.length; i++) words[i] = 0xff000000 | (0x10101 * pixels[i]);
  canvas.getContext("2d").putImageData(drawn, 0, 0);
}

// The lesion, tinted, and its outline along the edges of its pixels.
function drawLesion(canvas, mask, width, height) {
  Object.assign(canvas, {width, height});
  const context = canvas.getContext("2d"), outline = new Path2D();
  const at = (x, y) => x >= 0 && y >= 0 && x < width && y < height ? mask[y * width + x] : 0;
  const tint = new ImageData(width, height);
  for (let i = 0; i < mask.length; i++) if (mask[i]) tint.data.set(TINT, 4 * i);
  context.putImageData(tint, 0, 0);
  for (let y = 0; y <= height; y++) {
    for (let x = 0; x <= width; x++) {
      if (at(x, y) !== at(x - 1, y)) { outline.moveTo(x, y); outline.lineTo(x, y + 1); }
      if (at(x, y) !== at(x, y - 1)) { outline.moveTo(x, y); outline.lineTo(x + 1, y); }
    }
  }
  context.strokeStyle = "rgb(255 190 0)"; // `LESION_RGB` of busseg/inference/overlay.py
  context.lineWidth = Math.max(2, Math.round(Math.max(width, height) / 300));
  context.lineCap = "round";
  context.stroke(outline);
}

// Lets "Save mask" save the lesion as `busseg predict` writes it: 255 where it is, else 0.
async function offerMask(name, {mask}, {width, height}) {
  const canvas = new OffscreenCanvas(width, height);
  drawImage(canvas, {pixels: mask.map(one => 255 * one), width, height});
  URL.revokeObjectURL(element("save").href);
  const href = URL.createObjectURL(await canvas.convertToBlob());
  Object.assign(element("save"), {href, download: `${name.replace(/\.[^.]*$/, "")}_mask.png`});
}

// === The page ===

let loaded; // {session, model}

async function load() {
  // Threads need headers that a plain server does not send.
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = {wasm: new URL("runtime/ort-wasm-simd-threaded.wasm", import.meta.url).href};
  const [model, session] = await Promise.all([
    fetch("model.json").then(answer => answer.json()),
    ort.InferenceSession.create("model.onnx", {executionProviders: ["wasm"]}),
  ]);
  return {model, session};
}

// Shows the answer to a file, which may be a promise.
async function answer(file, name) {
  setBusy(true);
  element("status").textContent = `Predicting ${name} ...`;
  element("error").hidden = element("answer").hidden = true;
  await new Promise(painted => requestAnimationFrame(() => setTimeout(painted)));
  try {
    const content = await file, started = performance.now();
    const image = await readGrey(content), found = await predict(loaded, image);
    await offerMask(name, found, image);
    show(name, image, found);
    element("status").textContent = `Predicted in ${((performance.now() - started) / 1000).toFixed(1)} s`;
  } catch (error) {
    fail(`${error.message}: ${name}`);
  }
  setBusy(false);
}

function fail(text) {
  element("status").textContent = "";
  Object.assign(element("error"), {textContent: text, hidden: false});
}

function setBusy(busy) {
  element("file").disabled = element("example").disabled = busy;
}

element("file").addEventListener("change", ({target}) => {
  const [file] = target.files;
  if (file) answer(file, file.name);
  target.value = ""; // so that the same file may be chosen again
});
element("example").addEventListener("click", () => {
  answer(fetch("example/image.png").then(found => found.blob()), "example.png");
});
element("shown").addEventListener("change", ({target}) => {
  element("lesion").hidden = !target.checked;
});
try {
  loaded = await load();
  element("status").textContent = "Ready";
  setBusy(false);
} catch (error) {
  fail(`The model cannot be loaded: ${error.message}`);
}
