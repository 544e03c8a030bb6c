"use strict";
(() => {
  const viewer = document.getElementById("viewer");
  const { shape, spacing, columns, places, start, blur } = JSON.parse(viewer.dataset.volumes);
  const [nx, ny, nz = 1] = shape;
  const strides = [1, nx, nx * ny];
  const at = [...start, 0].slice(0, 3); // voxel shown in all views
  const names = { fixed: "fixed", before: "before", after: "warped" };
  const windows = { fixed: [50, 100], moving: [50, 100] }; // level and width, percent of the range
  const get = (id) => document.getElementById(id);
  const mix = get("mix"), contours = get("contours"), masks = get("masks"), labels = get("labels"), cross = get("cross");
  const volumes = {}, colors = {};
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
  const isoline = (values, width, height, level) => {
    const path = new Path2D();
    for (let row = 0; row + 1 < height; row++) {
      for (let column = 0; column + 1 < width; column++) {
        const i = row * width + column;
        const corners = [values[i], values[i + 1], values[i + width + 1], values[i + width]];
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

  const outlines = (view) => {
    const { width, height } = view, lines = [];
    if (contours.checked) {
      const smooth = blurred(volumes.fixed, view);
      for (const level of levels(smooth)) lines.push([isoline(smooth, width, height, level), color("--contour"), []]);
    }
    for (const [name, dash] of [["fixed_mask", []], ["moving_mask", [5, 4]]]) {
      if (masks.checked && volumes[name]) {
        lines.push([isoline(cut(volumes[name], view), width, height, 127.5), color(`--${name}`), dash]);
      }
    }
    const chosen = labels ? labels.value : "";
    for (const side of chosen === "" ? [] : ["fixed", "warped"]) {
      const name = `labels-${chosen}-${side}`;
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

  const draw = (view) => {
    const mode = viewer.dataset.mode, { bottom, top } = viewer.dataset, canvas = view.canvas;
    const panels = mode === "side" ? ["fixed", "before", "after"] : [bottom];
    const scale = Math.max(1, devicePixelRatio || 1);
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * scale));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * scale));
    const context = canvas.getContext("2d"), { panel, size, corner } = shares(view, canvas, panels.length);
    const share = mix.value / 100, lines = outlines(view);
    for (const [number, name] of panels.entries()) {
      context.save();
      context.beginPath();
      context.rect(number * panel[0] + 3 * number, 0, panel[0] - 3 * number, panel[1]);
      context.clip();
      context.translate(number * panel[0], 0);
      context.imageSmoothingQuality = "high";
      context.drawImage(picture(name, view), ...corner, ...size);
      if (mode !== "side") {
        context.save();
        if (mode === "blend") context.globalAlpha = share;
        if (mode === "curtain") {
          context.beginPath();
          context.rect(panel[0] * (1 - share), 0, panel[0] * share, panel[1]);
          context.clip();
        }
        if (mode === "board") {
          const side = Math.max(4, (0.04 + 0.42 * share ** 2) * panel[0]);
          context.beginPath();
          for (let x = 0; x * side < panel[0]; x++) {
            for (let y = 0; y * side < panel[1]; y++) if ((x + y) % 2) context.rect(x * side, y * side, side, side);
          }
          context.clip();
        }
        context.drawImage(picture(top, view), ...corner, ...size);
        context.restore();
      }
      context.translate(...corner);
      const [sx, sy] = [size[0] / view.width, size[1] / view.height];
      context.scale(sx, sy);
      for (const [path, stroke, dash] of lines) {
        const drawn = new Path2D();
        drawn.addPath(path, new DOMMatrix([sx, 0, 0, sy, 0, 0]));
        context.save();
        context.scale(1 / sx, 1 / sy);
        context.lineWidth = 1.2 * scale;
        context.strokeStyle = stroke;
        context.setLineDash(dash.map((d) => d * scale));
        context.stroke(drawn);
        context.restore();
      }
      if (cross && cross.checked && view.through >= 0) {
        const x = view.width - at[view.across] - 0.5, y = view.height - at[view.up] - 0.5;
        context.fillStyle = "#8fd0ff80";
        context.fillRect(0, y - 0.5 / sy, view.width, 1 / sy);
        context.fillRect(x - 0.5 / sx, 0, 1 / sx, view.height);
      }
      context.restore();
      if (mode === "side") {
        context.font = `${12 * scale}px sans-serif`;
        context.fillStyle = "#fff";
        context.fillText(names[name], number * panel[0] + 8 * scale, 16 * scale);
      }
    }
    if (view.through >= 0) {
      const [place, step] = places[view.through];
      view.output.textContent = `${Math.round(place + step * at[view.through])} mm, slice ${at[view.through] + 1} of ${shape[view.through]}`;
      view.slider.value = at[view.through];
    }
  };

  let asked = false;
  const redraw = () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; views.forEach(draw); });
  };

  const views = [...viewer.querySelectorAll(".view")].map((figure) => {
    const [across, up, through] = figure.dataset.axes.split(" ").map(Number);
    return {
      across, up, through, width: shape[across], height: shape[up], zoom: 1, middle: [0.5, 0.5],
      canvas: figure.querySelector("canvas"), slider: figure.querySelector(".slice"), output: figure.querySelector("output"),
    };
  });

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
  const slid = (axis, value) => { at[axis] = clamp(Math.round(value), 0, shape[axis] - 1); redraw(); };
  const panelOf = (view, event) => { // position of the pointer on its panel, as shares
    const box = view.canvas.getBoundingClientRect(), width = box.width / (viewer.dataset.mode === "side" ? 3 : 1);
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
      const step = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1 }[event.key];
      if (step && view.through >= 0) { slid(view.through, at[view.through] + step); event.preventDefault(); }
    });
  }

  const label = () => {
    const board = viewer.dataset.mode === "board";
    get("mix-from").textContent = board ? "small" : names[viewer.dataset.bottom];
    get("mix-to").textContent = board ? "large" : names[viewer.dataset.top];
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
      viewer.dataset.mode = input.value;
      mix.value = { curtain: 50, board: 25 }[input.value] || 100;
      label();
    });
  }
  for (const input of [mix, contours, masks, labels, cross]) if (input) input.addEventListener("input", redraw);

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
    for (const view of views) Object.assign(view, { zoom: 1, middle: [0.5, 0.5] });
    redraw();
  });

  const flicker = get("flicker");
  let timer = null;
  flicker.addEventListener("click", () => {
    flicker.setAttribute("aria-pressed", String(timer === null));
    if (timer !== null) { clearInterval(timer); timer = null; return; }
    viewer.querySelector("input[value=blend]").click();
    timer = setInterval(() => { mix.value = mix.value > 50 ? 0 : 100; mix.dispatchEvent(new Event("input")); }, 600);
  });

  (async () => {
    for (const image of viewer.querySelectorAll(".stack")) {
      volumes[image.dataset.name] = await unpacked(image);
      if (image.dataset.colors) colors[image.dataset.name] = JSON.parse(image.dataset.colors);
    }
    addEventListener("resize", redraw);
    label();
    viewer.dataset.ready = "yes";
  })();
})();
