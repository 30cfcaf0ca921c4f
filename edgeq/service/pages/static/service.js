// Requests to the service that this page came from, with its token.

let token = ""; // in this page's memory alone

export class Refused extends Error {
  constructor(status, message, wait = 0) {
    super(message);
    this.status = status;
    this.wait = wait; // seconds, where it is worth trying again
  }
}

export const useToken = (given) => (token = given);
export const hasToken = () => token !== "";

export async function call(path, { body, signal } = {}) {
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

// The events of a streamed answer (server-sent events), each as the JSON that it holds; it must end with [DONE].
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  for (;;) {
    let value, done;
    try {
      ({ value, done } = await reader.read());
    } catch (error) {
      if (error.name === "AbortError") throw error;
      done = true;
    }
    if (done) throw new Refused(0, "The answer broke off: the connection has ended.");
    const whole = (left + value).split("\n\n");
    left = whole.pop();
    for (const event of whole) {
      const data = event.replace(/^data: ?/, "");
      if (data === "[DONE]") return;
      const told = JSON.parse(data);
      if (told.error) throw new Refused(0, told.error.message);
      yield told;
    }
  }
}

export const dataUri = (file) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Refused(0, "The picture cannot be read."));
    reader.readAsDataURL(file);
  });

export const imagePart = (url) => ({ type: "image_url", image_url: { url } });

export function inWords({ message, wait }) {
  const told = /[.!?]$/.test(message) ? message : `${message}.`;
  return wait ? `${told} Try again in ${wait} s.` : told;
}
