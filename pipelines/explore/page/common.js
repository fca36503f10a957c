// What the parts of the page share: its state, and how it asks the server.

export const at = (id) => document.getElementById(id);
export const state = { row: null, start: 0, rows: [], seed: 0, typed: "", about: null, maps: [], view: "pair", own: {} };
export const words = ["strategy", "salient_ratio", "mask_ratio", "salient_of", "salient_pick", "gate_ratio", "gate_sign"];

export const query = (values) => new URLSearchParams(values).toString();

export async function ask(place, values = {}, options = {}) {
  const answer = await fetch(`${place}?${query(values)}`, options);
  const found = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
  options.signal?.throwIfAborted();
  if (!answer.ok) throw new Error(found.error ?? `the server answered ${answer.status}`);
  return found;
}

export function tell(error) {
  if (error?.name === "AbortError") return;
  at("error").hidden = !error;
  at("error").textContent = error ? error.message : "";
}

// Of several calls that follow each other quickly only the last one's answer counts, and none does after stop().
// Work has to ask its signal after each wait that the signal does not end.
export function latest(work) {
  let control = null;
  const run = async (...given) => {
    control?.abort();
    const mine = (control = new AbortController());
    try {
      await work(mine.signal, ...given);
    } catch (error) {
      if (mine === control) tell(error);
    }
  };
  run.stop = () => control?.abort();
  return run;
}

export function choices(select, values, names = values) {
  select.replaceChildren(...values.map((value, place) => new Option(names[place], value)));
}
