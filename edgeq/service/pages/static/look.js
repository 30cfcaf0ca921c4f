// What a vision graph sees on a picture: classes, objects, a class for each pixel, or a vector.

import { at, drawn, inSeconds, made, say, several } from "./elements.js";
import { complain } from "./entrance.js";
import * as pictures from "./pictures.js";
import { call, dataUri } from "./service.js";

const WAYS = {
  "/v1/detect": { title: "Find objects", name: "Objects", show: objects },
  "/v1/segment": { title: "Name the pixels", name: "Pixels", show: pixels },
  "/v1/classify": { title: "Name images", name: "Classes", show: classes },
  "/v1/embed": { title: "Turn images into vectors", name: "A vector", show: vector },
};
export const paths = Object.keys(WAYS);

const KEPT = 20; // results on the page
const SHOWN_NUMBERS = 8; // of a vector
const LEAST_SURE = 0.5; // of a keypoint that is drawn
const SMALL = 256; // pixels of a side: a smaller picture is shown larger
const COLOURS = 256; // of a mask that a canvas reads without loss

let running = new AbortController(); // of the look under way
let vectors = []; // { name, numbers } of pictures before

export function open({ paths: described }) {
  const ways = paths.filter((path) => path in described);
  at("way").replaceChildren(...ways.map((path) => made("option", { value: path, text: WAYS[path].name })));
  at("ways").hidden = ways.length < 2;
  at("least").hidden = !ways.includes("/v1/detect");
  pictures.offer(at("look"), {
    wanted: "Choose, drop or paste a picture",
    described: "The picture to look at",
    changed: () => pictures.chosen().length && look(),
  });
  at("results").setAttribute("aria-label", "What was seen, the latest first");
  at("look").hidden = at("results").hidden = false;
  at("file").focus();
  return WAYS[ways[0]].title;
}

export function close() {
  running.abort();
  for (const image of at("results").querySelectorAll("img")) URL.revokeObjectURL(image.src);
  at("results").replaceChildren();
  vectors = [];
  at("look").hidden = at("results").hidden = true;
}

at("look").addEventListener("submit", (event) => {
  event.preventDefault();
  look();
});

async function look() {
  const [file] = pictures.chosen();
  if (!file) return say("Choose a picture.", true);
  if (!at("look").reportValidity()) return;
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const path = at("way").value;
  say("Looking …");
  try {
    const body = { image: await dataUri(file) };
    if (path === "/v1/detect") body.score = at("score").valueAsNumber;
    const begun = performance.now();
    const answer = await (await call(path.slice(1), { body, signal })).json();
    const seconds = (performance.now() - begun) / 1000;
    await show(file, WAYS[path], answer, seconds, signal);
  } catch (error) {
    complain(error);
  }
}

async function show(file, way, answer, seconds, signal) {
  const image = made("img", { src: URL.createObjectURL(file), alt: file.name });
  await image.decode().catch(() => {}); // what this browser cannot show is an answer all the same
  signal.throwIfAborted();
  const side = Math.max(image.naturalWidth, image.naturalHeight);
  if (side && side < SMALL) image.width = (image.naturalWidth * SMALL) / side;
  const picture = made("div", { className: "looked" }, [image]);
  const seen = await way.show(answer, picture, image, file.name);
  signal.throwIfAborted();
  const facts = made("p", { className: "facts", text: `${file.name} · answered in ${inSeconds(seconds)}, with the way there and back` });
  const told = made("div", { className: "told" }, [...seen, facts]);
  at("results").prepend(made("li", { className: "found wide" }, [picture, told]));
  const old = [...at("results").children].slice(KEPT);
  for (const each of old) {
    URL.revokeObjectURL(each.querySelector("img").src);
    each.remove();
  }
  say(seen[0].dataset.told);
}

const named = ({ label, index }) => label ?? `class ${index}`;
const colour = (number) => `hsl(${(number * 137.5) % 360} 85% 45%)`;

function heading(text, told = text) {
  const element = made("p", { className: "caption", text });
  element.dataset.told = told;
  return element;
}

const scored = (name, score) => {
  const meter = made("meter", { min: 0, max: 1, value: Math.max(score, 0) });
  meter.setAttribute("aria-label", name);
  return made("li", {}, [made("span", { text: name }), meter, made("span", { className: "score", text: score.toFixed(3) })]);
};

function classes({ classes: found }) {
  const list = made("ol", { className: "scores" }, found.map((each) => scored(named(each), each.score)));
  list.setAttribute("aria-label", "The likeliest classes");
  return [heading(named(found[0]), `${named(found[0])}, score ${found[0].score.toFixed(3)}`), list];
}

// ---- boxes

function objects({ objects: found }, picture, image, name) {
  const told = several(found.length, "object");
  const { naturalWidth: width, naturalHeight: height } = image;
  if (width) {
    const sketch = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${told} on ${name}` });
    const size = Math.max(width, height) / 22;
    found.forEach((each, place) => sketch.append(...frame(each, place + 1, size)));
    picture.append(sketch);
  }
  const list = made("ol", { className: "scores" }, found.map((each, place) => scored(`${place + 1}. ${named(each)}`, each.score)));
  list.setAttribute("aria-label", "Objects, the likeliest first");
  return [heading(told), ...(found.length ? [list] : [])];
}

function frame({ index, box, keypoints = [] }, number, size) {
  const { left, top, right, bottom } = box;
  const place = { x: left, y: top, width: Math.max(right - left, 0), height: Math.max(bottom - top, 0), fill: "none" };
  const line = size * 1.1;
  const above = Math.max(top - line, 0);
  const label = drawn("text", { x: left + size / 5, y: above + size * 0.85, "font-size": size, fill: "#fff" });
  label.textContent = number;
  const digits = String(number).length;
  return [
    drawn("rect", { ...place, stroke: "#fff", class: "under" }),
    drawn("rect", { ...place, stroke: colour(index), class: "over" }),
    drawn("rect", { x: left, y: above, width: size * (0.4 + 0.6 * digits), height: line, fill: "#111" }),
    label,
    ...keypoints
      .filter(({ visibility }) => visibility >= LEAST_SURE)
      .map(({ x, y }) => drawn("circle", { cx: x, cy: y, r: size / 6, fill: colour(index), stroke: "#fff" })),
  ];
}

// ---- masks

async function pixels({ classes: found, mask, width, height }, picture, image, name) {
  const all = width * height;
  const told = found.map((each) => `${named(each)} ${((100 * each.pixels) / all).toFixed(1)} %`);
  const parts = [heading(several(found.length, "class", "classes"))];
  if (found.every(({ index }) => index < COLOURS)) {
    const canvas = await painted(mask, width, height);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${name}: ${told.join(", ")}`);
    picture.append(canvas);
  } else parts.push(made("p", { text: `It is not drawn: this page draws ${COLOURS} classes.` }));
  const legend = found.map((each, place) => {
    const swatch = drawn("svg", { viewBox: "0 0 1 1", "aria-hidden": "true" }, [drawn("rect", { width: 1, height: 1, fill: colour(each.index) })]);
    return made("li", {}, [swatch, made("span", { text: told[place] })]);
  });
  return [...parts, made("ul", { className: "legend" }, legend)];
}

// The mask's class numbers as colours.
async function painted(mask, width, height) {
  const bytes = Uint8Array.from(atob(mask), (each) => each.charCodeAt(0));
  const numbers = await createImageBitmap(new Blob([bytes], { type: "image/png" }), { colorSpaceConversion: "none" });
  const canvas = made("canvas", { width, height });
  const brush = canvas.getContext("2d", { willReadFrequently: true });
  brush.drawImage(numbers, 0, 0);
  const area = brush.getImageData(0, 0, width, height);
  const table = palette(new Set(area.data.filter((_, place) => place % 4 === 0)));
  for (let place = 0; place < area.data.length; place += 4) area.data.set(table.get(area.data[place]), place);
  brush.putImageData(area, 0, 0);
  return canvas;
}

// By class, red, green, blue and opacity as the legend has them.
function palette(numbers) {
  const brush = made("canvas", { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  return new Map(
    [...numbers].map((number) => {
      brush.fillStyle = colour(number);
      brush.fillRect(0, 0, 1, 1);
      return [number, brush.getImageData(0, 0, 1, 1).data];
    })
  );
}

// ---- vectors

function vector({ data }, _picture, _image, name) {
  const numbers = data[0].embedding;
  const beginning = numbers.slice(0, SHOWN_NUMBERS).map((each) => each.toPrecision(4));
  const all = made("textarea", { readOnly: true, rows: 4, value: JSON.stringify(numbers) });
  all.setAttribute("aria-label", `All numbers of ${name}`);
  const whole = made("details", {}, [made("summary", { text: "All numbers" }), all]);
  const parts = [heading(several(numbers.length, "number")), made("p", { text: `${beginning.join(", ")} …` }), whole];
  if (vectors.length) {
    const near = vectors.map((other) => scored(other.name, cosine(numbers, other.numbers)));
    const list = made("ol", { className: "scores" }, near);
    list.setAttribute("aria-label", "Cosine with pictures before");
    parts.push(made("p", { text: "Cosine with pictures before:" }), list);
  }
  vectors = [{ name, numbers }, ...vectors].slice(0, KEPT);
  return parts;
}

function cosine(one, other) {
  const dot = (left, right) => left.reduce((sum, each, place) => sum + each * right[place], 0);
  return dot(one, other) / Math.sqrt(dot(one, one) * dot(other, other));
}
