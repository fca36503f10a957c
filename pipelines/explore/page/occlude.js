// Occlusion: what is painted over is filled in by the models.

import { at, latest, query, state, tell } from "./common.js";
import { viewed } from "./pair.js";

const hole = document.createElement("canvas");
const penOfHole = () => hole.getContext("2d", { willReadFrequently: true });
let painted = false, corner = null, shown = null;

export const startPainting = latest(async (signal) => {
  recover.stop(); // it is of another pair
  at("view-occlude").inert = true; // until there is something to paint on
  if (state.view !== "occlude" || state.row === null) return;
  const picture = await viewed(`picture/image?${query({ row: state.row })}`);
  signal.throwIfAborted();
  shown = picture;
  if (!picture) throw new Error("The image of this pair is not there, so there is nothing to paint on.");
  for (const canvas of [at("canvas"), hole]) [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
  clearPainting();
  at("view-occlude").inert = false;
});

function clearPainting() {
  recover.stop();
  for (const figure of at("painting").querySelectorAll("figure.result")) figure.remove();
  const pen = penOfHole();
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, hole.width, hole.height);
  painted = false;
  at("paint-facts").textContent = state.about.models.length ? "" : "There is no model here that could fill it in: start explore with a run as well.";
  redraw();
}

function redraw(box = null) {
  const pen = at("canvas").getContext("2d");
  if (!shown) return;
  pen.drawImage(shown, 0, 0);
  const veil = document.createElement("canvas");
  [veil.width, veil.height] = [hole.width, hole.height];
  const over = veil.getContext("2d"), from = penOfHole().getImageData(0, 0, hole.width, hole.height);
  for (let place = 0; place < from.data.length; place += 4) {
    const inside = from.data[place] > 127, stripe = ((place / 4) % hole.width + Math.floor(place / 4 / hole.width)) % 12 < 6;
    from.data.set(inside ? (stripe ? [220, 0, 150, 255] : [255, 255, 255, 255]) : [0, 0, 0, 0], place);
  }
  over.putImageData(from, 0, 0);
  pen.drawImage(veil, 0, 0);
  if (box) {
    pen.strokeStyle = "#dc0096";
    pen.lineWidth = 3;
    pen.strokeRect(...box);
  }
}

function spot(event) {
  const edge = at("canvas").getBoundingClientRect();
  return [(event.clientX - edge.left) * hole.width / edge.width, (event.clientY - edge.top) * hole.height / edge.height];
}

const boxOf = ([x0, y0], [x1, y1]) => [Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0)];

function paint(event) {
  const pen = penOfHole(), place = spot(event);
  pen.strokeStyle = pen.fillStyle = "#fff";
  pen.lineCap = "round";
  pen.lineWidth = at("brush").value * hole.width / 448;
  pen.beginPath();
  pen.moveTo(...corner);
  pen.lineTo(...place);
  pen.stroke();
  corner = place;
  painted = true;
  redraw();
}

at("canvas").addEventListener("pointerdown", (event) => {
  at("canvas").setPointerCapture(event.pointerId);
  corner = spot(event);
  if (at("shape").value === "brush") paint(event);
});
at("canvas").addEventListener("pointermove", (event) => {
  if (!corner) return;
  if (at("shape").value === "brush") paint(event);
  else redraw(boxOf(corner, spot(event)));
});
at("canvas").addEventListener("pointerup", (event) => {
  if (!corner) return;
  if (at("shape").value === "box") hideBox(boxOf(corner, spot(event)));
  corner = null;
  recover();
});
at("middle").addEventListener("click", () => {
  hideBox([hole.width * 0.35, hole.height * 0.35, hole.width * 0.3, hole.height * 0.3]);
  recover();
});
at("clear").addEventListener("click", clearPainting);

function hideBox(box) {
  const pen = penOfHole();
  pen.fillStyle = "#fff";
  pen.fillRect(...box);
  painted = true;
  redraw();
}

const recover = latest(async (signal) => {
  if (!painted || !state.about.models.length) return;
  const body = await new Promise((done) => hole.toBlob(done, "image/png"));
  signal.throwIfAborted();
  at("paint-facts").textContent = "Filling in …";
  for (const [place, model] of state.about.models.entries()) {
    const began = performance.now();
    const answer = await fetch(`recovered?${query({ row: state.row, model })}`, { method: "POST", body, signal });
    let figure = at(`result-${place}`);
    if (!figure) {
      figure = document.createElement("figure");
      figure.id = `result-${place}`;
      figure.className = "result";
      figure.append(new Image(), document.createElement("figcaption"));
      at("painting").append(figure);
    }
    if (!answer.ok) {
      figure.classList.add("missing");
      figure.dataset.why = (await answer.json()).error;
    } else {
      figure.classList.remove("missing");
      URL.revokeObjectURL(figure.querySelector("img").src);
      figure.querySelector("img").src = URL.createObjectURL(await answer.blob());
      figure.querySelector("img").alt = `the image, filled in by ${model}`;
    }
    figure.querySelector("figcaption").textContent = `filled in by ${model} (${Math.round(performance.now() - began)} ms)`;
  }
  at("paint-facts").textContent = "";
  tell(null);
});

at("brush").addEventListener("input", () => { at("brush-value").textContent = at("brush").value; });
document.addEventListener("shown", startPainting);
