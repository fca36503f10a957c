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

function offerMaps() {
  const maps = [...state.maps, ...(state.typed ? [state.about.typed] : [])], before = at("map").value;
  choices(at("map"), maps);
  if (maps.includes(before)) at("map").value = before;
  if (state.typed) at("map").value = state.about.typed;
  at("map").parentElement.hidden = maps.length < 2;
  const led = state.about.led, without = !maps.length;
  for (const option of at("strategy").options) option.disabled = without && led.includes(option.value);
  if (without && led.includes(at("strategy").value)) {
    at("strategy").value = "random";
    state.without = true; // until there is a map
  } else if (!without && state.without) {
    at("strategy").value = "salient";
    state.without = false;
  }
  showControls();
}

const subject = (map = at("map").value) => ({ row: state.row, map, ...(map === state.about.typed ? { caption: state.typed } : {}) });
const asked = () => ({ ...Object.fromEntries(words.map((name) => [name, at(name).value])), seed: state.seed });

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
  const maps = [...state.maps, ...(state.typed ? [state.about.typed] : [])];
  maps.forEach((map, place) => pictureTile(`tile-map-${place}`, map === state.about.typed ? `map of “${state.typed}”` : `map · ${map}`, `picture/map?${query(subject(map))}`));
  if (state.mask) pictureTile("tile-true", "true mask", `picture/true-mask?${query({ row: state.row })}`);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 448;
  canvas.setAttribute("role", "img");
  tile("tile-mask", "mask", "crossed: hidden because it is salient; striped: hidden by chance").prepend(canvas);
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
  const mask = await ask("api/mask", { ...subject(), ...asked(), model }, { signal });
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
  const mass = mask.mass === null ? "" : ` They hold ${Math.round(100 * mask.mass)} % of the map.`;
  const forced = state.about.ranked.includes(at("strategy").value) ? `, ${mask.forced} of them because they are salient` : "";
  at("mask-facts").textContent = `${mask.hidden} of ${all} patches are hidden${forced}.${mass}`;
  canvas.setAttribute("aria-label", at("mask-facts").textContent);
  tell(null);
});

function showControls() {
  for (const name of ["salient_ratio", "mask_ratio"]) at(`${name}-value`).textContent = `${Math.round(100 * at(name).value)} %`;
  const ranked = state.about.ranked.includes(at("strategy").value);
  for (const part of document.querySelectorAll(".of-ranked")) part.hidden = !ranked;
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
  offerMaps();
  tell(null);
  buildTiles();
}));
