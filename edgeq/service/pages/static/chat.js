// A conversation about pictures, its answers as they are made.

import { at, inBytes, inSeconds, made, say, several } from "./elements.js";
import { locked } from "./entrance.js";
import { memory } from "./overview.js";
import * as pictures from "./pictures.js";
import { call, dataUri, events, imagePart, inWords } from "./service.js";

export const paths = ["/v1/chat/completions"];

const CUT = "Cut off here: the longest answer or the end of the context was reached.";
const STOPPED = "Stopped here.";
const NOT_KEPT = "What follows does not know of it.";

let model = "";
let said = []; // the messages of the conversation so far
let running = null; // AbortController of the answer under way
let shown = []; // addresses of pictures, to be let go of

export function open({ model: served, paths: described }) {
  model = served.id;
  const { example } = described[paths[0]].post.requestBody.content["application/json"];
  at("question").placeholder = example.messages[0].content.find((part) => part.type === "text").text;
  pictures.offer(at("chat"), {
    wanted: "About pictures: choose, drop or paste them",
    described: "A picture to ask about",
    at_most: served.max_images,
    changed: () => at("question").focus(),
  });
  at("chat").hidden = at("conversation").hidden = false;
  at("question").focus();
  return "Ask about images";
}

export function close() {
  forget();
  at("chat").hidden = at("conversation").hidden = true;
}

function forget() {
  running?.abort();
  said = [];
  shown.forEach((address) => URL.revokeObjectURL(address));
  shown = [];
  at("conversation").replaceChildren();
  at("anew").hidden = true;
  say("");
}

at("chat").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) ask();
});
at("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  at("chat").requestSubmit();
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !at("viewfinder").open) running?.abort();
});
at("stop").addEventListener("click", () => running?.abort());
at("anew").addEventListener("click", () => {
  forget();
  at("question").focus();
});

function busy(controller) {
  const focused = document.activeElement;
  running = controller;
  at("ask").hidden = Boolean(controller);
  at("stop").hidden = !controller;
  if (focused === at("ask")) at("stop").focus(); // what had the focus is gone
  if (focused === at("stop")) at("question").focus();
}

async function ask() {
  const text = at("question").value.trim();
  if (!text) return say("Write a question.", true);
  const files = pictures.chosen();
  const controller = new AbortController();
  busy(controller);
  say("");
  const entry = begun(text, files);
  at("question").value = "";
  pictures.clear();
  const message = { role: "user", content: text };
  const answer = { text: "", reason: "", usage: null };
  let fault = null;
  try {
    const images = (await Promise.all(files.map(dataUri))).map(imagePart);
    if (images.length) message.content = [...images, { type: "text", text }];
    await stream([...said, message], answer, entry, controller.signal);
  } catch (error) {
    fault = error;
  }
  if (running !== controller) return; // the conversation was given up meanwhile
  busy(null);
  entry.words.removeAttribute("aria-busy");
  if (!(await end(entry, message, answer, fault))) putBack(text, files);
}

async function stream(messages, answer, entry, signal) {
  const body = { model, messages, stream: true, stream_options: { include_usage: true } };
  if (at("longest").value) body.max_tokens = at("longest").valueAsNumber;
  if (at("temperature").value) body.temperature = at("temperature").valueAsNumber;
  for await (const { choices, usage } of events(await call("v1/chat/completions", { body, signal }))) {
    answer.text += choices[0]?.delta.content ?? "";
    answer.reason = choices[0]?.finish_reason ?? answer.reason;
    answer.usage = usage ?? answer.usage;
    if (entry.words.textContent !== answer.text) follow(() => (entry.words.textContent = answer.text));
  }
}

// Says how the answer ended; whether it is part of what follows, as an answer is that was made or stopped.
async function end(entry, message, answer, fault) {
  const stopped = fault?.name === "AbortError";
  const kept = Boolean(answer.text) && (stopped || !fault);
  if (fault && locked(fault)) return true; // all of it is gone
  if (stopped) entry.note(kept ? STOPPED : `${STOPPED} ${NOT_KEPT}`);
  else if (fault) entry.note(`${inWords(fault)} ${NOT_KEPT}`, true);
  else if (!answer.text) entry.note(`The model said nothing. ${NOT_KEPT}`);
  else if (answer.reason === "length") entry.note(CUT);
  if (kept) said.push(message, { role: "assistant", content: answer.text });
  if (answer.usage) entry.cost(await costs(answer.usage));
  return kept;
}

async function costs(usage) {
  const { image_tokens: ofImages, cached_tokens: known } = usage.prompt_tokens_details;
  const read = [several(usage.prompt_tokens, "token") + " read"];
  if (ofImages) read.push(`${ofImages.toLocaleString("en")} of images`);
  if (known) read.push(`${known.toLocaleString("en")} known already`);
  const facts = [read.join(", "), `${usage.completion_tokens.toLocaleString("en")} answered`];
  if (usage.completion_tokens) {
    const waited = usage.queue_time >= 0.001 ? `, ${inSeconds(usage.queue_time)} of it waiting` : "";
    facts.push(`first token after ${inSeconds(usage.queue_time + usage.prompt_time)}${waited}`);
  }
  if (usage.completion_tokens > 1 && usage.completion_time > 0) {
    facts.push(`${((usage.completion_tokens - 1) / usage.completion_time).toPrecision(3)} tokens/s`);
  }
  const resident = await memory();
  if (resident) facts.push(`the service has ${inBytes(resident)} of memory`);
  return facts.join(" · ");
}

function begun(text, files) {
  const images = files.map((file) => {
    const address = URL.createObjectURL(file);
    shown.push(address);
    return made("img", { src: address, alt: file.name });
  });
  const asked = made("div", { className: "said mine" }, [...images, made("p", { text })]);
  const words = made("p");
  words.setAttribute("aria-busy", "true"); // it is read out when it is whole
  const answered = made("div", { className: "said" }, [words]);
  follow(() => at("conversation").append(asked, answered));
  at("anew").hidden = false;
  return {
    words,
    note: (told, wrong = false) =>
      follow(() => answered.append(made("p", { className: wrong ? "note fault" : "note", text: told }))),
    cost: (told) => follow(() => answered.append(made("p", { className: "facts", text: told }))),
  };
}

// Changes the conversation, and keeps its end in sight where it was.
function follow(change) {
  const form = at("chat");
  const before = form.getBoundingClientRect().bottom <= innerHeight + 8;
  change();
  if (before) form.scrollIntoView({ block: "nearest" });
}

function putBack(text, files) {
  if (at("question").value || pictures.chosen().length) return;
  at("question").value = text;
  pictures.put(files);
}
