// lines of equal error at the levels of the scale
const errorLines = (view) => {
  const { width, height } = view, known = cut(volumes.region, view).map((v) => v > 191);
  const values = blurred(volumes[errorOf.value], view);
  const paths = error.levels.map((share) => isoline(values, width, height, coded(share * error.top), known));
  return paths.flatMap((path, k) => [[path, "#000", ERROR_DASHES[k], 3], [path, "#fff", ERROR_DASHES[k]]]);
};

const outlines = (view) => {
  const { width, height } = view, lines = [];
  if (viewer.dataset.mode === "error") lines.push(...errorLines(view));
  else if (contours.checked) {
    const smooth = blurred(volumes.fixed, view);
    for (const level of levels(smooth)) lines.push([isoline(smooth, width, height, level), color("--contour"), []]);
  }
  for (const [name, dash] of [["fixed_mask", []], ["moving_mask", [5, 4]]]) {
    if (masks.checked && volumes[name]) {
      lines.push([isoline(cut(volumes[name], view), width, height, 127.5), color(`--${name}`), dash]);
    }
  }
  const map = labels ? labels.value : "";
  for (const side of map === "" ? [] : ["fixed", "warped"]) {
    const name = `labels-${map}-${side}`;
    if (!volumes[name]) continue;
    for (const [label, path] of borders(cut(volumes[name], view), width, height)) {
      lines.push([path, side === "fixed" ? "#fff" : colors[name][label - 1], side === "fixed" ? [2, 3] : []]);
    }
  }
  return lines;
};

const shares = (view, canvas, side) => { // size and position of the image on a panel of the canvas
  const panel = [canvas.width / side, canvas.height];
  const size = panel.map((n) => n * view.zoom);
  return { panel, size, corner: panel.map((n, i) => n / 2 - view.middle[i] * size[i]) };
};

const ERROR_DASHES = [[1.5, 2.5], [6, 3], []]; // as in the scale
const MARK_SHARE = 0.012; // of the slices of an axis, within which a place is marked

const isShown = (place, view) =>
  view.through < 0 || Math.abs(place[view.through] - at[view.through]) <= Math.max(0.5, MARK_SHARE * shape[view.through]);

// a numbered circle around a doubtful place
const spot = (context, [x, y], index, scale) => {
  const radius = (index === chosen ? 13 : 9) * scale;
  for (const [stroke, width] of [["#000", 4], ["#fff", index === chosen ? 2.5 : 1.5]]) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.strokeStyle = stroke;
    context.lineWidth = width * scale;
    context.stroke();
  }
  context.font = `bold ${13 * scale}px sans-serif`;
  context.lineWidth = 3 * scale;
  context.strokeStyle = "#000";
  context.strokeText(index + 1, x + radius + 2 * scale, y - 2 * scale);
  context.fillStyle = "#fff";
  context.fillText(index + 1, x + radius + 2 * scale, y - 2 * scale);
};

const here = () => at.reduce((sum, v, k) => sum + v * strides[k], 0);

const labelText = () => { // so that labels are not told apart by their colors alone
  if (!labels || labels.value === "") return "";
  const found = ["fixed", "warped"].map((side) => [side, `labels-${labels.value}-${side}`]).filter(([, name]) => volumes[name]);
  const value = (name) => (volumes[name][here()] ? labelValues[name][volumes[name][here()] - 1] : "none");
  return `; label ${found.map(([side, name]) => `${value(name)} (${side})`).join(", ")}`;
};

const errorText = () => {
  const index = here(), region = error ? volumes.region[index] : 0;
  if (region < 64) return "";
  if (region < 192) return "; the error is not determined here";
  const [expected, low, high] = ["expected", "low", "high"].map((name) => Number(errorAt(name, index).toPrecision(2)));
  return `; expected error ${expected} mm, 90 % interval ${low} to ${high} mm`;
};

const readout = () => {
  const mm = affine.map((row) => row[shape.length] + shape.reduce((sum, _, k) => sum + row[k] * at[k], 0));
  const position = `${mm.map((x) => x.toFixed(1).replace("-", "−")).join(", ")} ${mm.length === 3 ? "RAS mm" : "mm"}`;
  const where = chosen < 0 ? "Position" : `Place ${chosen + 1} of ${places.length}`;
  return `${where}: ${position}${errorText()}${landmarkText()}${labelText()}`;
};

// the second image over the first one
const drawSecond = (context, view, share, panel, corner, size) => {
  const mode = viewer.dataset.mode;
  context.save();
  if (mode === "blend") context.globalAlpha = share;
  if (mode === "curtain") {
    context.beginPath();
    context.rect(panel[0] * (1 - share), 0, panel[0] * share, panel[1]);
    context.clip();
  }
  if (mode === "error") {
    context.globalAlpha = share;
    context.drawImage(errorPicture(view), ...corner, ...size);
    context.restore();
    return;
  }
  if (mode === "board") {
    const side = Math.max(4, (0.04 + 0.42 * share ** 2) * panel[0]);
    context.beginPath();
    for (let x = 0; x * side < panel[0]; x++) {
      for (let y = 0; y * side < panel[1]; y++) if ((x + y) % 2) context.rect(x * side, y * side, side, side);
    }
    context.clip();
  }
  context.drawImage(picture(viewer.dataset.top, view), ...corner, ...size);
  context.restore();
};

const drawLines = (context, lines, [sx, sy], scale) => {
  for (const [path, stroke, dash, thickness = 1.2] of lines) {
    const drawn = new Path2D();
    drawn.addPath(path, new DOMMatrix([sx, 0, 0, sy, 0, 0]));
    context.lineWidth = thickness * scale;
    context.strokeStyle = stroke;
    context.setLineDash(dash.map((d) => d * scale));
    context.stroke(drawn);
  }
  context.setLineDash([]);
};

// crosshair, landmarks and doubtful places
const drawMarks = (context, view, [sx, sy], name, scale) => {
  const point = (voxel) => [(view.width - voxel[view.across] - 0.5) * sx, (view.height - voxel[view.up] - 0.5) * sy];
  if (cross.checked && view.through >= 0) {
    const [x, y] = point(at);
    context.fillStyle = "#8fd0ff80";
    context.fillRect(0, y - 0.5, view.width * sx, 1);
    context.fillRect(x - 0.5, 0, 1, view.height * sy);
  }
  drawLandmarks(context, view, point, name, scale);
  for (const [index, place] of places.entries()) if (isShown(place, view)) spot(context, point(place), index, scale);
};

const panels = () => {
  if (viewer.dataset.mode === "error") return ["fixed"];
  if (viewer.dataset.mode !== "side") return [viewer.dataset.bottom];
  return innerWidth < 560 ? ["fixed", "after"] : ["fixed", "before", "after"];
};

const drawPanel = (context, view, name, number, count, lines, scale) => {
  const { panel, size, corner } = shares(view, view.canvas, count), side = viewer.dataset.mode === "side";
  const factors = [size[0] / view.width, size[1] / view.height];
  context.save();
  context.beginPath();
  context.rect(number * panel[0] + 3 * number, 0, panel[0] - 3 * number, panel[1]);
  context.clip();
  context.translate(number * panel[0], 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture(name, view), ...corner, ...size);
  if (!side) drawSecond(context, view, mix.value / 100, panel, corner, size);
  context.translate(...corner);
  drawLines(context, lines, factors, scale);
  drawMarks(context, view, factors, name, scale);
  context.restore();
  if (!side) return;
  context.font = `${12 * scale}px sans-serif`;
  context.fillStyle = "#fff";
  context.fillText(names[name], number * panel[0] + 8 * scale, 16 * scale);
};

const draw = (view) => {
  const canvas = view.canvas, scale = Math.max(1, devicePixelRatio || 1), shown = panels();
  viewer.style.setProperty("--panels", shown.length);
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * scale));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * scale));
  const context = canvas.getContext("2d"), lines = outlines(view);
  for (const [number, name] of shown.entries()) drawPanel(context, view, name, number, shown.length, lines, scale);
  if (view.through < 0) return;
  const [place, step] = axes[view.through], index = at[view.through];
  view.output.textContent = `${Math.round(place + step * index)} mm, slice ${index + 1} of ${shape[view.through]}`;
  if (view.slider) view.slider.value = index;
  canvas.setAttribute("aria-valuenow", index + 1);
  canvas.setAttribute("aria-valuetext", view.output.textContent);
};

let asked = false;
const redraw = () => {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    views.forEach(draw);
    if (get("readout").textContent !== readout()) get("readout").textContent = readout();
  });
};

const views = [...viewer.querySelectorAll(".view")].map((figure) => {
  const [across, up, through] = figure.dataset.axes.split(" ").map(Number);
  return {
    across, up, through, width: shape[across], height: shape[up], zoom: 1, middle: [0.5, 0.5],
    canvas: figure.querySelector("canvas"), slider: figure.querySelector(".slice"), output: figure.querySelector("output"),
  };
});
