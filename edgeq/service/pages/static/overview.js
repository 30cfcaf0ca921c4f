// What the service tells of itself now, from its /metrics. What it does not tell is not shown.

import { at, inBytes, made, several } from "./elements.js";
import { locked } from "./entrance.js";
import { call } from "./service.js";

const EVERY_MS = 2000;
const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

let timer = 0;
let on = false;

export function start() {
  stop();
  on = true;
  look();
}

export function stop() {
  on = false;
  clearTimeout(timer);
  at("overview").hidden = true;
}

addEventListener("visibilitychange", () => {
  if (on && !document.hidden) look();
});

// Memory of the service's process in bytes; undefined where it does not tell it.
export async function memory() {
  return read().then((found) => found.one("process_resident_memory_bytes"), () => undefined);
}

async function look() {
  clearTimeout(timer);
  try {
    const rows = told(await read());
    if (!on) return;
    at("figures").replaceChildren(
      ...rows.map(([name, lines]) => made("div", {}, [made("dt", { text: name }), ...lines.map((text) => made("dd", { text }))]))
    );
    at("unseen").textContent = "";
  } catch (error) {
    if (!on || locked(error)) return;
    at("figures").replaceChildren(); // what was true before need not be true now
    at("unseen").textContent = error.message;
  }
  at("overview").hidden = false;
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(look, EVERY_MS);
}

// Prometheus' text form: by name, values with their labels.
async function read() {
  const samples = new Map();
  for (const line of (await (await call("metrics")).text()).split("\n")) {
    const found = LINE.exec(line);
    if (!found) continue;
    const [, name, labels = "", value] = found;
    const named = [...labels.matchAll(LABEL)].map(([, key, text]) => [key, text.replace(/\\(.)/g, (_, one) => (one === "n" ? "\n" : one))]);
    samples.set(name, [...(samples.get(name) ?? []), { ...Object.fromEntries(named), value: Number(value) }]);
  }
  const all = (name) => samples.get(name) ?? [];
  return {
    all,
    one: (name, labels = {}) =>
      all(name).find((sample) => Object.entries(labels).every(([key, text]) => sample[key] === text))?.value,
    sum: (name) => (samples.has(name) ? all(name).reduce((sum, { value }) => sum + value, 0) : undefined),
  };
}

const told = (found) =>
  [
    ["Model", model(found)],
    ["Queue", queue(found)],
    ["Memory", memories(found)],
    ["Canaries", canaries(found)],
    ["Temperature", temperatures(found)],
    ["Power", power(found)],
  ].filter(([, lines]) => lines.length);

function model(found) {
  const [info] = found.all("edgeq_bundle_info");
  return info ? [info.model, `bundle ${info.digest.slice(0, 12)}`, `${info.backend}, edgeq ${info.edgeq}`] : [];
}

function queue(found) {
  const [running, waiting] = [found.sum("edgeq_requests_running"), found.sum("edgeq_requests_queued")];
  const slots = found.one("edgeq_slots");
  const lines = [];
  if (running !== undefined) lines.push(slots === undefined ? `${running} running` : `${running} of ${slots} places taken`);
  if (waiting !== undefined) lines.push(`${waiting} waiting`);
  if (found.one("edgeq_held")) lines.push("nothing starts: too little memory is free");
  if (found.one("edgeq_draining")) lines.push("the service is stopping");
  return lines;
}

function memories(found) {
  const lines = [];
  const [own, free, total] = ["process_resident_memory_bytes", "edgeq_memory_available_bytes", "edgeq_memory_total_bytes"].map(
    (name) => found.one(name)
  );
  if (own !== undefined) lines.push(`${inBytes(own)} of the service`);
  if (free !== undefined && total !== undefined) lines.push(`${inBytes(free)} of ${inBytes(total)} free`);
  const [used, allocated] = ["used", "allocated"].map((state) => found.one("edgeq_kv_bytes", { state }));
  if (allocated) lines.push(`${inBytes(used)} of ${inBytes(allocated)} of keys and values in use`);
  return lines;
}

function canaries(found) {
  const passed = found.one("edgeq_canaries_passed");
  if (passed === undefined) return ["not compared"];
  const [well, badly] = ["passed", "failed"].map((result) => found.one("edgeq_canaries", { result }));
  const lines = [passed ? "as in the workshop" : "not as in the workshop"];
  if (well !== undefined) lines[0] = `${well} of ${several(well + badly, "canary", "canaries")} ${lines[0]}`;
  const cosine = found.one("edgeq_canary_worst_cosine");
  if (cosine !== undefined) lines.push(`lowest cosine ${cosine.toFixed(5)}`);
  return lines;
}

const temperatures = (found) =>
  found
    .all("edgeq_temperature_celsius")
    .sort((one, other) => other.value - one.value)
    .map(({ zone, value }) => `${zone} ${value.toFixed(1)} °C`);

function power(found) {
  const lines = found.all("edgeq_power_watts").map(({ rail, value }) => `${rail} ${value.toFixed(1)} W`);
  const [mode] = found.all("edgeq_power_mode_info");
  if (mode?.name || mode?.mode) lines.push(`mode ${[mode.name, mode.mode && `(${mode.mode})`].filter(Boolean).join(" ")}`);
  return lines;
}
