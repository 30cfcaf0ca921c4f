// The page of a service: it asks what is served, and offers what that does.

import * as chat from "./chat.js";
import * as compare from "./compare.js";
import { at, say } from "./elements.js";
import { openPage } from "./entrance.js";
import * as look from "./look.js";
import * as overview from "./overview.js";
import * as pictures from "./pictures.js";
import * as search from "./search.js";
import { call, Refused } from "./service.js";

const PARTS = [chat, search, compare, look]; // the first that the service can do is offered

let shown = null;

async function fill() {
  const [models, description] = await Promise.all(
    ["v1/models", "openapi.json"].map(async (path) => (await call(path)).json())
  );
  const served = { model: models.data[0], paths: description.paths };
  shown = PARTS.find((part) => part.paths.some((path) => path in served.paths));
  if (!shown) throw new Refused(0, "This page knows nothing of what the service does; see its API.");
  at("served").textContent = served.model.id;
  document.title = at("title").textContent = shown.open(served);
  say("");
  overview.start();
}

function unfill() {
  overview.stop();
  pictures.close();
  shown?.close();
  shown = null;
}

openPage(fill, unfill);
