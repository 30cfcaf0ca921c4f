// The API as the service describes it itself, in /openapi.json: OpenAPI 3.1 of the models that it reads and writes.

import { at, made, say } from "./elements.js";
import { openPage } from "./entrance.js";
import { call } from "./service.js";

const REFERENCE = "#/components/schemas/";

async function fill() {
  const description = await (await call("openapi.json")).json();
  at("served").textContent = `${description.info.title} ${description.info.version}`;
  const operations = Object.entries(description.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method: method.toUpperCase(), operation }))
  );
  const schemas = Object.entries(description.components.schemas);
  at("described").replaceChildren(
    made("ul", { className: "contents" }, operations.map(link)),
    ...operations.map(section),
    made("h2", { text: "Forms" }),
    ...schemas.map(([name, schema]) => form(name, schema))
  );
  at("described").hidden = false;
  say("");
}

function unfill() {
  at("described").replaceChildren();
  at("described").hidden = true;
}

const idOf = ({ method, path }) => `${method} ${path}`.replace(/\W+/g, "-");

const link = (each) =>
  made("li", {}, [made("a", { href: `#${idOf(each)}`, text: `${each.method} ${each.path}` }), ` ${each.operation.summary}`]);

function section(each) {
  const { method, path, operation } = each;
  const parts = [made("h2", { id: idOf(each), text: `${method} ${path}` }), made("p", { text: operation.summary })];
  for (const { name, schema } of operation.parameters ?? []) parts.push(made("p", {}, [code(name), ` in the path: ${words(schema)}`]));
  const body = operation.requestBody?.content["application/json"];
  if (body) parts.push(made("p", {}, ["Takes ", ...kind(body.schema), "."]));
  parts.push(code(command(each, body?.example), "pre"), made("h3", { text: "Answers" }));
  const answers = Object.entries(operation.responses).map(([status, answer]) => [
    made("dt", { text: status }),
    made("dd", {}, [answer.description, ...Object.entries(answer.content ?? {}).flatMap(media)]),
  ]);
  return made("section", {}, [...parts, made("dl", { className: "answers" }, answers.flat())]);
}

const media = ([type, { schema, "x-each-event": event }]) => {
  if (event) return [made("br"), `${type}, each event `, ...kind(event)];
  return schema.$ref ? [made("br"), `${type}: `, ...kind(schema)] : [made("br"), type];
};

function command({ path, method, operation }, example) {
  const filled = (operation.parameters ?? []).reduce((so, { name, example: one }) => so.replace(`{${name}}`, one), path);
  const lines = [`curl ${new URL(filled.slice(1), document.baseURI).href}`];
  if (operation.security) lines.push("-H 'Authorization: Bearer TOKEN'");
  if (method !== "GET") lines.push("-H 'Content-Type: application/json'");
  if (example) lines.push(`-d '${JSON.stringify(example).replaceAll("'", "'\\''")}'`);
  return lines.join(" \\\n  ");
}

const code = (text, name = "code") => made(name, name === "pre" ? { tabIndex: 0 } : {}, name === "pre" ? [made("code", { text })] : [text]);

// ---- forms

function form(name, schema) {
  const { said, of } = docstring(schema.description ?? "");
  const required = new Set(schema.required ?? []);
  const rows = Object.entries(schema.properties ?? {}).map(([field, its]) =>
    made("tr", {}, [
      made("th", { scope: "row" }, [code(field)]),
      made("td", {}, [...kind(its), required.has(field) ? ", required" : usual(its)]),
      made("td", { text: its.description ?? of.get(field) ?? "" }),
    ])
  );
  const parts = [made("h3", { id: `form-${name}`, text: name }), made("p", { text: said || words(schema) })];
  if (rows.length) {
    const head = ["Field", "Type", "What"].map((text) => made("th", { scope: "col", text }));
    const table = made("table", {}, [made("thead", {}, [made("tr", {}, head)]), made("tbody", {}, rows)]);
    parts.push(made("div", { className: "table", tabIndex: 0, role: "region", ariaLabel: `Fields of ${name}` }, [table]));
  }
  return made("section", {}, parts);
}

const usual = (schema) => (schema.default === undefined || schema.default === null ? "" : `, usually ${JSON.stringify(schema.default)}`);

// A docstring's text, and what it says of each attribute.
function docstring(text) {
  const [said, attributes = ""] = text.split(/\n+Attributes:\n/);
  const of = new Map();
  for (const entry of attributes.split(/\n(?= {4}\w)/)) {
    const [, names, told] = /^\s*([\w, \n]+?): ([^]*)$/.exec(entry) ?? [];
    for (const name of names?.split(/,\s*/) ?? []) of.set(name, told.replace(/\s+/g, " ").trim());
  }
  return { said: said.replace(/\s+/g, " "), of };
}

// A type in words, with links to the forms that it names.
function kind(schema) {
  if (schema.$ref) {
    const name = schema.$ref.slice(REFERENCE.length);
    return [made("a", { href: `#form-${name}`, text: name })];
  }
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return choices.filter(({ type }) => type !== "null").flatMap((each, place) => [...(place ? [" or "] : []), ...kind(each)]);
  if (schema.type === "array" && schema.items) return ["list of ", ...kind(schema.items)];
  return [words(schema)];
}

function words({ type, enum: values, const: only, minimum, maximum, format }) {
  if (only !== undefined) return JSON.stringify(only);
  if (values) return values.map((value) => JSON.stringify(value)).join(" or ");
  const parts = [format ?? type ?? "anything"];
  if (minimum !== undefined) parts.push(`from ${minimum}`);
  if (maximum !== undefined) parts.push(`to ${maximum}`);
  return parts.join(" ");
}

openPage(fill, unfill);
