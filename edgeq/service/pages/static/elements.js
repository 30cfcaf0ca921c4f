// What a page is made of. All text of others goes through textContent; the policy forbids any other way.

const SVG = "http://www.w3.org/2000/svg";

export const at = (id) => document.getElementById(id);

export const made = (name, { text, ...set } = {}, children = []) => {
  const element = Object.assign(document.createElement(name), set);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
};

export const drawn = (name, attributes = {}, children = []) => {
  const element = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
  element.append(...children);
  return element;
};

export function say(text, fault = false) {
  at("status").textContent = text;
  at("status").classList.toggle("fault", fault);
}

// ---- figures, for people

export const inBytes = (count) => {
  if (count < 1e3) return several(count, "byte");
  const [unit, size] = count >= 1e9 ? ["GB", 1e9] : count >= 1e6 ? ["MB", 1e6] : ["kB", 1e3];
  return `${(count / size).toPrecision(3)} ${unit}`;
};
export const inSeconds = (seconds) => (seconds < 1 ? `${(seconds * 1000).toFixed(0)} ms` : `${seconds.toFixed(2)} s`);
export const several = (count, one, more = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : more}`;
