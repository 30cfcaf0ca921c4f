// The page of a service that searches. All text of others goes through textContent; the policy forbids any other way.

const OWN = new Set(["key", "caption", "width", "height", "bytes"]); // columns that are no filter
const AT_ONCE = 4; // pictures that are fetched at once
const TRIES = 5; // for a picture, where the service is busy
const LONGEST_VALUE = 60; // characters of a value that is offered as a filter
const MOST_COLUMNS = 8; // of a filter, as /v1/search takes them
const MOST_VALUES = 64;

const at = (id) => document.getElementById(id);
const made = (name, { text, ...set } = {}, children = []) => {
  const element = Object.assign(document.createElement(name), set);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
};

let token = ""; // in this page's memory alone
let picture = null; // the file to search by; null for the text
let filters = new Map(); // by column, the values of which an image must have one
let running = new AbortController(); // of the search under way, and of its pictures
let shown = []; // addresses of pictures, to be let go of

class Refused extends Error {
  constructor(status, message, wait) {
    super(message);
    this.status = status;
    this.wait = wait; // seconds, where it is worth trying again
  }
}

async function ask(path, { body, signal } = {}) {
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The service cannot be reached.");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => null);
  const wait = Number(answer.headers.get("Retry-After")) || 0;
  throw new Refused(answer.status, told?.error?.message ?? `The service answered ${answer.status}.`, wait);
}

function say(text, fault = false) {
  at("status").textContent = text;
  at("status").classList.toggle("fault", fault);
}

function complain(error) {
  if (error.name === "AbortError") return;
  if (error instanceof Refused && error.status === 401) {
    lock(token ? "That is not the token of this service." : "");
    return;
  }
  say(error.wait ? `${error.message}. Try again in ${error.wait} s.` : error.message, true);
}

// ---- the token

function lock(why) {
  token = "";
  clear();
  at("search").hidden = true;
  at("entrance").hidden = false;
  at("served").textContent = "";
  say(why, Boolean(why));
  at("token").focus();
  at("token").select();
}

async function enter() {
  try {
    const { data } = await (await ask("v1/models")).json();
    at("served").textContent = data[0].id;
    at("entrance").hidden = true;
    at("token").value = "";
    at("search").hidden = false;
    say("");
    at("text").focus();
  } catch (error) {
    complain(error);
  }
}

at("entrance").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = at("token").value.trim();
  if (!/^[!-~]+$/.test(given)) return lock("A token has no spaces, and ASCII characters alone.");
  token = given;
  enter();
});

// ---- the query

at("search").addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});

at("text").addEventListener("input", () => choose(null));
at("forget").addEventListener("click", () => {
  choose(null);
  at("file").focus();
});
at("file").addEventListener("change", () => {
  if (at("file").files.length) take(at("file").files);
});

for (const name of ["dragover", "dragleave", "drop"]) {
  addEventListener(name, (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault(); // else the browser would leave the page for the picture
    at("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && !at("search").hidden) take(event.dataTransfer.files);
  });
}
addEventListener("paste", (event) => {
  if (!at("search").hidden && event.clipboardData.files.length) take(event.clipboardData.files);
});

function take(files) {
  const file = [...files].find((each) => each.type.startsWith("image/"));
  if (!file) return say("That is no picture.", true);
  at("text").value = "";
  choose(file);
  search();
}

function choose(file) {
  if (picture) URL.revokeObjectURL(at("preview").src);
  picture = file;
  at("chosen").hidden = !file;
  if (file) {
    at("preview").src = URL.createObjectURL(file);
    at("preview").alt = `The picture to search by: ${file.name}`;
  } else {
    at("preview").removeAttribute("src");
    at("file").value = "";
  }
}

const encoded = (file) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Refused(0, "The picture cannot be read."));
    reader.readAsDataURL(file);
  });

async function search() {
  const text = at("text").value.trim();
  if (!picture && !text) return say("Write what you look for, or choose a picture.", true);
  if (!at("search").reportValidity()) return;
  clear();
  const { signal } = running;
  say("Searching …");
  try {
    const query = picture ? { type: "image_url", image_url: { url: await encoded(picture) } } : text;
    const body = { query, k: at("count").valueAsNumber };
    if (filters.size) body.filter = Object.fromEntries([...filters].map(([column, values]) => [column, [...values]]));
    const { results } = await (await ask("v1/search", { body, signal })).json();
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
      const blob = await (await ask(`v1/search/images/${row}`, { signal })).blob();
      signal.throwIfAborted();
      return blob;
    } catch (error) {
      if (!error.wait || left <= 1) throw error;
      await new Promise((resolve) => setTimeout(resolve, error.wait * 1000));
      signal.throwIfAborted();
    }
  }
}

enter();
