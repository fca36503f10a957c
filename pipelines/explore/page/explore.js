// The page of `mae-cli explore`: the list of pairs, the reports, and the keys.

import { ask, at, choices, latest, query, state, tell, words } from "./common.js";
import { startPainting } from "./occlude.js";
import { changed, offerMaps, show, takeMasks } from "./pair.js";

const search = latest(async (signal, keep = false) => {
  at("rising-choice").hidden = at("order").value === "table";
  const found = await ask("api/pairs", {
    text: at("text").value, order: at("order").value, rising: at("order").value === "table" ? 0 : at("rising").value, flag: at("flag").value,
    start: state.start, salient_ratio: at("salient_ratio").value,
  }, { signal });
  state.rows = found.rows;
  state.size = found.size;
  const end = found.start + found.rows.length;
  const all = found.found.toLocaleString("en");
  at("found").textContent = found.found ? `${(found.start + 1).toLocaleString("en")} to ${end.toLocaleString("en")} of ${all}` : "No pair has these words.";
  at("before").disabled = found.start === 0;
  at("after").disabled = end >= found.found;
  at("list").replaceChildren(...found.rows.map((pair) => {
    const button = document.createElement("button"), picture = new Image(48, 48), text = document.createElement("span");
    picture.loading = "lazy";
    picture.alt = "";
    picture.src = `picture/${state.about.images ? "image" : "map"}?${query({ row: pair.row, side: 96 })}`;
    text.textContent = pair.caption || pair.key;
    if (pair.score !== null) {
      const score = document.createElement("small");
      score.textContent = ` ${pair.score.toFixed(3)}`;
      text.append(score);
    }
    button.append(picture, text);
    button.dataset.row = pair.row;
    button.addEventListener("click", () => show(pair.row));
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
  mark();
  tell(null);
  if (!keep && found.rows.length) await show(found.rows[0].row);
});

function mark() {
  for (const button of at("list").querySelectorAll("button")) {
    button.setAttribute("aria-current", button.dataset.row === state.row);
  }
}

async function step(by) {
  const place = state.rows.findIndex((pair) => pair.row === state.row) + by;
  if (place >= 0 && place < state.rows.length) {
    await show(state.rows[place].row);
    at("list").children[place]?.scrollIntoView({ block: "nearest" });
  } else if (by > 0 && !at("after").disabled) turn(1);
  else if (by < 0 && !at("before").disabled) turn(-1);
}

function turn(by) {
  state.start = Math.max(0, state.start + by * state.size);
  search();
}

at("own").addEventListener("change", latest(async (signal) => {
  const [file] = at("own").files;
  if (!file) return;
  const found = await ask("api/bring", {}, { method: "POST", body: file, signal });
  await show(found.row);
  at("typed-caption").focus();
}));

// ---- reports

function offerReports() {
  const names = state.about.reports;
  at("tab-reports").hidden = !names.length;
  at("report-choice").replaceChildren(...names.map((name) => {
    const button = document.createElement("button");
    button.textContent = name;
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => toggleReport(button, name));
    return button;
  }));
}

function toggleReport(button, name) {
  const open = button.getAttribute("aria-pressed") === "true";
  button.setAttribute("aria-pressed", String(!open));
  const there = [...at("frames").children].find((frame) => frame.title === name);
  if (there) return there.remove();
  const frame = document.createElement("iframe");
  frame.title = name;
  frame.src = `report?${query({ name })}`;
  at("frames").append(frame);
}

// ---- the page

function turnTo(name) {
  state.view = name;
  for (const each of ["pair", "occlude", "reports"]) {
    at(`view-${each}`).hidden = each !== name;
    at(`tab-${each}`).setAttribute("aria-selected", String(each === name));
  }
  if (name === "occlude") startPainting();
  if (name === "reports" && !at("frames").children.length) at("report-choice").querySelector("button")?.click();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input[type=search], input[type=text]")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const keys = { j: () => step(1), k: () => step(-1), m: () => at("another").click(), o: () => turnTo("occlude"), p: () => turnTo("pair"), "/": () => at("text").focus() };
  const work = keys[event.key.toLowerCase()];
  if (!work) return;
  event.preventDefault();
  work();
});

at("search").addEventListener("submit", (event) => event.preventDefault());
let typing = 0;
at("text").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => { state.start = 0; search(); }, 200);
});
for (const id of ["order", "rising", "flag"]) at(id).addEventListener("change", () => { state.start = 0; search(); });
at("before").addEventListener("click", () => turn(-1));
at("after").addEventListener("click", () => turn(1));
at("strategy").addEventListener("input", () => { state.without = null; offerMaps(); });
for (const id of [...words, "map"]) at(id).addEventListener("input", changed);
at("model").addEventListener("input", () => { takeMasks(); changed(); });
at("another").addEventListener("click", () => { state.seed += 1; changed(); });
for (const name of ["pair", "occlude", "reports"]) at(`tab-${name}`).addEventListener("click", () => turnTo(name));

document.addEventListener("shown", mark);
document.addEventListener("ratio", () => { if (at("order").value === "mass") search(true); });

async function begin() {
  const about = (state.about = await ask("api/about"));
  at("what").textContent = `${about.places.join(", ")} · ${about.pairs.toLocaleString("en")} pairs`;
  choices(at("order"), Object.keys(about.orders), Object.values(about.orders));
  choices(at("flag"), ["", "none", "any", ...about.flags], ["all", "without a flag", "with any flag", ...about.flags.map((flag) => `only ${flag}`)]);
  at("flag-choice").hidden = !about.flags.length;
  choices(at("strategy"), about.strategies);
  at("strategy").value = "salient"; // that of no run
  choices(at("salient_of"), about.readings);
  choices(at("salient_pick"), about.picks);
  choices(at("model"), about.models.length ? about.models : [""], about.models.length ? about.models : ["16 px of 224"]);
  at("model").parentElement.hidden = about.models.length < 2;
  at("typed").hidden = about.clip === null || (!about.images && about.pairs > 0);
  at("own").parentElement.hidden = about.clip === null && !about.models.length;
  at("tab-occlude").hidden = !about.models.length;
  at("brush-value").textContent = at("brush").value;
  offerReports();
  const tells = about.models.find((model) => [...about.led, "gate"].includes(about.masks[model]?.strategy));
  if (tells) at("model").value = tells;
  takeMasks();
  const wanted = new URLSearchParams(location.search);
  for (const name of [...words, "text", "order", "rising", "flag"]) if (wanted.has(name)) at(name).value = wanted.get(name);
  changed();
  if (about.pairs) await search();
  if (wanted.has("row")) await show(wanted.get("row"));
  if (wanted.has("view")) turnTo(wanted.get("view"));
  else if (!about.pairs && about.reports.length) turnTo("reports");
}

begin().catch(tell);
