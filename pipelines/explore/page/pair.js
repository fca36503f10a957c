// One pair: its pictures, its mask, and the map of a caption that is typed.

import { ask, at, choices, latest, query, state, tell, words } from "./common.js";

export const show = latest(async (signal, row) => {
  const pair = await ask("api/pair", { row }, { signal });
  state.row = row;
  state.maps = pair.maps;
  state.typed = "";
  state.mask = pair.mask;
  at("caption").textContent = pair.caption || pair.key;
  at("key").textContent = pair.caption ? pair.key : "";
  at("facts").replaceChildren(...Object.entries(pair.facts).flatMap(([name, value]) => {
    const term = document.createElement("dt"), said = document.createElement("dd");
    term.textContent = name;
    said.textContent = value;
    return [term, said];
  }));
  at("typed-facts").textContent = "";
  at("typed-caption").value = pair.maps.length ? "" : pair.caption;
  offerMaps();
  tell(null);
  buildTiles();
  document.dispatchEvent(new Event("shown"));
});

const known = () => [...state.maps, ...(state.typed ? [state.about.typed] : [])];
const byGate = () => at("strategy").value === "gate";
const ownScores = () => Object.keys(state.about.gates).find((map) => state.about.gates[map] === at("model").value);

// The controls as the chosen model's run had them, where it is of a run.
export function takeMasks() {
  state.own = state.about.masks[at("model").value] ?? {};
  for (const name of words) if (name in state.own) at(name).value = state.own[name];
  state.without = null;
  if (state.row !== null) offerMaps(byGate() ? ownScores() : null);
}

// The maps that masks can follow: a gate's masks its own scores, all others any.
export function offerMaps(wanted = null) {
  const { gates, led } = state.about, scores = known().filter((map) => map in gates), without = { led: !known().length, gate: !scores.length };
  for (const option of at("strategy").options) option.disabled = option.value === "gate" ? without.gate : without.led && led.includes(option.value);
  const chosen = at("strategy").selectedOptions[0];
  if (chosen?.disabled) {
    state.without = chosen.value; // until there is a map
    at("strategy").value = "random";
  } else if (state.without && ![...at("strategy").options].find((option) => option.value === state.without).disabled) {
    at("strategy").value = state.without;
    state.without = null;
  }
  const maps = byGate() ? scores : known(), before = at("map").value;
  choices(at("map"), maps);
  at("map").value = [wanted, before, byGate() ? ownScores() : null].find((map) => maps.includes(map)) ?? maps[0] ?? "";
  at("map").parentElement.hidden = maps.length < 2;
  showControls();
}

const subject = (map = at("map").value) => ({ row: state.row, map, ...(map === state.about.typed ? { caption: state.typed } : {}) });
const asked = () => ({ ...state.own, ...Object.fromEntries(words.map((name) => [name, at(name).value])), seed: state.seed });

function tile(id, title, under = "") {
  const figure = document.createElement("figure"), said = document.createElement("figcaption");
  figure.id = id;
  said.textContent = title;
  if (under) {
    const small = document.createElement("small");
    small.textContent = under;
    said.append(small);
  }
  figure.append(said);
  at("tiles").append(figure);
  return figure;
}

function pictureTile(id, title, place, under) {
  const figure = tile(id, title, under), picture = new Image();
  picture.alt = `${title}: ${at("caption").textContent}`;
  picture.addEventListener("load", () => figure.classList.remove("waiting", "missing"));
  picture.addEventListener("error", async () => {
    figure.classList.remove("waiting");
    figure.classList.add("missing");
    const answer = await fetch(picture.src).then((found) => found.json()).catch(() => ({}));
    figure.dataset.why = answer.error ?? "This picture can't be shown.";
  });
  figure.prepend(picture);
  fill(figure, place);
}

function fill(figure, place) {
  figure.classList.add("waiting");
  figure.querySelector("img").src = place;
}

function buildTiles() {
  at("tiles").replaceChildren();
  pictureTile("tile-image", "image", `picture/image?${query({ row: state.row })}`);
  const title = (map) => (map === state.about.typed ? `map of “${state.typed}”` : map in state.about.gates ? `scores of the ${map}` : `map · ${map}`);
  known().forEach((map, place) => pictureTile(`tile-map-${place}`, title(map), `picture/map?${query(subject(map))}`, map in state.about.gates ? "brighter: more important" : ""));
  if (state.mask) pictureTile("tile-true", "true mask", `picture/true-mask?${query({ row: state.row })}`);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 448;
  canvas.setAttribute("role", "img");
  tile("tile-mask", "mask", " ").prepend(canvas);
  at("mask-facts").textContent = "Drawing the mask …"; // the first one waits until the models are loaded
  state.about.models.forEach((model, place) => pictureTile(`tile-model-${place}`, `filled in by ${model}`, `picture/filled?${query({ ...subject(), ...asked(), model })}`));
  drawMask();
}

// The view under the mask, once for each pair and model.
let view = { place: "", picture: null };

export function viewed(place) {
  if (view.place === place) return view.picture;
  const picture = new Image();
  const loaded = new Promise((done) => {
    picture.onload = () => done(picture);
    picture.onerror = () => done(null);
  });
  picture.src = place;
  view = { place, picture: loaded };
  return loaded;
}

const drawMask = latest(async (signal) => {
  const model = at("model").value;
  const mask = await ask("api/mask", { ...subject(), ...asked(), model }, { signal }).catch((error) => {
    if (!signal.aborted) at("mask-facts").textContent = "";
    throw error;
  });
  const picture = await viewed(`picture/view?${query({ row: state.row, model })}`);
  signal.throwIfAborted();
  const canvas = at("tile-mask").querySelector("canvas"), pen = canvas.getContext("2d");
  pen.fillStyle = "#888";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  if (picture) pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const width = canvas.width / mask.columns, height = canvas.height / mask.rows;
  [...mask.cells].forEach((kind, place) => {
    if (kind === "0") return;
    const x = (place % mask.columns) * width, y = Math.floor(place / mask.columns) * height;
    if (kind === "3") {
      for (const [colour, edge] of [["#fff", 3], ["#dc0096", 6]]) {
        pen.strokeStyle = colour;
        pen.lineWidth = 4;
        pen.strokeRect(x + edge, y + edge, width - 2 * edge, height - 2 * edge);
      }
      return;
    }
    pen.fillStyle = kind === "2" ? "#dc0096" : "#808080";
    pen.fillRect(x, y, width, height);
    pen.strokeStyle = kind === "2" ? "#fff" : "#5a5a5a";
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(x, y + height);
    pen.lineTo(x + width, y);
    if (kind === "2") {
      pen.moveTo(x, y);
      pen.lineTo(x + width, y + height);
    }
    pen.stroke();
  });
  const all = mask.rows * mask.columns;
  const mass = mask.mass === null || byGate() ? "" : ` They hold ${Math.round(100 * mask.mass)} % of the map.`;
  const ranked = state.about.ranked.includes(at("strategy").value);
  const forced = ranked ? `, ${mask.forced} of them because they are salient` : "";
  const important = !byGate() ? "" : mask.chosen ? ` Of the patches that the gate finds important, ${mask.forced} of ${mask.chosen} are hidden.` : " The gate finds no patch important.";
  const undrawn = state.about.undrawn[model] ? ` The run's own masks (${state.about.undrawn[model]}) can't be drawn here.` : "";
  at("mask-facts").textContent = `${mask.hidden} of ${all} patches are hidden${forced}.${important}${mass}${undrawn}`;
  const signs = ["striped: hidden", "crossed: hidden because it is salient; striped: hidden by chance", "crossed: hidden and important; striped: hidden; framed: important and visible"];
  at("tile-mask").querySelector("small").textContent = signs[byGate() ? 2 : Number(ranked)];
  canvas.setAttribute("aria-label", at("mask-facts").textContent);
  tell(null);
});

function showControls() {
  for (const name of ["salient_ratio", "gate_ratio", "mask_ratio"]) at(`${name}-value`).textContent = `${Math.round(100 * at(name).value)} %`;
  const ranked = state.about.ranked.includes(at("strategy").value);
  for (const part of document.querySelectorAll(".of-ranked")) part.hidden = !ranked;
  for (const part of document.querySelectorAll(".of-gate")) part.hidden = !byGate();
}

let pause = 0;
export function changed() {
  showControls();
  if (state.row === null || !at("tile-mask")) return;
  drawMask();
  clearTimeout(pause);
  pause = setTimeout(() => {
    state.about.models.forEach((model, place) => fill(at(`tile-model-${place}`), `picture/filled?${query({ ...subject(), ...asked(), model })}`));
    document.dispatchEvent(new Event("ratio"));
  }, 120);
}

at("typed").addEventListener("submit", latest(async (signal, event) => {
  event.preventDefault();
  const caption = at("typed-caption").value;
  at("typed-facts").textContent = "Looking …";
  try {
    const found = await ask("api/caption", { row: state.row, caption }, { signal });
    state.typed = caption;
    at("typed-facts").textContent = `“${found.caption}” has the CLIP score ${found.score.toFixed(3)}. The mask follows its map now.`;
  } catch (error) {
    at("typed-facts").textContent = "";
    throw error;
  }
  offerMaps(state.about.typed);
  tell(null);
  buildTiles();
}));
