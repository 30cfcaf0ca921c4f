// A search in a catalog: by words or a picture, narrowed by what the results show.

import { at, made, say } from "./elements.js";
import { complain } from "./entrance.js";
import * as pictures from "./pictures.js";
import { call, dataUri, imagePart } from "./service.js";

export const paths = ["/v1/search"];

const OWN = new Set(["key", "caption", "width", "height", "bytes"]); // columns that are no filter
const AT_ONCE = 4; // pictures that are fetched at once
const TRIES = 5; // for a picture, where the service is busy
const LONGEST_VALUE = 60; // characters of a value that is offered as a filter
const MOST_COLUMNS = 8; // of a filter, as /v1/search takes them
const MOST_VALUES = 64;

let filters = new Map(); // by column, the values of which an image must have one
let running = new AbortController(); // of the search under way, and of its pictures
let shown = []; // addresses of pictures, to be let go of

export function open() {
  pictures.offer(at("search"), {
    wanted: "Or images like this one: choose, drop or paste it",
    described: "The picture to search by",
    changed: () => {
      at("text").value = "";
      if (pictures.chosen().length) search();
    },
  });
  at("results").setAttribute("aria-label", "Images found, the best first");
  at("search").hidden = at("results").hidden = false;
  at("text").focus();
  return "Search images";
}

export function close() {
  clear();
  at("search").hidden = at("results").hidden = true;
}

at("search").addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
at("text").addEventListener("input", pictures.clear);

async function search() {
  const text = at("text").value.trim();
  const [picture] = pictures.chosen();
  if (!picture && !text) return say("Write what you look for, or choose a picture.", true);
  if (!at("search").reportValidity()) return;
  clear();
  const { signal } = running;
  say("Searching …");
  try {
    const query = picture ? imagePart(await dataUri(picture)) : text;
    const body = { query, k: at("count").valueAsNumber };
    if (filters.size) body.filter = Object.fromEntries([...filters].map(([column, values]) => [column, [...values]]));
    const { results } = await (await call("v1/search", { body, signal })).json();
    signal.throwIfAborted();
    show(results, signal);
  } catch (error) {
    complain(error);
  }
}

// ---- filters: a value that a result shows, clicked

function offer(column, value, name) {
  const button = made("button", { type: "button", text: `${column}: ${value}` });
  button.setAttribute("aria-label", `${name} ${column}: ${value}`);
  return button;
}

function narrow(column, value) {
  const values = filters.get(column) ?? new Set();
  if ((!filters.has(column) && filters.size >= MOST_COLUMNS) || values.size >= MOST_VALUES) {
    return say(`At most ${MOST_COLUMNS} columns and ${MOST_VALUES} values of each.`, true);
  }
  filters.set(column, values.add(value));
  refilter();
}

function widen(column, value) {
  filters.get(column).delete(value);
  if (!filters.get(column).size) filters.delete(column);
  refilter();
}

function refilter() {
  const chips = [...filters].flatMap(([column, values]) =>
    [...values].map((value) => {
      const button = offer(column, value, "No longer only");
      button.append(" ×");
      button.addEventListener("click", () => widen(column, value));
      return made("li", {}, [button]);
    })
  );
  at("filters").replaceChildren(...chips);
  at("filters").hidden = !chips.length;
  at("text").focus(); // what was clicked is gone
  search();
}

const canFilter = ([column, value]) =>
  !OWN.has(column) &&
  (typeof value === "string" ? value.length <= LONGEST_VALUE : Number.isSafeInteger(value) || value % 1 !== 0) &&
  value !== null;

// ---- what was found

function clear() {
  running.abort();
  running = new AbortController();
  shown.forEach((address) => URL.revokeObjectURL(address));
  shown = [];
  at("results").replaceChildren();
}

function show(results, signal) {
  const places = results.map((result) => {
    const place = made("div", { className: "picture" });
    at("results").append(card(result, place));
    return { result, place };
  });
  const count = results.length;
  say(count ? `${count} ${count === 1 ? "image" : "images, the best first"}.` : "No image suits the filter.");
  const next = places.values();
  for (let each = 0; each < AT_ONCE; each += 1) load(next, signal);
}

function card({ score, row, columns }, place) {
  const facts = made("p", { className: "facts" }, [
    made("span", { className: "score", text: score.toFixed(3), title: "Cosine with the query" }),
    made("span", { className: "key", text: columns.key ?? `row ${row}` }),
  ]);
  const told = made("div", { className: "told" }, [facts]);
  if (columns.caption) told.append(made("p", { className: "caption", text: columns.caption }));
  const offered = Object.entries(columns).filter(canFilter).map(([column, value]) => {
    const button = offer(column, value, "Only");
    button.addEventListener("click", () => narrow(column, value));
    return made("li", {}, [button]);
  });
  if (offered.length) told.append(made("ul", { className: "columns" }, offered));
  return made("li", { className: "found" }, [place, told]);
}

async function load(next, signal) {
  for (const { result, place } of next) { // the four loops share one iterator
    const { row, columns } = result;
    try {
      const address = URL.createObjectURL(await thumbnail(row, signal));
      shown.push(address);
      place.append(made("img", { src: address, alt: columns.caption || `Image ${columns.key ?? row}` }));
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.status === 401) return complain(error);
      place.append(made("span", { className: "none", text: error.status === 404 ? "The image is not here." : error.message }));
    }
  }
}

async function thumbnail(row, signal) {
  for (let left = TRIES; ; left -= 1) {
    try {
      const blob = await (await call(`v1/search/images/${row}`, { signal })).blob();
      signal.throwIfAborted();
      return blob;
    } catch (error) {
      if (!error.wait || left <= 1) throw error;
      await new Promise((resolve) => setTimeout(resolve, error.wait * 1000));
      signal.throwIfAborted();
    }
  }
}
