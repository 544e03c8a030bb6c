// moving through the images: pointer, wheel, places
const buttons = [...viewer.querySelectorAll(".place")];

const zoomed = (view, zoom, place = [0.5, 0.5]) => { // around a fixed point, given as shares of the panel
  const next = clamp(zoom, 1, 12);
  view.middle = view.middle.map((m, i) => m + (place[i] - 0.5) * (1 / view.zoom - 1 / next));
  view.zoom = next;
  moved(view, 0, 0);
};
const moved = (view, x, y) => {
  const half = 0.5 / view.zoom;
  view.middle = [view.middle[0] - x / view.zoom, view.middle[1] - y / view.zoom].map((m) => clamp(m, half, 1 - half));
  redraw();
};
const choose = (index) => { // of a place, -1 for none
  chosen = index;
  for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.place - 1 === index));
};
const slid = (axis, value) => {
  at[axis] = clamp(Math.round(value), 0, shape[axis] - 1);
  if (chosen >= 0 && places[chosen].some((v, k) => v !== at[k])) choose(-1);
  redraw();
};
const go = (index) => { if (places[index]) show(places[index], index); };
const show = (voxel, index) => { // a point in all views, that of a place or -1
  at.splice(0, shape.length, ...voxel.map((v, k) => clamp(v, 0, shape[k] - 1)));
  for (const view of views) Object.assign(view, { zoom: 1, middle: [0.5, 0.5] });
  get("zoom").value = 0;
  choose(index);
  get("told").textContent = readout();
  viewer.querySelector(".view").scrollIntoView({ block: "nearest" });
  redraw();
};
const panelOf = (view, event) => { // position of the pointer on its panel, as shares
  const box = view.canvas.getBoundingClientRect(), width = box.width / panels().length;
  return [((event.clientX - box.left) % width) / width, (event.clientY - box.top) / box.height, width, box.height];
};

for (const view of views) {
  if (view.slider) view.slider.addEventListener("input", () => slid(view.through, view.slider.value));
  view.canvas.addEventListener("wheel", (event) => {
    const place = panelOf(view, event).slice(0, 2);
    if (event.ctrlKey || event.metaKey || view.through < 0) zoomed(view, view.zoom * Math.exp(-event.deltaY / 200), place);
    else slid(view.through, at[view.through] - Math.sign(event.deltaY));
    event.preventDefault();
  }, { passive: false });
  let held = null;
  view.canvas.addEventListener("pointerdown", (event) => {
    held = { x: event.clientX, y: event.clientY, far: false };
    view.canvas.setPointerCapture(event.pointerId);
  });
  view.canvas.addEventListener("pointermove", (event) => {
    if (!held) return;
    const [, , width, height] = panelOf(view, event), x = event.clientX - held.x, y = event.clientY - held.y;
    if (!held.far && Math.hypot(x, y) < 4) return;
    moved(view, x / width, y / height);
    held = { x: event.clientX, y: event.clientY, far: true };
  });
  view.canvas.addEventListener("pointerup", (event) => {
    if (held && !held.far && view.through >= 0) {
      const [x, y] = panelOf(view, event).map((p, i) => view.middle[i] + (p - 0.5) / view.zoom);
      slid(view.across, view.width - 0.5 - x * view.width);
      slid(view.up, view.height - 0.5 - y * view.height);
    }
    held = null;
  });
  view.canvas.addEventListener("pointercancel", () => { held = null; }); // touch scrolls the page
  view.canvas.addEventListener("keydown", (event) => {
    const last = shape[view.through] - 1, here = at[view.through];
    const ends = { Home: 0, End: last, PageUp: here + 10, PageDown: here - 10 };
    const steps = { ArrowUp: here + 1, ArrowRight: here + 1, ArrowDown: here - 1, ArrowLeft: here - 1, ...ends };
    if (view.through < 0 || !(event.key in steps)) return;
    slid(view.through, steps[event.key]);
    event.preventDefault();
  });
}

// choices
const flicker = get("flicker");
let timer = null;
const steady = () => { // no flicker
  clearInterval(timer);
  timer = null;
  flicker.setAttribute("aria-pressed", "false");
};
flicker.addEventListener("click", () => {
  if (timer !== null) { steady(); return; }
  viewer.querySelector("input[value=blend]").click();
  flicker.setAttribute("aria-pressed", "true");
  timer = setInterval(() => { mix.value = mix.value > 50 ? 0 : 100; mix.dispatchEvent(new Event("input")); }, 600);
});

const label = () => {
  const { mode, bottom, top } = viewer.dataset;
  const ends = { board: ["small", "large"], error: ["fixed", "error"] }[mode] || [names[bottom], names[top]];
  [get("mix-from").textContent, get("mix-to").textContent] = ends;
  mix.disabled = viewer.dataset.mode === "side";
  redraw();
};
for (const input of viewer.querySelectorAll("input[name=pair]")) {
  input.addEventListener("change", () => {
    [viewer.dataset.bottom, viewer.dataset.top] = input.value.split(" ");
    label();
  });
}
for (const input of viewer.querySelectorAll("input[name=mode]")) {
  input.addEventListener("change", () => {
    steady();
    viewer.dataset.mode = input.value;
    mix.value = { curtain: 50, board: 25 }[input.value] || 100;
    label();
  });
}
for (const input of [mix, contours, masks, labels, cross, errorOf, points]) if (input) input.addEventListener("input", redraw);

const of = get("window-of"), level = get("level"), width = get("window"), zoom = get("zoom");
of.addEventListener("change", () => { [level.value, width.value] = windows[of.value]; });
for (const input of [level, width]) {
  input.addEventListener("input", () => { windows[of.value] = [Number(level.value), Number(width.value)]; redraw(); });
}
zoom.addEventListener("input", () => { for (const view of views) zoomed(view, 12 ** (zoom.value / 100)); });
get("reset").addEventListener("click", () => {
  Object.assign(windows, { fixed: [50, 100], moving: [50, 100] });
  [level.value, width.value, zoom.value] = [50, 100, 0];
  at.splice(0, start.length, ...start);
  choose(-1);
  for (const view of views) Object.assign(view, { zoom: 1, middle: [0.5, 0.5] });
  redraw();
});

for (const button of buttons) button.addEventListener("click", () => go(button.dataset.place - 1));
for (const button of document.querySelectorAll("button.landmark")) {
  button.addEventListener("click", () => show(landmarks.fixed[button.dataset.landmark - 1].map(Math.round), -1));
}

// single keys, unless they are switched off or a list of options is open
const modes = { e: "error", b: "blend", s: "side", c: "curtain", k: "board" };
const boxes = { o: contours, m: masks, x: cross, l: points };
const zoomBy = (factor) => {
  for (const view of views) zoomed(view, view.zoom * factor);
  zoom.value = 100 * Math.log(views[0].zoom) / Math.log(12);
};
const keys = { f: () => flicker.click(), r: () => get("reset").click(), "+": () => zoomBy(1.25), "-": () => zoomBy(0.8) };
document.body.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !get("shortcuts").checked || event.target.closest("select")) return;
  const key = event.key.toLowerCase();
  if (/^[1-9]$/.test(key)) go(key - 1);
  else if (key in modes) viewer.querySelector(`input[value=${modes[key]}]`)?.click();
  else if (key in boxes) boxes[key]?.click();
  else if (key in keys) keys[key]();
  else return;
  event.preventDefault();
});

(async () => {
  for (const image of viewer.querySelectorAll(".stack")) {
    volumes[image.dataset.name] = await unpacked(image);
    if (!image.dataset.colors) continue;
    colors[image.dataset.name] = JSON.parse(image.dataset.colors);
    labelValues[image.dataset.name] = JSON.parse(image.dataset.values);
  }
  addEventListener("resize", redraw);
  label();
  viewer.dataset.ready = "yes";
})();
