// The view of one contest after another: pick a fact and a layer, see the routes there, and where it stands among all.
// As an anywidget it renders into a cell; on a page `pageModel` stands in for the kernel. Text from data is set as text.

const MINUS = "\u2212", INFINITY = "\u221e", NOTHING = "\u2013";
const SVG = "http://www.w3.org/2000/svg";

function made(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);  // a string becomes a text, whatever is in it
  return element;
}

function drawn(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// JSON has no infinity and no NaN: they come as text and as null.
function value(number) {
  if (number === null || number === undefined) return NaN;
  return typeof number === "string" ? (number === "-inf" ? -Infinity : Infinity) : number;
}

function nats(number) {
  if (Number.isNaN(number)) return NOTHING;
  if (!Number.isFinite(number)) return (number < 0 ? MINUS : "") + INFINITY;
  const text = number.toFixed(2);
  return (/^-0\.0*$/.test(text) ? text.slice(1) : text).replace("-", MINUS);
}

function mixed(from, to, share) {
  const part = (color, i) => parseInt(color.slice(1 + 2 * i, 3 + 2 * i), 16);
  return [0, 1, 2].map((i) => Math.round(part(from, i) + share * (part(to, i) - part(from, i))));
}

// Colours from -limit to limit; two anchors at one place are a step, whose upper side begins there.
function colour(number, { limit, anchors }) {
  const place = Math.min(Math.max((number / limit + 1) / 2, 0), 1);
  let above = anchors.findIndex(([at]) => at > place);
  if (above < 0) above = anchors.length - 1;
  const [low, from] = anchors[above - 1], [high, to] = anchors[above];
  return mixed(from, to, high > low ? (place - low) / (high - low) : 1);
}

// What is chosen, as positions in the data.
function chosenIn(model, data) {
  const place = (list, item) => Math.max(list.indexOf(item), 0);
  return {
    fact: place(data.facts.map((fact) => fact.name), model.get("fact")),
    state: place(data.states, model.get("state")),
    layer: place(data.layers, model.get("layer")),
  };
}

function marginAt(data, state, fact, layer) {
  const at = (name) => value(data.logprob[state][fact][data.routes.findIndex((route) => route.name === name)][layer]);
  return at("new") - at("old");
}

function quoted(data, fact, route) {
  const text = (data.facts[fact].values || {})[route];
  return text === undefined ? "" : `\u201c${text}\u201d`;
}

function picker(label, names, choose) {
  const select = made("select");
  names.forEach((name, i) => select.append(made("option", { value: i }, name)));
  select.addEventListener("change", () => choose(Number(select.value)));
  return { element: made("label", {}, made("span", {}, label), select), show: (i) => (select.value = i) };
}

function slider(data, choose) {
  const input = made("input", { type: "range", min: 0, max: data.layers.length - 1, step: 1 });
  const says = made("output");
  input.addEventListener("input", () => choose(Number(input.value)));
  const show = (i) => {
    input.value = i;
    const depth = (data.layers[i] / data.height).toFixed(2);
    says.textContent = `${data.layers[i]} of ${data.height} (depth ${depth})`;
    input.setAttribute("aria-valuetext", `layer ${says.textContent}`);
  };
  return { element: made("label", { class: "mm-layer" }, made("span", {}, "Layer"), input, says), show };
}

// The lowest log-probability of a fact at any layer above the embedding, so that bars compare from layer to layer.
function floorOf(data, fact) {
  const ruling = data.layers.map((layer, i) => (layer > 0 || data.layers.length === 1 ? i : -1)).filter((i) => i >= 0);
  let lowest = -1;
  for (const state of data.logprob)
    for (const route of state[fact])
      for (const i of ruling) if (Number.isFinite(value(route[i]))) lowest = Math.min(lowest, value(route[i]));
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((one) => -lowest / one <= 5) || 1000;
  return { lowest: -step * Math.ceil(-lowest / step), step };
}

function bars(data) {
  const rows = made("div", { class: "mm-bars", role: "list" });
  const show = ({ fact, state, layer }) => {
    const { lowest, step } = floorOf(data, fact);
    const values = data.routes.map((_, i) => value(data.logprob[state][fact][i][layer]));
    const first = Math.max(...values.filter((one) => !Number.isNaN(one)));
    rows.replaceChildren();
    data.routes.forEach((route, i) => {
      const length = Number.isNaN(values[i]) ? 0 : Math.min(values[i] / lowest, 1);
      const bar = made("div", { class: "mm-bar", style: `width: ${100 * length}%; background: ${route.color}` });
      const leads = values[i] === first ? "leads" : "";
      const name = made("div", { class: "mm-route" }, made("b", {}, route.label), ` ${quoted(data, fact, route.name)}`);
      const beyond = values[i] < lowest ? " mm-beyond" : "";
      const track = made("div", { class: `mm-track${beyond}` });
      for (let tick = -step; tick >= lowest; tick -= step)
        track.append(made("i", { style: `right: ${(100 * tick) / lowest}%` }));
      track.append(bar, made("i", { style: "right: 0", class: "mm-zero" }));
      const says = made("div", { class: "mm-number" }, nats(values[i]));
      const row = made("div", { class: `mm-row ${leads}`, role: "listitem", "data-route": route.name }, name, track, says);
      rows.append(row);
    });
    const ticks = made("div", { class: "mm-ticks", "aria-hidden": "true" });
    for (let tick = 0; tick >= lowest; tick -= step)
      ticks.append(made("span", { style: `right: ${(100 * tick) / lowest}%` }, String(tick).replace("-", MINUS)));
    rows.append(made("div", { class: "mm-row mm-axis" }, made("div"), ticks, made("div", {}, "nats")));
  };
  return { element: rows, show };
}

function cells(data, state) {
  const canvas = made("canvas", { width: data.layers.length, height: data.facts.length, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  data.facts.forEach((_, fact) =>
    data.layers.forEach((_, layer) => {
      const margin = marginAt(data, state, fact, layer);
      if (Number.isNaN(margin)) return;  // the hatched ground is seen
      image.data.set([...colour(margin, data.scale), 255], 4 * (fact * canvas.width + layer));
    }),
  );
  context.putImageData(image, 0, 0);
  return canvas;
}

function commits(data, state) {
  const marks = [];
  data.commit[state].forEach((layer, fact) => {
    const at = data.layers.indexOf(layer);
    if (at < 0) return;
    for (const kind of ["mm-edge", "mm-commit"])
      marks.push(drawn("line", { x1: at, x2: at, y1: fact + 0.08, y2: fact + 0.92, class: kind }));
  });
  return marks;
}

function heatMap(data, choose) {
  const [width, height] = [data.layers.length, data.facts.length];
  const names = made("div", { class: "mm-names", "aria-hidden": "true" });
  data.facts.forEach((fact, i) => {
    const name = made("div", { title: fact.name }, fact.name);
    name.addEventListener("click", () => choose({ fact: i }));
    names.append(name);
  });
  const over = drawn("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const field = made("div", { class: "mm-field" });
  const label = "Heat map of facts by layers. Arrow keys choose the fact and the layer.";
  const scroll = made("div", { class: "mm-scroll", tabindex: 0, role: "application", "aria-label": label }, names, field);
  let now = { fact: 0, layer: 0, state: 0 }, painted = -1;

  const under = (event) => {
    const box = field.getBoundingClientRect();
    const at = (share, n) => Math.min(Math.max(Math.floor(share * n), 0), n - 1);
    return {
      layer: at((event.clientX - box.left) / box.width, width),
      fact: at((event.clientY - box.top) / box.height, height),
    };
  };
  field.addEventListener("click", (event) => choose(under(event)));
  field.addEventListener("mousemove", (event) => {
    const { fact, layer } = under(event);
    const margin = nats(marginAt(data, now.state, fact, layer));
    field.title = `${data.facts[fact].name}\nlayer ${data.layers[layer]}: margin ${margin} nats`;
  });
  scroll.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const ends = { Home: { layer: 0 }, End: { layer: width - 1 } };
    const move = moves[event.key];
    if (!move && !ends[event.key]) return;
    event.preventDefault();
    const within = (n, size) => Math.min(Math.max(n, 0), size - 1);
    if (!move) choose(ends[event.key]);
    else choose({ fact: within(now.fact + move[0], height), layer: within(now.layer + move[1], width) });
  });

  const show = (chosen) => {
    now = chosen;
    if (painted !== chosen.state) {
      field.replaceChildren(cells(data, chosen.state), over);
      painted = chosen.state;
    }
    const row = { x: 0, y: chosen.fact, width, height: 1 };
    const cell = { x: chosen.layer, y: chosen.fact, width: 1, height: 1 };
    const frame = (box, ...kinds) => kinds.map((kind) => drawn("rect", { ...box, class: kind }));
    const frames = [...frame(row, "mm-row-edge", "mm-chosen-row"), ...frame(cell, "mm-edge", "mm-chosen")];
    over.replaceChildren(...commits(data, chosen.state), ...frames);
    [...names.children].forEach((name, i) => name.classList.toggle("mm-here", i === chosen.fact));
    const [top, size] = [(scroll.scrollHeight * chosen.fact) / height, scroll.scrollHeight / height];
    if (top < scroll.scrollTop) scroll.scrollTop = top;
    else if (top + size > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = top + size - scroll.clientHeight;
  };
  return { element: scroll, show };
}

function layerTicks(data) {
  const ticks = made("div", { class: "mm-ticks", "aria-hidden": "true" });
  const every = [1, 2, 5, 10, 20, 50].find((one) => data.layers.length / one <= 12) || 100;
  data.layers.forEach((layer, i) => {
    const left = (100 * (i + 0.5)) / data.layers.length;
    if (layer % every === 0) ticks.append(made("span", { style: `left: ${left}%` }, String(layer)));
  });
  return made("div", { class: "mm-under" }, made("span", {}, "layer"), ticks);
}

function colourBar({ limit, anchors, note }) {
  const stops = anchors.map(([at, color]) => `${color} ${100 * at}%`).join(", ");
  const bar = made("div", { class: "mm-gradient", style: `background: linear-gradient(to right, ${stops})` });
  const ends = [`${MINUS}${limit.toFixed(1)}`, "0", limit.toFixed(1)].map((text) => made("span", {}, text));
  const legend = "black bar: commit layer of new, which leads from there to the last layer";
  const notes = [legend, note].filter(Boolean).map((text) => made("div", { class: "mm-note" }, text));
  return made("div", { class: "mm-scale" }, bar, made("div", { class: "mm-ends" }, ...ends), ...notes);
}

function sentence(data, { fact, state, layer }) {
  const at = data.layers[layer], commit = data.commit[state][fact];
  const parts = ["old", "new"].map((name) => {
    const route = data.routes.findIndex((one) => one.name === name);
    return `${name} ${quoted(data, fact, name)} ${nats(value(data.logprob[state][fact][route][layer]))}`;
  });
  const where = commit === null ? "new does not commit" : `new commits at layer ${commit}`;
  const which = [data.facts[fact].name, data.states[state]].filter(Boolean).join(", ");
  const margin = nats(marginAt(data, state, fact, layer));
  return `${which}, layer ${at}: ${parts.join(", ")}, margin new ${MINUS} old ${margin} nats; ${where}.`;
}

function render({ model, el }) {
  const data = model.get("data");
  const choose = (changes) => {
    const names = { fact: (i) => data.facts[i].name, state: (i) => data.states[i], layer: (i) => data.layers[i] };
    for (const [name, i] of Object.entries(changes)) model.set(name, names[name](i));
    model.save_changes();
  };
  const facts = picker("Fact", data.facts.map((fact) => fact.name), (fact) => choose({ fact }));
  const states = picker("State", data.states, (state) => choose({ state }));
  const layers = slider(data, (layer) => choose({ layer }));
  const contest = bars(data), map = heatMap(data, choose);
  const heading = made("figcaption"), said = made("p", { class: "mm-said", "aria-live": "polite" });
  const controls = [facts.element, ...(data.states.length > 1 ? [states.element] : []), layers.element];
  const last = data.states[data.states.length - 1], inState = last ? ` in ${last}` : "";
  const order = made("div", { class: "mm-note" }, `a row for each fact, in the order of the commit layers${inState}`);
  const mapped = [made("figcaption", {}, `margin new ${MINUS} old (nats)`), order, map.element];
  const panels = [made("figure", {}, heading, contest.element)];
  panels.push(made("figure", {}, ...mapped, layerTicks(data), colourBar(data.scale)));
  const controlled = made("div", { class: "mm-controls" }, ...controls);
  const root = made("div", { class: "mechmask-contest" }, controlled, made("div", { class: "mm-panels" }, ...panels), said);
  el.append(root);

  const update = () => {
    const chosen = chosenIn(model, data);
    facts.show(chosen.fact);
    states.show(chosen.state);
    layers.show(chosen.layer);
    heading.textContent = `log-probability at layer ${data.layers[chosen.layer]} (${data.how})`;
    contest.show(chosen);
    map.show(chosen);
    said.textContent = sentence(data, chosen);
  };
  const events = ["change:fact", "change:layer", "change:state"];
  events.forEach((event) => model.on(event, update));
  update();
  return () => events.forEach((event) => model.off(event, update));
}

// What a widget's model is, on a page without a kernel.
function pageModel(values) {
  const listeners = {};
  return {
    get: (name) => values[name],
    set: (name, to) => {
      if (values[name] === to) return;
      values[name] = to;
      (listeners[`change:${name}`] || []).forEach((listener) => listener());
    },
    save_changes: () => {},
    on: (event, listener) => (listeners[event] = [...(listeners[event] || []), listener]),
    off: (event, listener) => (listeners[event] = (listeners[event] || []).filter((one) => one !== listener)),
  };
}

export default { render };
