// The token: asked for where the service wants one, and again where it is no longer the one.

import { at, say } from "./elements.js";
import { hasToken, inWords, Refused, useToken } from "./service.js";

let enter = async () => {};
let leave = () => {};

function lock(why) {
  useToken("");
  leave();
  at("entrance").hidden = false;
  at("served").textContent = "";
  say(why, Boolean(why));
  at("token").focus();
  at("token").select();
}

// Whether the error was of the token, and the page is closed now.
export function locked(error) {
  if (!(error instanceof Refused) || error.status !== 401) return false;
  lock(hasToken() ? "That is not the token of this service." : "");
  return true;
}

export function complain(error) {
  if (error.name !== "AbortError" && !locked(error)) say(inWords(error), true);
}

async function tryToEnter() {
  try {
    await enter();
  } catch (error) {
    complain(error);
  }
}

// Opens the page: `enter` fills it with what the service tells, `unfill` takes away all of it.
export function openPage(fill, unfill) {
  enter = async () => {
    await fill();
    at("entrance").hidden = true;
    at("token").value = "";
  };
  leave = unfill;
  tryToEnter();
}

at("entrance").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = at("token").value.trim();
  if (!/^[!-~]+$/.test(given)) return lock("A token has no spaces, and ASCII characters alone.");
  useToken(given);
  tryToEnter();
});
