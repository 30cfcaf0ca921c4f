// Texts and a picture in the space of a text and image encoder: how near they lie.

import { at, made, say, several } from "./elements.js";
import { complain } from "./entrance.js";
import * as pictures from "./pictures.js";
import { call, dataUri, imagePart } from "./service.js";

export const paths = ["/v1/embeddings"];

let model = "";
let running = new AbortController();

export function open({ model: served }) {
  model = served.id;
  pictures.offer(at("compare"), {
    wanted: "A picture to compare them with: choose, drop or paste it",
    described: "The picture to compare with",
    changed: () => at("texts").value.trim() && compare(),
  });
  at("results").setAttribute("aria-label", "Texts, the nearest first");
  at("compare").hidden = at("results").hidden = false;
  at("texts").focus();
  return "Compare texts and images";
}

export function close() {
  running.abort();
  at("results").replaceChildren();
  at("compare").hidden = at("results").hidden = true;
}

at("compare").addEventListener("submit", (event) => {
  event.preventDefault();
  compare();
});

async function compare() {
  const texts = at("texts").value.split("\n").map((text) => text.trim()).filter(Boolean);
  const [picture] = pictures.chosen();
  if (texts.length + (picture ? 1 : 0) < 2) return say("Write two texts, or one and choose a picture.", true);
  running.abort();
  running = new AbortController();
  const { signal } = running;
  at("results").replaceChildren();
  say("Comparing …");
  try {
    const input = picture ? [imagePart(await dataUri(picture)), ...texts] : texts;
    const { data } = await (await call("v1/embeddings", { body: { model, input }, signal })).json();
    const [first, ...others] = data.map(({ embedding }) => embedding);
    const compared = picture ? texts : texts.slice(1);
    show(others.map((each, place) => [compared[place], dot(first, each)]), picture ? picture.name : `“${texts[0]}”`);
  } catch (error) {
    complain(error);
  }
}

const dot = (one, other) => one.reduce((sum, each, place) => sum + each * other[place], 0); // both have length one

function show(pairs, first) {
  const sorted = pairs.sort(([, one], [, other]) => other - one);
  const rows = sorted.map(([text, cosine]) =>
    made("li", {}, [made("span", { text }), made("span", { className: "score", text: cosine.toFixed(3), title: "Cosine" })])
  );
  const list = made("ol", { className: "scores" }, rows);
  list.setAttribute("aria-label", `Cosine with ${first}`);
  at("results").append(made("li", { className: "found" }, [made("div", { className: "told" }, [list])]));
  say(`${several(pairs.length, "text")} compared with ${first}, the nearest first.`);
}
