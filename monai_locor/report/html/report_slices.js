document.documentElement.classList.add("live");
const viewer = document.getElementById("viewer");
const { shape, columns, axes, affine, start, blur, places, error, landmarks } = JSON.parse(viewer.dataset.volumes);
const [nx, ny, nz = 1] = shape;
const strides = [1, nx, nx * ny];
const at = [...start, 0].slice(0, 3); // voxel shown in all views
let chosen = -1; // index of the doubtful place that is shown
const names = { fixed: "fixed", before: "before", after: "warped" };
const windows = { fixed: [50, 100], moving: [50, 100] }; // level and width, percent of the range
const get = (id) => document.getElementById(id);
const mix = get("mix"), contours = get("contours"), masks = get("masks"), labels = get("labels"), cross = get("cross"), errorOf = get("error-of"), points = get("landmarks");
const volumes = {}, colors = {}, labelValues = {};
const styles = getComputedStyle(document.documentElement);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const color = (name) => styles.getPropertyValue(name);

// in a stack, slice k of the last axis is at row k / columns, column k % columns
const unpacked = async (image) => {
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const values = new Uint8Array(nx * ny * nz);
  for (let k = 0; k < nz; k++) {
    const tile = context.getImageData((k % columns) * nx, Math.floor(k / columns) * ny, nx, ny).data;
    for (let i = 0; i < nx * ny; i++) values[k * nx * ny + i] = tile[4 * i];
  }
  return values;
};

// rows from the top, patient's right on the left: both axes run from their high end
const cut = (values, view, offset = 0) => {
  const { across, up, through, width, height } = view;
  const first = through < 0 ? 0 : clamp(at[through] + offset, 0, shape[through] - 1) * strides[through];
  const out = new Uint8Array(width * height);
  for (let row = 0; row < height; row++) {
    const line = first + (height - 1 - row) * strides[up];
    for (let column = 0; column < width; column++) {
      out[row * width + column] = values[line + (width - 1 - column) * strides[across]];
    }
  }
  return out;
};

const gray = (values, [level, width]) => {
  const table = new Uint8ClampedArray(256);
  for (let v = 0; v < 256; v++) table[v] = 255 * ((v / 2.55 - level) / width + 0.5);
  const pixels = new Uint8ClampedArray(4 * values.length);
  for (let i = 0; i < values.length; i++) {
    pixels[4 * i] = pixels[4 * i + 1] = pixels[4 * i + 2] = table[values[i]];
    pixels[4 * i + 3] = 255;
  }
  return pixels;
};

const picture = (name, view) => {
  const canvas = document.createElement("canvas");
  canvas.width = view.width;
  canvas.height = view.height;
  const pixels = gray(cut(volumes[name], view), windows[name === "fixed" ? "fixed" : "moving"]);
  canvas.getContext("2d").putImageData(new ImageData(pixels, view.width, view.height), 0, 0);
  return canvas;
};

// errors are stored by their square roots
const coded = (mm) => 255 * Math.sqrt(mm / error.reach);
const errorAt = (name, index) => error.reach * (volumes[name][index] / 255) ** 2;

// colors of the error; nothing outside the anatomy, diagonal lines where it is not determined
const errorPicture = (view) => {
  const { width, height } = view, values = cut(volumes[errorOf.value], view), region = cut(volumes.region, view);
  const pixels = new Uint8ClampedArray(4 * values.length), last = error.shades.length - 1, table = [];
  for (let v = 0; v < 256; v++) {
    const place = last * Math.min(1, error.reach * (v / 255) ** 2 / error.top), low = Math.min(last - 1, Math.floor(place));
    table.push(error.shades[low].map((c, k) => c + (place - low) * (error.shades[low + 1][k] - c)));
  }
  for (let i = 0; i < values.length; i++) {
    if (region[i] > 191) pixels.set(table[values[i]], 4 * i);
    else if (region[i] > 63 && (i % width + Math.floor(i / width)) % 4 === 0) pixels.set([153, 153, 153, 255], 4 * i);
  }
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
  return canvas;
};

// Gaussian smoothing across slices, then within the slice
const blurred = (values, view) => {
  const { width, height } = view, through = view.through < 0 ? 0 : blur[view.through], reach = Math.ceil(2 * through);
  let from = new Float32Array(width * height), whole = 0;
  for (let d = -reach; d <= reach; d++) {
    const weight = Math.exp(-0.5 * (d / Math.max(through, 1e-3)) ** 2), slice = cut(values, view, d);
    for (let i = 0; i < from.length; i++) from[i] += weight * slice[i];
    whole += weight;
  }
  from = from.map((v) => v / whole);
  for (const [axis, sigma] of [blur[view.across], blur[view.up]].entries()) {
    const radius = Math.ceil(3 * sigma), kernel = [];
    for (let d = -radius; d <= radius; d++) kernel.push(Math.exp(-0.5 * (d / Math.max(sigma, 1e-3)) ** 2));
    const sum = kernel.reduce((a, b) => a + b);
    const [step, size] = axis ? [width, height] : [1, width];
    const to = new Float32Array(from.length);
    for (let i = 0; i < from.length; i++) {
      const place = Math.floor(i / step) % size;
      let total = 0;
      for (let d = -radius; d <= radius; d++) {
        const other = Math.min(size - 1, Math.max(0, place + d));
        total += kernel[d + radius] * from[i + (other - place) * step];
      }
      to[i] = total / sum;
    }
    from = to;
  }
  return from;
};

// marching squares: line segments at a level, in pixels
const isoline = (values, width, height, level, known = null) => { // only between known pixels
  const isKnown = (...pixels) => !known || pixels.every((i) => known[i]);
  const path = new Path2D();
  for (let row = 0; row + 1 < height; row++) {
    for (let column = 0; column + 1 < width; column++) {
      const i = row * width + column;
      const corners = [values[i], values[i + 1], values[i + width + 1], values[i + width]];
      if (!isKnown(i, i + 1, i + width + 1, i + width)) continue;
      const inside = corners.map((v) => v >= level);
      if (inside[0] === inside[1] && inside[1] === inside[2] && inside[2] === inside[3]) continue;
      const ends = [];
      for (let side = 0; side < 4; side++) {
        const a = corners[side], b = corners[(side + 1) % 4];
        if (inside[side] === inside[(side + 1) % 4]) continue;
        const t = (level - a) / (b - a);
        const [x, y] = [[t, 0], [1, t], [1 - t, 1], [0, 1 - t]][side];
        ends.push([column + x + 0.5, row + y + 0.5]);
      }
      for (let k = 0; k + 1 < ends.length; k += 2) {
        path.moveTo(...ends[k]);
        path.lineTo(...ends[k + 1]);
      }
    }
  }
  return path;
};

// levels between background and foreground, and between tissues
const levels = (values) => {
  const inner = Array.from(values).filter((v) => v > 38).sort((a, b) => a - b);
  return inner.length < 16 || inner[inner.length - 1] - inner[0] < 1 ? [] : [38, inner[Math.floor(0.85 * inner.length)]];
};

// pixel edges between different labels, by label
const borders = (values, width, height) => {
  const paths = new Map();
  const add = (label, x0, y0, x1, y1) => {
    if (!label) return;
    if (!paths.has(label)) paths.set(label, new Path2D());
    paths.get(label).moveTo(x0, y0);
    paths.get(label).lineTo(x1, y1);
  };
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const here = values[row * width + column];
      const right = column + 1 < width ? values[row * width + column + 1] : here;
      const below = row + 1 < height ? values[(row + 1) * width + column] : here;
      if (right !== here) for (const label of [here, right]) add(label, column + 1, row, column + 1, row + 1);
      if (below !== here) for (const label of [here, below]) add(label, column, row + 1, column + 1, row + 1);
    }
  }
  return paths;
};
